"""The notebooks' score of each out-of-fold case: saved in `metrics/notebook_dice.csv`, to outlive the masks."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from hippo_nnunet.data.description import MEAN
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.notebook_dice import notebook_dice_by_case
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import ENSEMBLE, recipe_of
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_object, read_table
from hippo_nnunet.nnunet.paths import NnunetFolders

COLUMNS = ("case", "fold", "variant", "configuration", "notebook_dice")
"""The columns of the file. Every case has as many batches of slices, so a model's score is the mean of its cases'."""

_MODEL = ["variant", "configuration"]
_CASE = ["case", "fold", *_MODEL]

ModelName = tuple[str, str]
"""Variant and configuration."""


def notebook_scores(
    experiment: Experiment, folder: Path, folders: NnunetFolders, table: pd.DataFrame, remeasure: bool = False
) -> tuple[pd.DataFrame, list[Note]]:
    """Score every out-of-fold case by the notebooks' protocol.

    Args:
        experiment: The request.
        folder: The experiment's folder.
        folders: nnU-Net's folders.
        table: Of `read_per_case`.
        remeasure: Ignore saved scores: the masks are new.

    Returns:
        COLUMNS for each case, variant and configuration, saved or measured on the masks, in the table's order; and for
        every model that has no score, why not.

    Raises:
        DataError: The saved scores cannot be read.
    """
    cases = table[_CASE].drop_duplicates()
    saved = _saved_scores(folder, cases.head(0) if remeasure else cases)
    done = _models(saved)
    if done >= _models(table):
        return saved, []
    preprocessed = folders.preprocessed / experiment.dataset
    try:
        dataset = read_object(preprocessed / "dataset.json")
        labels, ending = dict(dataset["labels"]), str(dataset["file_ending"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        return saved, [_no_score(f": {error}.")]
    if "ignore" in labels or sorted(map(str, labels.values())) != sorted(map(str, range(len(labels)))):
        return saved, [_no_score(": it is defined for plain labels 0, 1, 2, ... only.")]
    parts, notes = [saved] if len(saved) else [], []
    for (variant, configuration), masks in prediction_files(experiment, folder, folders, table, ending).items():
        if (variant, configuration) in done:
            continue
        references = {case: preprocessed / "gt_segmentations" / f"{case}{ending}" for case in masks}
        try:
            scores = notebook_dice_by_case(masks, references, len(labels))
        except DataError as error:
            notes.append(_no_score(f" for {variant} {configuration}: {error}"))
            continue
        rows = cases[(cases["variant"] == variant) & (cases["configuration"] == configuration)]
        parts.append(rows.assign(notebook_dice=rows["case"].map(scores)))
    return cases.merge(pd.concat(parts), on=_CASE) if parts else saved, notes


def prediction_files(
    experiment: Experiment, folder: Path, folders: NnunetFolders, table: pd.DataFrame, ending: str
) -> dict[ModelName, dict[str, Path]]:
    """Name the out-of-fold segmentation of every case of every variant in the table of metrics.

    Args:
        experiment: The request.
        folder: The experiment's folder.
        folders: nnU-Net's folders.
        table: Of `read_per_case`.
        ending: File ending of the segmentations.

    Returns:
        Variant and configuration to case to file, which may be missing.
    """
    files: dict[ModelName, dict[str, Path]] = {}
    columns = table[["variant", "configuration", "fold", "case"]].drop_duplicates()
    for variant, configuration, fold, case in columns.itertuples(index=False):
        if variant == ENSEMBLE:
            place = ExperimentPaths(folder).out_of_fold
        else:
            cell = Cell(variant, experiment.trainer(variant), configuration, int(fold))
            place = experiment.result_folder(cell, folders.results) / "validation"
        files.setdefault((variant, configuration), {})[case] = place / f"{case}{ending}"
    return files


def score_column(scores: pd.DataFrame, models: pd.DataFrame) -> pd.Series:
    """Average scores for the rows of scope MEAN of `model_table`.

    Args:
        scores: COLUMNS.
        models: Of `model_table`.

    Returns:
        The mean over a model's repeats of the mean over its cases in the row's folds; NaN elsewhere, and where a repeat
        has no score.
    """
    column = pd.Series(np.nan, index=models.index)
    recipes = scores["variant"].map(recipe_of)
    for row in models.index[models["scope"] == MEAN]:
        folds = [int(fold) for fold in str(models.at[row, "folds"]).split(",")]
        own = scores[
            (recipes == models.at[row, "variant"])
            & (scores["configuration"] == models.at[row, "configuration"])
            & scores["fold"].isin(folds)
        ]
        repeats = own.groupby("variant")["notebook_dice"].mean()
        column[row] = repeats.mean() if len(repeats) == models.at[row, "repeats"] else np.nan
    return column


def ranked_differently(models: pd.DataFrame) -> list[Note]:
    """Name the models that the two scores rank differently.

    Args:
        models: Of `model_table`, with `notebook_dice`.

    Returns:
        A note for every two models on the same folds where one has the higher mean Dice per volume, and the other
        the higher score of the notebooks.
    """
    rows = models[(models["scope"] == MEAN) & models["notebook_dice"].notna()].to_dict("records")
    notes = []
    for one, other in combinations(rows, 2):
        agreement = (one["dice"] - other["dice"]) * (one["notebook_dice"] - other["notebook_dice"])
        if one["folds"] != other["folds"] or agreement >= 0:
            continue
        better, worse = (one, other) if one["dice"] > other["dice"] else (other, one)
        names = [f"{model['variant']} {model['configuration']}" for model in (better, worse)]
        text = (
            f"The two scores rank differently (folds {one['folds']}): {names[0]} has the higher Dice per volume "
            f"({better['dice']:.4f}, {worse['dice']:.4f}), {names[1]} the higher notebook score "
            f"({worse['notebook_dice']:.4f}, {better['notebook_dice']:.4f})."
        )
        notes.append(Note(NoteKind.SCORES_DISAGREE, text))
    return notes


def _saved_scores(folder: Path, cases: pd.DataFrame) -> pd.DataFrame:
    """Return the saved scores of every model whose cases are all saved."""
    saved = read_table(ExperimentPaths(folder).notebook_dice, COLUMNS)
    if saved is None:
        return pd.DataFrame(columns=list(COLUMNS))
    scores = cases.merge(saved.drop_duplicates(_CASE), on=_CASE, how="left")
    complete = scores.groupby(_MODEL)["notebook_dice"].transform(lambda values: values.notna().all())
    return scores[complete.astype(bool)].reset_index(drop=True)


def _models(table: pd.DataFrame) -> set[ModelName]:
    return set(table[_MODEL].drop_duplicates().itertuples(index=False, name=None))


def _no_score(reason: str) -> Note:
    return Note(NoteKind.NOTEBOOK_SCORE, f"No score of the notebooks' protocol{reason}")
