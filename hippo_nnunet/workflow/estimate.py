"""How long the trainings that are still missing will take."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.errors import DataError
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.files import read_json
from hippo_nnunet.nnunet.finished import SUMMARY

OVERHEAD_S = 45.0
"""Start of the process, and validation of one fold of Task04 (44 cases)."""

SECONDS_PER_ITERATION = {
    ("fast", "cpu"): {2: 0.25, 3: 0.6},
    ("fast", "cuda"): {2: 0.02, 3: 0.04},
    ("stock", "cpu"): {2: 9.0, 3: 9.0},
    ("stock", "cuda"): {2: 0.04, 3: 0.023},
}
"""Task04's size of data, two CPU cores or one A100; coarse, and only used until a fold was measured. Source: ours.

On a CPU in float32: bfloat16, where the processor multiplies in it, takes about half."""


@dataclass(frozen=True)
class Expected:
    """Expected seconds of one missing training, and whether that was measured in this experiment."""

    cell: Cell
    seconds: float
    measured: bool


def trained_seconds(fold_folder: Path) -> float | None:
    """Return the seconds that a finished fold trained for; None where it is not recorded."""
    try:
        return float(read_json(fold_folder / SUMMARY)["trained_seconds"])
    except (DataError, KeyError, TypeError, ValueError):
        return None


def stated_seconds(trainer: str, configuration: str, device: str) -> float | None:
    """Return the coarse estimate of a training: its iterations times what one takes on such a device."""
    from hippo_nnunet.training.recipes import parse
    from hippo_nnunet.training.schedule import schedule_for

    recipe = parse(trainer)
    dim = 2 if configuration == "2d" else 3
    per_device = SECONDS_PER_ITERATION.get(("fast" if recipe.fast else "stock", device))
    if per_device is None:
        return None
    schedule = schedule_for(recipe, dim)
    return schedule.epochs * schedule.iterations * per_device[dim] + OVERHEAD_S


def missing_trainings(experiment: Experiment, folder: Path, results: Path, device: str) -> list[Expected]:
    """Return the trainings whose marker is missing, with their expected time.

    Args:
        experiment: What was asked.
        folder: The experiment's folder.
        results: `nnUNet_results`.
        device: `cpu`, `cuda` or `mps`.

    Returns:
        For each the median of the finished folds of the same variant and configuration, else of the same
        configuration, else the stated estimate; NaN where there is none for the device.
    """
    measured: dict[Cell, float] = {}
    for cell in experiment.cells():
        seconds = trained_seconds(experiment.result_folder(cell, results))
        if seconds is not None:
            measured[cell] = seconds + OVERHEAD_S
    expected = []
    for cell in experiment.cells():
        if (folder / cell.marker).exists():
            continue
        alike = [s for c, s in measured.items() if c.configuration == cell.configuration]
        same = [s for c, s in measured.items() if (c.variant, c.configuration) == (cell.variant, cell.configuration)]
        if same or alike:
            expected.append(Expected(cell, statistics.median(same or alike), True))
        else:
            stated = stated_seconds(cell.trainer, cell.configuration, device)
            expected.append(Expected(cell, float("nan") if stated is None else stated, False))
    return expected
