"""How long what is left of an experiment will take: from finished folds, from running ones, else as stated."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.nnunet.finished import is_finished
from hippo_nnunet.training import recipes
from hippo_nnunet.training.schedule import schedule_for
from hippo_nnunet.workflow import estimate
from hippo_nnunet.workflow.training_progress import TrainingProgress, training_progress

MEASURED, RUNNING, SCALED, STATED, UNKNOWN = "measured", "running", "scaled", "stated", "unknown"
"""Where an expected time comes from: finished work of the kind; running work of the kind; the stated figure, scaled as
other trainings turned out; the stated figure alone; nowhere."""


@dataclass(frozen=True)
class Left:
    """Expected seconds that are left of one job, NaN where nobody knows, and where they come from."""

    seconds: float
    source: str


def progress_of(experiment: Experiment, cell: Cell, results: Path) -> TrainingProgress | None:
    """Return how far a training is; None where it has not begun, or has no log."""
    dim = 2 if cell.configuration == "2d" else 3
    epochs = schedule_for(recipes.parse(cell.trainer), dim).epochs
    return training_progress(experiment.result_folder(cell, results), epochs)


def trainings_left(
    experiment: Experiment, folder: Path, results: Path, device: str, running: Iterable[Cell]
) -> dict[Cell, Left]:
    """Return what is left of every training whose marker is missing.

    Args:
        experiment: What was asked.
        folder: The experiment's folder.
        results: `nnUNet_results`.
        device: `cpu`, `cuda`, `mps`; of another name, nothing is stated.
        running: The cells that train now.
    """
    missing = estimate.missing_trainings(experiment, folder, results, device)
    progress = {item.cell: progress_of(experiment, item.cell, results) for item in missing}
    alive = set(running)
    projected = {
        cell: state.epochs * state.epoch_seconds + estimate.OVERHEAD_S
        for cell, state in progress.items()
        if cell in alive and state is not None and not math.isnan(state.epoch_seconds)
    }
    ratio = _ratio(experiment, results, device, projected)
    left = {}
    for item in missing:
        whole = _whole(item, projected, ratio)
        state = progress[item.cell]
        if is_finished(experiment.result_folder(item.cell, results)):
            left[item.cell] = Left(0.0, MEASURED)
        elif state is None:
            left[item.cell] = whole
        elif item.cell in alive and (state.validating or item.cell in projected):
            left[item.cell] = Left(state.left_s() + estimate.OVERHEAD_S, RUNNING)
        elif item.cell in alive:
            left[item.cell] = Left(max(0.0, whole.seconds - state.since_s), whole.source)
        else:  # interrupted: a checkpoint holds nearly all of what was done
            to_train = (whole.seconds - estimate.OVERHEAD_S) * (1 - state.epoch / state.epochs)
            left[item.cell] = Left(to_train + estimate.OVERHEAD_S, whole.source)
    return left


def _whole(item: estimate.Expected, projected: Mapping[Cell, float], ratio: float | None) -> Left:
    """Return the seconds of a whole training."""
    if item.measured:
        return Left(item.seconds, MEASURED)
    alike = [seconds for cell, seconds in projected.items() if cell.configuration == item.cell.configuration]
    if alike:
        return Left(statistics.median(alike), RUNNING)
    if math.isnan(item.seconds):
        return Left(math.nan, UNKNOWN)
    return Left(item.seconds * ratio, SCALED) if ratio is not None else Left(item.seconds, STATED)


def _ratio(experiment: Experiment, results: Path, device: str, projected: Mapping[Cell, float]) -> float | None:
    """Return how much longer trainings took here than stated, or None where none is known."""
    known = dict(projected)
    for cell in experiment.cells():
        seconds = estimate.trained_seconds(experiment.result_folder(cell, results))
        if seconds is not None:
            known[cell] = seconds + estimate.OVERHEAD_S
    stated = {cell: estimate.stated_seconds(cell.trainer, cell.configuration, device) for cell in known}
    ratios = [seconds / of for cell, seconds in known.items() if (of := stated[cell])]
    return statistics.median(ratios) if ratios else None


def job_seconds(folder: Path, name: str) -> float | None:
    """Return the seconds that a finished job took, as Snakemake measured it; None where it did not.

    Args:
        folder: The experiment's folder.
        name: Path of the job's marker below `.done`: `predict/UNet`.
    """
    try:
        with (ExperimentPaths(folder).benchmarks / f"{name}.tsv").open(newline="") as rows:
            return float(next(csv.DictReader(rows, delimiter="\t"))["s"])
    except (OSError, StopIteration, KeyError, ValueError):
        return None


def other_left(folder: Path, name: str, running_s: float) -> Left:
    """Return what is left of a job that is no training: the median of those of its kind, less what it has run for."""
    kind = name.split("/")[0]
    benchmarks = ExperimentPaths(folder).benchmarks
    files = [benchmarks / f"{kind}.tsv", *sorted((benchmarks / kind).glob("*.tsv"))]
    names = [file.relative_to(benchmarks).with_suffix("").as_posix() for file in files]
    seconds = [taken for taken in (job_seconds(folder, other) for other in names) if taken is not None]
    if not seconds:
        return Left(math.nan, UNKNOWN)
    return Left(max(0.0, statistics.median(seconds) - running_s), MEASURED)


def together(trainings: Iterable[float], others: Iterable[float], parallel: int) -> float:
    """Return the expected seconds of everything; NaN where a training's are unknown.

    Args:
        trainings: Seconds left of each training.
        others: Seconds left of each other job; unknown ones (NaN) do not count.
        parallel: Trainings at the same time.
    """
    each = list(trainings)
    known = sum(seconds for seconds in others if not math.isnan(seconds))
    return max(sum(each) / parallel, max(each, default=0.0)) + known
