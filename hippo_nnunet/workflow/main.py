"""`run` from its options to what it prints."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.request import Request, resolve
from hippo_nnunet.experiment.subjects import check_subjects, check_subsets
from hippo_nnunet.files import read_json
from hippo_nnunet.nnunet.api import limit_processes, resolve_device
from hippo_nnunet.nnunet.paths import FOLDER_VARIABLES, activate, at_home
from hippo_nnunet.progress import duration
from hippo_nnunet.workflow import launch
from hippo_nnunet.workflow.estimate import (
    Remaining,
    cpu_kind,
    missing_trainings,
    remaining_trainings,
    sharing,
    wall_clock_seconds,
)
from hippo_nnunet.workflow.preparation import check_folder

log = logging.getLogger(__name__)


def perform(
    folder: Path, request: Request, root: Path | None, settings: launch.Settings, dry_run: bool
) -> Iterator[Table | str]:
    """Run an experiment, or describe what would be done.

    Args:
        folder: The experiment's folder.
        request: What is requested.
        root: See `ExperimentPaths.nnunet`.
        settings: How to run it.
        dry_run: Change nothing, and say what would be done.

    Yields:
        What to print, in order.

    Raises:
        HippoError: A wrong request, or a job that failed; see `resolve` and `run_experiment`.
    """
    folder = at_home(folder).absolute()
    folders = ExperimentPaths(folder).nnunet(root)
    if settings.profile == "local":  # a cluster's nodes have other CPUs than this machine
        limit_processes()
    on_node = settings.device == "auto" and settings.profile != "local"
    here = "auto" if on_node else resolve_device(settings.device)
    experiment = resolve(request, folder, folders, "cuda" if here == "auto" else here)  # clusters have GPUs
    subjects = check_subjects(experiment, folders, folder, request.subjects, request.task)
    check_subsets(experiment, folders, folder, subjects, request.task)
    settings = replace(settings, device=here, subjects=subjects)
    missing = missing_trainings(experiment, folder)
    shared = sharing(settings.parallel, settings.profile)
    left = remaining_trainings(experiment, missing, folders.results, here, parallel=shared)
    seconds = wall_clock_seconds((item.seconds for item in left.values()), settings.parallel)
    if dry_run:
        yield launch.dry_run(experiment, folder, folders, settings)
        if left:
            yield _trainings_table(left)
        unknown = " (no estimate for this device)" if math.isnan(seconds) else ""
        how = f" ({cpu_kind()})" if here == "cpu" else ""
        yield f"expected time of training on {here}{how}: {duration(seconds)}{unknown}"
        return
    check_folder(folder)
    os.environ.update(
        zip(FOLDER_VARIABLES, map(str, (folders.raw, folders.preprocessed, folders.results)), strict=True)
    )
    activate(None)
    log.info("%s on %s: about %s of training", folder, here, duration(seconds))
    launch.run_experiment(experiment, folder, folders, settings)
    yield _results_table(experiment, folder)
    yield "\n".join(_notes(experiment, folder, folders.results))


def _trainings_table(left: Mapping[Cell, Remaining]) -> Table:
    """Build the table of the missing trainings, with their expected time."""
    table = Table(title="trainings to do")
    for column in ("variant", "configuration", "fold", "trainer", "expected", "from"):
        table.add_column(column)
    for cell, item in left.items():
        expected = duration(item.seconds)
        table.add_row(cell.variant, cell.configuration, str(cell.fold), cell.trainer, expected, item.source)
    return table


def _results_table(experiment: Experiment, folder: Path) -> Table:
    """Build the table of the cross-validated results from `metrics/summary.json`.

    A row for each variant and configuration, and one for the ensemble: folds, cases, foreground means over cases, and
    Dice of each label.
    """
    summary = read_json(ExperimentPaths(folder).summary)
    labels = list(next(iter(next(iter(summary.values())).values()))["labels"])
    table = Table(title=f"{experiment.dataset}, {experiment.plans}, out of fold, mean over cases")
    for column in ("variant", "configuration"):
        table.add_column(column)
    headings = [quality.heading for quality in QUALITY.values()]
    for column in ("folds", "cases", *headings, *(f"Dice {label}" for label in labels)):
        table.add_column(column, justify="right")
    for variant, configurations in summary.items():
        for configuration, entry in configurations.items():
            foreground = [_number(entry["foreground_mean"][metric]["mean"]) for metric in QUALITY]
            per_label = [_number(entry["labels"].get(label, {}).get("dice", {}).get("mean")) for label in labels]
            counts = (str(len(entry["folds"])), str(entry["cases"]))
            table.add_row(variant, configuration, *counts, *foreground, *per_label, end_section=variant == ENSEMBLE)
    return table


def _notes(experiment: Experiment, folder: Path, results: Path) -> list[str]:
    """Return lines that say how to read the table, and where the results are."""
    lines = [
        f"{configuration}: only fold {','.join(map(str, folds))} of {experiment.number_of_folds}: "
        "trained and evaluated, but left out of the ensemble"
        for configuration, folds in experiment.folds.items()
        if not experiment.complete(configuration)
    ]
    paths = ExperimentPaths(folder)
    if paths.choice.is_file():
        choice = read_json(paths.choice)
        lines.append(f"ensemble: {' + '.join(choice['members'])}, postprocessing {choice['postprocessing']}")
        what = "over the best single model with the same postprocessing, by nested selection"
        lines.append(f"  gain {what}: {_gain(choice.get('gain'))} Dice")
        for control in choice.get("seed_gains", ()):
            lines.append(f"  control, {' + '.join(control['members'])} over their mean: {_gain(control)} Dice")
    places = {
        "report": paths.report,
        "metrics": paths.per_case,
        "test predictions": paths.predictions,
        "submission": paths.submission(experiment.task),
        "manifest": paths.manifest,
        "logs": paths.logs,
        "trained models": results / experiment.dataset,
    }
    return [*lines, *(f"{what}: {where}" for what, where in places.items() if where.exists())]


def _gain(gain: Mapping[str, Any] | None) -> str:
    """Format a gain of the ensemble, None with one fold, with its interval, which too few subjects do not have."""
    if gain is None:
        return "-"
    interval = "" if gain["low"] is None else f" (95 % {gain['low']:+.4f} to {gain['high']:+.4f})"
    return f"{gain['dice']:+.4f}{interval}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
