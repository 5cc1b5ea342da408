"""How long the remaining jobs will take: from finished folds, from running ones, else from stated figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hippo_nnunet.errors import DataError
from hippo_nnunet.experiment.benchmarks import benchmark_seconds
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_object
from hippo_nnunet.nnunet.finished import SUMMARY, is_finished
from hippo_nnunet.nnunet.training_log import TrainingProgress, read_progress
from hippo_nnunet.threads import cpu_count
from hippo_nnunet.training import recipes
from hippo_nnunet.training.precision_choice import requested_precision
from hippo_nnunet.training.schedule import schedule_for

OVERHEAD_S = 45.0
"""Start of the process, and validation of one fold of Task04 (44 cases)."""

SECONDS_PER_ITERATION = {
    ("fast", "float32"): {2: 0.25, 3: 0.6},
    ("fast", "bfloat16"): {2: 0.13, 3: 0.15},
    ("fast", "AMX"): {2: 0.11, 3: 0.21},
    ("fast", "cuda"): {2: 0.02, 3: 0.04},
    ("stock", "cpu"): {2: 9.0, 3: 9.0},
    ("stock", "cuda"): {2: 0.04, 3: 0.023},
}
"""Images of Task04's size, two CPU cores (by `cpu_kind`) or one A100; coarse, and only used until a fold was measured.

Source: ours; `results/task04-laptop` (float32), `results/task04-three` (bfloat16), experiments/README.md (AMX).
"""

ONE_THREAD = {2: 1.3, 3: 1.9}
"""How many times as long a training of the short schedule takes with one thread, while the other core trains as well.

Source: as above; the same with AVX-512 (`results/task04-recipe`) and with AMX.
"""

TAUGHT = 1.5
"""How many times as long a training with two teachers takes. Source: experiments/README.md."""

MEASURED, RUNNING, SCALED, STATED, UNKNOWN = "measured", "running", "scaled", "stated", "unknown"
"""Where an expected time comes from: finished jobs of the kind; running jobs of the kind; the stated figure, scaled by
how other trainings turned out; the stated figure alone; nowhere."""


@dataclass(frozen=True)
class Remaining:
    """What is left of one job.

    Attributes:
        seconds: Expected; NaN if unknown.
        source: Where they come from.
        progress: How far a training is; None if it has not begun, has no log, or for other jobs.
    """

    seconds: float
    source: str
    progress: TrainingProgress | None = None


def missing_trainings(experiment: Experiment, folder: Path) -> list[Cell]:
    """Return the cells of an experiment whose marker is missing."""
    return [cell for cell in experiment.cells() if not (folder / cell.marker).exists()]


def stated_seconds(trainer: str, configuration: str, device: str, parallel: int = 1) -> float | None:
    """Return the coarse estimate of a training: its iterations times the seconds of one; None on other devices.

    `parallel` is the number of trainings that share this machine's cores.
    """
    recipe, dim = recipes.parse(trainer), _dim(configuration)
    kind = cpu_kind() if device == "cpu" and recipe.fast else device
    per_dim = SECONDS_PER_ITERATION.get(("fast" if recipe.fast else "stock", kind))
    if per_dim is None:
        return None
    schedule = schedule_for(recipe, dim)
    one_thread = device == "cpu" and recipe.fast and parallel > 1 and cpu_count() < 2 * parallel
    slower = (ONE_THREAD[dim] if one_thread else 1.0) * (TAUGHT if recipe.taught else 1.0)
    return schedule.epochs * schedule.iterations * per_dim[dim] * slower + OVERHEAD_S


@lru_cache(maxsize=1)
def cpu_kind() -> str:
    """Return how this machine trains on its CPU: in `float32`, in `bfloat16`, or in bfloat16 with `AMX`.

    As `training.precision` decides, without torch; the instructions are known on Linux only.
    """
    if requested_precision() == "float32":
        return "float32"
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return "float32"
    return "AMX" if "amx_bf16" in flags else "bfloat16" if "avx512_bf16" in flags else "float32"


def sharing(parallel: int, profile: str) -> int:
    """Return how many of the trainings at the same time share this machine's cores: on a cluster each has its own."""
    return parallel if profile == "local" else 1


