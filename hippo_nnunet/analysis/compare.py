"""The comparison of a whole experiment: its metrics, times, and the notebooks' score of the same predictions."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hippo_nnunet.analysis.fold_records import fold_records, precision_notes, trained_seconds
from hippo_nnunet.analysis.notebook_scores import (
    in_order,
    kept_scores,
    measured_scores,
    no_score,
    ranked_differently,
    score_column,
)
from hippo_nnunet.analysis.prediction_times import prediction_times, seconds_per_image
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.comparison import Comparison, Options, compare
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.evaluation.published import read_published
from hippo_nnunet.evaluation.side_by_side import MEAN
from hippo_nnunet.evaluation.wording import sentence
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_object, write_table
from hippo_nnunet.nnunet.paths import NnunetFolders

if TYPE_CHECKING:
    from hippo_nnunet.analysis.volumes import VolumeChecks


def compare_experiment(
    folder: Path, options: Options, against: Path | None = None, root: Path | None = None
) -> Comparison:
    """Compare the models of an experiment.

    Args:
        folder: The experiment's folder. What it lacks beside `metrics/per_case.csv` is missing in the result, and
            named in its notes.
        options: How to compare; `number_of_folds` comes from the experiment.
        against: File of published Dice: see `read_published`.
        root: nnU-Net's root folder, which wins over its variables; None: its variables, else `nnunet` in the folder.

    Returns:
        The comparison; in its `models`, rows of scope MEAN also have `notebook_dice`, `trained_seconds` (mean of a
        fold) and `predict_seconds` (of a test image: see `seconds_per_image`).

    Raises:
        ConfigError: See `compare`; or there is no such folder.
        DataError: The metrics are missing or unsound, or the published file is.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the folder of an experiment")
    paths = ExperimentPaths(folder)
    table = read_per_case(paths.per_case)
    labels, cases = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table["case"]))
    published = read_published(against, labels, cases) if against else None
    experiment = Experiment.load(paths.request) if paths.request.is_file() else None
    if experiment is not None:
        options = replace(options, number_of_folds=experiment.number_of_folds)
    comparison = compare(table, options, published)
    if experiment is None:
        text = f"{paths.request.name} is missing: no times, and no score of the notebooks' protocol."
        note = Note(NoteKind.NO_REQUEST, text)
        return replace(comparison, notes=(*comparison.notes, note))
    folders = paths.nnunet(root)
    records = fold_records(experiment, folder, folders)
    seconds, notes = trained_seconds(records)
    notes += precision_notes(records)
    models = comparison.models
    over_labels = models["scope"] == MEAN
    extra = {
        "trained_seconds": seconds,
        "predict_seconds": seconds_per_image(prediction_times(experiment, folder), notes),
    }
    for column, values in extra.items():
        found = [
            values.get((variant, configuration), np.nan)
            for variant, configuration in models[["variant", "configuration"]].itertuples(index=False)
        ]
        models[column] = pd.Series(found, index=models.index, dtype=float).where(over_labels)
    scores, without = notebook_scores(experiment, folder, folders, table)
    models["notebook_dice"] = score_column(scores, models)
    notes += [*without, *ranked_differently(models)]
    return replace(comparison, models=models, notes=(*comparison.notes, *notes))


def write_comparison(comparison: Comparison, folder: Path) -> Path | None:
    """Write `metrics/volumetry.csv` and `metrics/comparison.csv` atomically, in the place of older ones.

    Returns:
        The file of the comparison; None where there is no pair to write.

    Raises:
        DataError: One cannot be written.
    """
    paths = ExperimentPaths(folder)
    write_table(comparison.volumes, paths.volumetry)
    return None if comparison.pairs.empty else write_table(comparison.pairs, paths.comparison)


def keep_scores_and_times(folder: Path, root: Path | None = None) -> None:
    """Write `metrics/notebook_dice.csv` and `metrics/prediction_times.csv`, as far as masks and benchmarks are there.

    Scores that are kept already stay. Where there is no experiment, nothing is written.

    Args:
        folder: The experiment's folder.
        root: See `compare_experiment`.

    Raises:
        DataError: The metrics are missing or unsound, or a file cannot be written.
    """
    paths = ExperimentPaths(folder)
    if not paths.request.is_file():
        return
    experiment = Experiment.load(paths.request)
    folders = paths.nnunet(root)
    scores, _ = notebook_scores(experiment, folder, folders, read_per_case(paths.per_case))
    times = prediction_times(experiment, folder)
    for table, path in ((scores.round(6), paths.notebook_dice), (times, paths.prediction_times)):
        if not table.empty:
            write_table(table, path)


