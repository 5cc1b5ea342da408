"""The comparison of a whole experiment: its metrics, times, and the notebooks' score of the same predictions."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.analysis.fold_records import fold_records, precision_notes, trained_seconds, with_training_cases
from hippo_nnunet.analysis.notebook_scores import notebook_scores, ranked_differently, score_column
from hippo_nnunet.analysis.prediction_times import prediction_times, seconds_per_image
from hippo_nnunet.analysis.verdicts import judge, verdict_sentence
from hippo_nnunet.analysis.volumes import VolumeChecks, save_volumes
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.comparison import Comparison, Options, compare
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import recipe_of
from hippo_nnunet.evaluation.per_case import read_per_case, read_published, score_empty
from hippo_nnunet.evaluation.side_by_side import full_rows
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.subjects import load_subjects
from hippo_nnunet.files import json_values, read_csv, read_object, read_table, write_table
from hippo_nnunet.nnunet.paths import NnunetFolders

log = logging.getLogger(__name__)


def compare_experiment(
    folder: Path, options: Options, against: Path | None = None, root: Path | None = None, notebook: bool = True
) -> Comparison:
    """Compare the models of an experiment.

    Args:
        folder: The experiment's folder. What it lacks beside `metrics/per_case.csv` is missing in the result, and
            named in its notes.
        options: How to compare; `number_of_folds` comes from the experiment.
        against: File of published Dice, or the folder of another experiment: see `read_published` and
            `other_experiment`.
        root: See `ExperimentPaths.nnunet`.
        notebook: Whether to give the notebooks' score, for which masks are read unless it is saved.

    Returns:
        The comparison, as `judge` leaves it; in its `models`, rows of scope MEAN also have `notebook_dice`,
        `trained_seconds` (mean of a fold) and `predict_seconds` (of a test image: see `seconds_per_image`), and its
        `curve` has the columns of `with_training_cases`.

    Raises:
        ConfigError: See `compare`; or there is no such folder.
        DataError: The metrics are missing or invalid, or the published file is.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the folder of an experiment")
    paths = ExperimentPaths(folder)
    table = read_per_case(paths.per_case)
    labels, cases = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table["case"]))
    published = None
    if against is not None:
        published = (other_experiment if against.is_dir() else read_published)(against, labels, cases)
    experiment = Experiment.load(paths.request) if paths.request.is_file() else None
    if experiment is not None:
        options = replace(options, number_of_folds=experiment.number_of_folds)
    folders = paths.nnunet(root)
    records = fold_records(experiment, folder, folders) if experiment else {}
    comparison = judge(compare(table, options, published, load_subjects(folder, cases)), table, records)
    comparison = replace(comparison, curve=with_training_cases(comparison.curve, records))
    if experiment is None:
        text = f"{paths.request.name} is missing: no times, and no score of the notebooks' protocol."
        note = Note(NoteKind.NO_REQUEST, text)
        return replace(comparison, notes=(*comparison.notes, note))
    models = comparison.models
    trained, training_notes = trained_seconds(records)
    predicted, prediction_notes = seconds_per_image(prediction_times(experiment, folder))
    names = [tuple(row) for row in models[["variant", "configuration"]].itertuples(index=False)]
    for column, seconds in (("trained_seconds", trained), ("predict_seconds", predicted)):
        values = pd.Series([seconds.get(name, np.nan) for name in names], index=models.index, dtype=float)
        models[column] = values.where(models["scope"] == MEAN)
    notes = [*training_notes, *precision_notes(records), *prediction_notes]
    if notebook:
        scores, score_notes = notebook_scores(experiment, folder, folders, table)
        models["notebook_dice"] = score_column(scores, models)
        notes += [*score_notes, *ranked_differently(full_rows(models))]
    return replace(comparison, models=models, notes=(*comparison.notes, *notes))


