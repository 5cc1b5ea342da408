"""The tables that `run` prints: results, and what a dry run would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_json
from hippo_nnunet.progress import duration
from hippo_nnunet.workflow.estimate import Expected

METRICS = {"dice": "Dice", "nsd_1mm": "NSD 1 mm", "hd95_mm": "HD95 mm", "assd_mm": "ASSD mm"}


def results_table(experiment: Experiment, folder: Path) -> Table:
    """Build the table of the cross-validated results from `metrics/summary.json`.

    Args:
        experiment: What was asked.
        folder: The experiment's folder.

    Returns:
        A row for each variant and configuration, and one for the ensemble: folds, cases, foreground means over cases,
        and Dice of each label.

    Raises:
        DataError: There is no summary.
    """
    summary = read_json(ExperimentPaths(folder).summary)
    labels = list(next(iter(next(iter(summary.values())).values()))["labels"])
    table = Table(title=f"{experiment.dataset}, {experiment.plans}, out of fold, mean over cases")
    for column in ("variant", "configuration"):
        table.add_column(column)
    for column in ("folds", "cases", *METRICS.values(), *(f"Dice {label}" for label in labels)):
        table.add_column(column, justify="right")
    for variant, configurations in summary.items():
        for configuration, entry in configurations.items():
            foreground = [_number(entry["foreground_mean"][metric]["mean"]) for metric in METRICS]
            per_label = [_number(entry["labels"].get(label, {}).get("dice", {}).get("mean")) for label in labels]
            counts = (str(len(entry["folds"])), str(entry["cases"]))
            table.add_row(variant, configuration, *counts, *foreground, *per_label, end_section=variant == ENSEMBLE)
    return table


def notes(experiment: Experiment, folder: Path, results: Path) -> list[str]:
    """Return lines that say how to read the table, and where everything lies."""
    lines = []
    for configuration, folds in experiment.folds.items():
        if not experiment.complete(configuration):
            chosen = ",".join(map(str, folds))
            lines.append(
                f"{configuration}: only fold {chosen} of {experiment.number_of_folds}: "
                "trained and evaluated, but left out of the ensemble"
            )
    paths = ExperimentPaths(folder)
    if paths.choice.is_file():
        choice = read_json(paths.choice)
        lines.append(f"ensemble: {' + '.join(choice['members'])}, postprocessing {choice['postprocessing']}")
        lines.append(
            f"  gain over the best single model by nested selection: {_number(choice['nested_gain'], '+.4f')} Dice"
        )
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


def plan_table(expected: list[Expected]) -> Table:
    """Build the table of the trainings that are missing, with their expected time."""
    table = Table(title="trainings to do")
    for column in ("variant", "configuration", "fold", "trainer", "expected", "from"):
        table.add_column(column)
    for item in expected:
        source = "measured" if item.measured else "stated"
        cell = item.cell
        fold = str(cell.fold)
        table.add_row(cell.variant, cell.configuration, fold, cell.trainer, duration(item.seconds), source)
    return table


def _number(value: Any, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)