def remaining_trainings(
    experiment: Experiment,
    cells: Collection[Cell],
    results: Path,
    device: str,
    running: Collection[Cell] = (),
    parallel: int = 1,
) -> dict[Cell, Remaining]:
    """Return what is left of trainings.

    Args:
        experiment: The request.
        cells: The trainings that are not done.
        results: `nnUNet_results`.
        device: `cpu`, `cuda`, `mps`; there are stated figures for the first two.
        running: Those of the cells that train now.
        parallel: Trainings at the same time on this machine.

    Returns:
        For each, the median of the finished folds of the same variant and configuration, else of the same
        configuration, else of the running ones of the same configuration, else the stated figure; less what is done
        already.
    """
    progress = {
        cell: read_progress(
            experiment.result_folder(cell, results),
            schedule_for(recipes.parse(cell.trainer), _dim(cell.configuration)).epochs,
        )
        for cell in cells
    }
    projected = {
        cell: state.epochs * state.epoch_seconds + OVERHEAD_S
        for cell in running
        if (state := progress.get(cell)) is not None and not math.isnan(state.epoch_seconds)
    }
    measured = {
        cell: seconds + OVERHEAD_S
        for cell in experiment.cells()
        if (seconds := _trained_seconds(experiment.result_folder(cell, results))) is not None
    }
    stated = {cell: stated_seconds(cell.trainer, cell.configuration, device, parallel) for cell in experiment.cells()}
    ratios = [seconds / of for cell, seconds in {**projected, **measured}.items() if (of := stated[cell])]

    def whole(cell: Cell) -> Remaining:
        same = [s for c, s in measured.items() if (c.variant, c.configuration) == (cell.variant, cell.configuration)]
        seconds = same or _of_configuration(measured, cell)
        if seconds:
            return Remaining(statistics.median(seconds), MEASURED)
        if seconds := _of_configuration(projected, cell):
            return Remaining(statistics.median(seconds), RUNNING)
        figure = stated[cell]
        if figure is None:
            return Remaining(math.nan, UNKNOWN)
        return Remaining(figure * statistics.median(ratios), SCALED) if ratios else Remaining(figure, STATED)

    def left(cell: Cell, state: TrainingProgress | None) -> Remaining:
        if is_finished(experiment.result_folder(cell, results)):
            return Remaining(0.0, MEASURED, state)
        total = whole(cell)
        if state is None:
            return total
        if cell not in running:  # interrupted: a checkpoint holds nearly all of what was done
            to_train = (total.seconds - OVERHEAD_S) * (1 - state.epoch / state.epochs)
            return Remaining(to_train + OVERHEAD_S, total.source, state)
        if state.validating or cell in projected:
            return Remaining(state.left_s() + OVERHEAD_S, RUNNING, state)
        return Remaining(max(0.0, total.seconds - state.since_s), total.source, state)

    return {cell: left(cell, state) for cell, state in progress.items()}


def _dim(configuration: str) -> int:
    return 2 if configuration == "2d" else 3


def _trained_seconds(fold_folder: Path) -> float | None:
    """Return how long a finished fold was trained; None if that is not recorded."""
    try:
        return float(read_object(fold_folder / SUMMARY)["trained_seconds"])
    except (DataError, KeyError, TypeError, ValueError):
        return None


def _of_configuration(seconds: Mapping[Cell, float], cell: Cell) -> list[float]:
    return [value for other, value in seconds.items() if other.configuration == cell.configuration]


def job_seconds(folder: Path, name: str) -> float | None:
    """Return how long a finished job took, as Snakemake measured it; None where it did not.

    Args:
        folder: The experiment's folder.
        name: Path of the job's marker below `.done`: `predict/UNet`.
    """
    try:
        return benchmark_seconds(ExperimentPaths(folder).benchmarks / f"{name}.tsv")
    except DataError:
        return None


def remaining_of_job(folder: Path, name: str, running_s: float) -> Remaining:
    """Return the remaining seconds of a job that is not a training: the median of its kind minus its running time."""
    kind = name.split("/")[0]
    names = [
        kind,
        *(f"{kind}/{file.stem}" for file in sorted((ExperimentPaths(folder).benchmarks / kind).glob("*.tsv"))),
    ]
    seconds = [taken for taken in (job_seconds(folder, other) for other in names) if taken is not None]
    if not seconds:
        return Remaining(math.nan, UNKNOWN)
    return Remaining(max(0.0, statistics.median(seconds) - running_s), MEASURED)


def wall_clock_seconds(trainings: Iterable[float], parallel: int, others: Iterable[float] = ()) -> float:
    """Return the expected seconds until everything is done; NaN where those of a training are unknown.

    Args:
        trainings: Remaining seconds of each training.
        parallel: Trainings at the same time.
        others: Remaining seconds of each other job; unknown ones (NaN) do not count.
    """
    each = list(trainings)
    known = sum(seconds for seconds in others if not math.isnan(seconds))
    return max(sum(each) / parallel, max(each, default=0.0)) + known
