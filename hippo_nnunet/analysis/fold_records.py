"""What an experiment records about its trained folds: their training time and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import Model, recipe_of
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_object
from hippo_nnunet.nnunet.finished import SUMMARY
from hippo_nnunet.nnunet.paths import NnunetFolders

FoldRecords = Mapping[Cell, Mapping[str, Any]]
"""The content of each fold's `hippo_training.json`; empty if there is none."""


def fold_records(experiment: Experiment, folder: Path, folders: NnunetFolders) -> FoldRecords:
    """Read the records of all folds from the manifest, or else from nnU-Net's folders.

    Raises:
        DataError: The manifest or a fold's record cannot be read.
    """
    manifest = ExperimentPaths(folder).manifest
    try:
        entries = read_object(manifest)["folds"] if manifest.is_file() else []
        listed = {(entry["variant"], entry["configuration"], entry["fold"]): entry for entry in entries}
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{manifest} lists no folds of an experiment ({type(error).__name__}: {error}); delete it, and recreate it "
            "with 'hippo-nnunet run'"
        ) from error

    def record(cell: Cell) -> Mapping[str, Any]:
        path = experiment.result_folder(cell, folders.results) / SUMMARY
        entry: Mapping[str, Any] | None = listed.get((cell.variant, cell.configuration, cell.fold))
        return entry or (read_object(path) if path.is_file() else {})

    return {cell: record(cell) for cell in experiment.cells()}


def trained_seconds(records: FoldRecords) -> tuple[dict[tuple[str, str], float], list[Note]]:
    """Return the mean training time of a fold by recipe and configuration, and a note for each that has none."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for cell, record in records.items():
        known = seconds.setdefault((recipe_of(cell.variant), cell.configuration), [])
        if isinstance(record.get("trained_seconds"), int | float):
            known.append(float(record["trained_seconds"]))
    notes = [
        Note(NoteKind.TRAINING_TIME, f"No training time is recorded for {' '.join(model)}.")
        for model, known in sorted(seconds.items())
        if not known
    ]
    return {model: fmean(known) for model, known in seconds.items() if known}, notes


def with_training_cases(curve: pd.DataFrame, records: FoldRecords) -> pd.DataFrame:
    """Add on how many cases the models of a learning curve were trained.

    Args:
        curve: Of `learning_curve`.
        records: Of `fold_records`; empty if there is no experiment.

    Returns:
        The curve with `cases`, `cases_min` and `cases_max`: mean, smallest and largest number of the trainings; where
        it is not recorded, the number that was asked for, which is NaN for all cases.
    """
    trained: dict[tuple[str, str, int], list[int]] = {}
    for cell, record in records.items():
        if isinstance(count := record.get("training_cases"), int):
            model = Model(recipe_of(cell.variant), cell.configuration)
            trained.setdefault((model.full_recipe, model.configuration, model.size or 0), []).append(count)

    def counts(row: Mapping[Any, Any]) -> Sequence[float]:
        size = 0 if pd.isna(row["size"]) else int(row["size"])
        return trained.get((row["variant"], row["configuration"], size), [row["size"]])

    of_rows = [counts(row) for row in curve.to_dict("records")]
    return curve.assign(
        cases=[fmean(own) for own in of_rows],
        cases_min=[min(own) for own in of_rows],
        cases_max=[max(own) for own in of_rows],
    )


def precision_notes(records: FoldRecords) -> list[Note]:
    """Return a note where folds were trained in different precisions; folds without a record do not count."""
    several = len({cell.configuration for cell in records}) > 1
    precisions: dict[str, set[str]] = {}
    for cell, record in records.items():
        if isinstance(precision := record.get("precision"), str):
            name = recipe_of(cell.variant) + f" {cell.configuration}" * several
            precisions.setdefault(name, set()).add(precision)
    if len(set().union(*precisions.values())) < 2:
        return []
    trained = [f"{name} in {' and '.join(sorted(found))}" for name, found in precisions.items()]
    first = trained[0].replace(" in ", " was trained in ", 1)
    return [Note(NoteKind.PRECISION, f"{', '.join([first, *trained[1:]])}: the difference may come from that.")]