def as_json(comparison: Comparison, checks: VolumeChecks | None = None) -> str:
    """Return everything as JSON: options, tables as lists of rows, sentences and notes; null where undefined.

    Args:
        comparison: What to return.
        checks: Of `check_volumes`; None leaves `volume_checks` out.
    """
    content: dict[str, Any] = {
        "options": {**asdict(comparison.options), "rope": comparison.options.margin},
        **{name: _rows(getattr(comparison, name)) for name in ("models", "pairs", "ranks", "volumes")},
        "sentences": [sentence(row) for row in comparison.pairs.to_dict("records")],
        "notes": [note.text for note in comparison.notes],
    }
    if checks is not None:
        tables = {name: _rows(getattr(checks, name)) for name in ("agreement", "coverage", "flags")}
        content["volume_checks"] = {"level": checks.level, "cases": checks.cases, **tables, "notes": checks.notes}
    return json.dumps(content, indent=1, allow_nan=False)


def prediction_files(
    experiment: Experiment, folder: Path, folders: NnunetFolders, table: pd.DataFrame, ending: str
) -> dict[tuple[str, str], dict[str, Path]]:
    """Name the out-of-fold segmentation of every case of every variant in the table of metrics.

    Args:
        experiment: What was asked.
        folder: The experiment's folder.
        folders: nnU-Net's folders.
        table: Of `read_per_case`.
        ending: File ending of the segmentations.

    Returns:
        (variant, configuration) to case to file; nobody has looked whether the files exist.
    """
    files: dict[tuple[str, str], dict[str, Path]] = {}
    columns = table[["variant", "configuration", "fold", "case"]].drop_duplicates()
    for variant, configuration, fold, case in columns.itertuples(index=False):
        if variant == ENSEMBLE:
            place = ExperimentPaths(folder).out_of_fold
        else:
            cell = Cell(variant, experiment.trainer(variant), configuration, int(fold))
            place = experiment.result_folder(cell, folders.results) / "validation"
        files.setdefault((variant, configuration), {})[case] = place / f"{case}{ending}"
    return files


def notebook_scores(
    experiment: Experiment, folder: Path, folders: NnunetFolders, table: pd.DataFrame, again: bool = False
) -> tuple[pd.DataFrame, list[Note]]:
    """Score every out-of-fold case by the notebooks' protocol.

    Args:
        experiment: What was asked.
        folder: The experiment's folder.
        folders: nnU-Net's folders.
        table: Of `read_per_case`.
        again: Measure also what the folder keeps: the masks are new.

    Returns:
        A row for each case, variant and configuration, with the columns of `metrics/notebook_dice.csv`: kept ones, else
        measured on the masks; and for every model that has no score, why not.

    Raises:
        DataError: The kept scores cannot be read.
    """
    kept = kept_scores(folder, table.head(0) if again else table)
    models = kept[["variant", "configuration"]].drop_duplicates().itertuples(index=False, name=None)
    done = {(str(variant), str(configuration)) for variant, configuration in models}
    if done >= set(table[["variant", "configuration"]].itertuples(index=False, name=None)):
        return kept, []
    preprocessed = folders.preprocessed / experiment.dataset
    try:
        dataset = read_object(preprocessed / "dataset.json")
        labels, ending = dict(dataset["labels"]), str(dataset["file_ending"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        return kept, [no_score(f": {error}.")]
    if "ignore" in labels or sorted(map(str, labels.values())) != sorted(map(str, range(len(labels)))):
        return kept, [no_score(": it is defined for plain labels 0, 1, 2, ... only.")]
    files = prediction_files(experiment, folder, folders, table, ending)
    wanted = {model: masks for model, masks in files.items() if model not in done}
    measured, notes = measured_scores(wanted, preprocessed / "gt_segmentations", ending, len(labels), table)
    return in_order(pd.concat([part for part in (kept, measured) if len(part)] or [kept]), table), notes


def _rows(table: pd.DataFrame) -> Any:
    return json.loads(table.to_json(orient="records"))
