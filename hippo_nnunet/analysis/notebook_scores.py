"""The notebooks' score of each out-of-fold case: kept in `metrics/notebook_dice.csv`, so that it outlives the masks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.notebook_dice import notebook_dice_by_case
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import recipe_of
from hippo_nnunet.evaluation.side_by_side import MEAN
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_table

COLUMNS = ("case", "fold", "variant", "configuration", "notebook_dice")
"""The columns of the file. Every case has as many batches of slices, so a model's score is the mean of its cases'."""

_MODEL = ["variant", "configuration"]
_CASE = ["case", "fold", *_MODEL]


def kept_scores(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Read the scores kept in an experiment's folder.

    Args:
        folder: The experiment's folder.
        table: Of `read_per_case`.

    Returns:
        COLUMNS, for every variant and configuration whose cases in the table are all kept; empty without a file.

    Raises:
        DataError: The file is no such table.
    """
    kept = read_table(ExperimentPaths(folder).notebook_dice, COLUMNS)
    if kept is None:
        return pd.DataFrame(columns=list(COLUMNS))
    wanted = table[_CASE].drop_duplicates().merge(kept.drop_duplicates(_CASE), on=_CASE, how="left")
    complete = wanted.groupby(_MODEL)["notebook_dice"].transform(lambda scores: scores.notna().all())
    return wanted[complete.astype(bool)].reset_index(drop=True)


def measured_scores(
    files: Mapping[tuple[str, str], Mapping[str, Path]],
    references: Path,
    ending: str,
    classes: int,
    table: pd.DataFrame,
) -> tuple[pd.DataFrame, list[Note]]:
    """Score masks.

    Args:
        files: Of `prediction_files`.
        references: Folder of the reference segmentations.
        ending: Their file ending.
        classes: Background and labels.
        table: Of `read_per_case`.

    Returns:
        COLUMNS for every variant and configuration that can be scored, and for each other why not.
    """
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    notes: list[Note] = []
    cases = table[_CASE].drop_duplicates()
    for (variant, configuration), masks in files.items():
        try:
            scores = notebook_dice_by_case(masks, {c: references / f"{c}{ending}" for c in masks}, classes)
        except DataError as error:
            notes.append(no_score(f" for {variant} {configuration}: {error}"))
            continue
        rows = cases[(cases["variant"] == variant) & (cases["configuration"] == configuration)]
        parts.append(rows.assign(notebook_dice=rows["case"].map(scores)))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True), notes


def no_score(reason: str) -> Note:
    """Say of which model there is no score, and why."""
    return Note(NoteKind.NOTEBOOK_SCORE, f"No score of the notebooks' protocol{reason}")


def in_order(scores: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Put scores into the order of the table of metrics, so that the same ones make the same file."""
    return table[_CASE].drop_duplicates().merge(scores, on=_CASE)


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