def other_experiment(folder: Path, labels: Sequence[str], cases: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Read another experiment's Dice as that of published methods: each recipe and configuration, trainings averaged.

    Args:
        folder: Its folder.
        labels: Labels of the experiment that is compared with it.
        cases: Its cases.

    Returns:
        `<folder>: <recipe> <configuration>` to a table with a row for each case and a column for each label.

    Raises:
        DataError: The metrics are missing or invalid, a label is missing, or no case is one of `cases`.
    """
    path = ExperimentPaths(folder).per_case
    table = score_empty(read_per_case(path))
    missing = [label for label in labels if label not in set(table["label"])]
    if missing or not table["case"].isin(cases).any():
        what = f"no label {missing[0]}" if missing else "none of the experiment's cases"
        raise DataError(f"{path}: holds {what}: name an experiment with the same data")
    recipes = table["variant"].map(recipe_of)
    return {
        f"{folder.resolve().name}: {recipe} {configuration}": rows.pivot_table("dice", "case", "label")[list(labels)]
        for (recipe, configuration), rows in table.groupby([recipes, "configuration"], sort=False)
    }


def read_choice(folder: Path) -> dict[str, Any] | None:
    """Return the content of `ensemble/choice.json`; None where an experiment has no ensemble.

    Raises:
        DataError: It cannot be read.
    """
    path = ExperimentPaths(folder).choice
    return read_object(path) if path.is_file() else None


def write_comparison(comparison: Comparison, folder: Path) -> Path | None:
    """Write `metrics/volumetry.csv` and `metrics/comparison.csv` atomically.

    `comparison.csv` keeps the rows of other metrics that are there already.

    Returns:
        The file of the comparison; None if there is no pair to write.

    Raises:
        DataError: One cannot be written, or an older comparison cannot be read.
    """
    paths = ExperimentPaths(folder)
    write_table(comparison.volumes, paths.volumetry)
    pairs = comparison.pairs
    if pairs.empty:
        return None
    if read_table(paths.comparison, ["metric"]) is not None:
        earlier = read_csv(paths.comparison).reindex(columns=pairs.columns)
        others = earlier[earlier["metric"] != comparison.options.metric]
        pairs = pd.concat([others, pairs]) if len(others) else pairs
    return write_table(pairs, paths.comparison)


def save_scores_and_times(folder: Path, root: Path | None = None) -> None:
    """Write `metrics/notebook_dice.csv` and `metrics/prediction_times.csv`, as far as masks and benchmarks exist.

    Saved scores are kept. Without an `experiment.yaml` nothing is written.

    Args:
        folder: The experiment's folder.
        root: See `compare_experiment`.

    Raises:
        DataError: The metrics are missing or invalid, or a file cannot be written.
    """
    paths = ExperimentPaths(folder)
    if not paths.request.is_file():
        return
    experiment = Experiment.load(paths.request)
    scores, _ = notebook_scores(experiment, folder, paths.nnunet(root), read_per_case(paths.per_case))
    times = prediction_times(experiment, folder)
    for table, path in ((scores.round(6), paths.notebook_dice), (times, paths.prediction_times)):
        if not table.empty:
            write_table(table, path)


def save_measurements(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Measure the notebooks' score of every case and the ensemble's volumes again, and write both tables.

    Both are extras: what cannot be measured is logged, and its table is not written.

    Raises:
        DataError: The metrics are missing or invalid, or a table cannot be written.
    """
    paths = ExperimentPaths(folder)
    table = read_per_case(paths.per_case)
    scores, notes = notebook_scores(experiment, folder, folders, table, remeasure=True)
    for note in notes:
        log.warning("%s", note)
    if not scores.empty:
        write_table(scores.round(6), paths.notebook_dice)
    if experiment.ensembled_configurations():
        try:
            save_volumes(experiment, folders, folder)
        except DataError as error:
            log.warning("no out-of-fold volumes: %s", error)


def as_json(comparison: Comparison, checks: VolumeChecks | None = None) -> str:
    """Return everything as JSON: options, tables as lists of rows, sentences and notes; null where undefined.

    Args:
        comparison: What to return.
        checks: Of `check_volumes`; None leaves `volume_checks` out.
    """
    content: dict[str, Any] = {
        "options": {**asdict(comparison.options), "rope": comparison.options.margin},
        **{name: _rows(getattr(comparison, name)) for name in ("models", "pairs", "ranks", "volumes", "curve")},
        "sentences": [verdict_sentence(row) for row in comparison.pairs.to_dict("records")],
        "notes": [note.text for note in comparison.notes],
    }
    if checks is not None:
        tables = {name: _rows(getattr(checks, name)) for name in ("agreement", "coverage", "parts", "flags")}
        content["volume_checks"] = {"level": checks.level, "cases": checks.cases, **tables, "notes": checks.notes}
    return json.dumps(content, indent=1, allow_nan=False)


def _rows(table: pd.DataFrame) -> Any:
    return json_values(table.to_dict("records"))  # pandas' own JSON would round a p of 1e-12 to 0
