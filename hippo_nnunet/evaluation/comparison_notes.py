"""Notes on a comparison's data: what was left out, how it was scored, and what it cannot say."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from hippo_nnunet.evaluation.fold_means import SHARED_DATA
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import Model
from hippo_nnunet.evaluation.statistics import MIN_CASES, MIN_EQUIVALENT
from hippo_nnunet.evaluation.subjects import subject_names


def empty_labels(table: pd.DataFrame) -> list[Note]:
    """Say how labels are scored that references lack."""
    empty = table[table["volume_ref_mm3"] == 0].groupby("label", sort=False)["case"].nunique()
    if empty.empty:
        return []
    counts = ", ".join(f"{label} in {count}" for label, count in empty.items())
    text = (
        f"Labels that a reference lacks ({counts} of {table['case'].nunique()} cases): an empty prediction scores Dice "
        "and NSD 1 and distances 0, an invented one Dice and NSD 0 and the image's diagonal."
    )
    return [Note(NoteKind.SCORED_EMPTY, text)]


def subject_notes(table: pd.DataFrame, subjects: Mapping[str, str] | None) -> list[Note]:
    """Warn of cases that were validated by a model that was trained on another case of their subject."""
    fold_of = table.drop_duplicates("case").set_index("case")["fold"]
    folds = fold_of.groupby(subject_names(fold_of.index, subjects)).agg(["nunique", "size"])
    broken = int(folds.loc[folds["nunique"] > 1, "size"].sum())
    if not broken:
        return []
    text = (
        f"{broken} of {len(fold_of)} cases have another case of their subject in another fold: models were trained on "
        "these subjects, so the figures are not for unseen ones."
    )
    return [Note(NoteKind.BROKEN_SUBJECTS, text)]


def restriction(one: Model, ours: pd.DataFrame, other: Model, theirs: pd.DataFrame) -> list[Note]:
    """Say on which folds two models are compared, if they have different ones."""
    folds = [set(frame.index.get_level_values("fold")) for frame in (ours, theirs)]
    if folds[0] == folds[1]:
        return []
    common, (first, second) = folds[0] & folds[1], (",".join(map(str, sorted(f))) for f in folds)
    shown = ",".join(map(str, sorted(common)))
    text = f"{one} has folds {first} and {other} has {second}: compared on fold {shown} alone."
    return [Note(NoteKind.LEFT_OUT, text)]


def subset_notes(curve: pd.DataFrame) -> list[Note]:
    """Say what trainings on fewer cases have in common, and what their intervals hold; `curve`: of `learning_curve`."""
    if curve.empty:
        return []
    held = (
        "The intervals hold further subjects and, from the seeds, further choices of the training cases."
        if (curve["repeats"] > 1).all()
        else "With one seed, the intervals hold further subjects, but not another choice of the training cases."
    )
    text = (
        "Trainings on fewer cases draw whole subjects of a fold's training cases, by seed and fold: the same for every "
        "recipe, and each number within the larger ones. Plans, iterations and validation cases are those of all "
        f"cases. {held}"
    )
    return [Note(NoteKind.SUBSETS, text)]


def general_notes(models: pd.DataFrame, pairs: pd.DataFrame) -> list[Note]:
    """Say what too few models, subjects, folds or seeds do not show."""
    notes = {}
    unit = "cases" if pairs.empty or (pairs["n"] == pairs["subjects"]).all() else "subjects"
    if pairs.empty:
        notes[NoteKind.ONE_MODEL] = "There is one model only: nothing to compare it with."
    elif (pairs["subjects"] < MIN_CASES).any():
        notes[NoteKind.FEW_CASES] = (
            f"Comparisons of fewer than {MIN_CASES} {unit} get no verdict: no test could show a difference with them."
        )
    elif (pairs["subjects"] < MIN_EQUIVALENT).any():
        notes[NoteKind.FEW_CASES] = (
            f"Comparisons of fewer than {MIN_EQUIVALENT} {unit} do not say 'equivalent': they may lack the rare "
            "failures that make a model worse."
        )
    if models["folds"].str.contains(",").any():
        notes[NoteKind.SHARED_DATA] = SHARED_DATA
    if (models["repeats"] < 2).all():
        notes[NoteKind.ONE_SEED] = (
            "No recipe was trained with several seeds: how much of a difference is luck of training is not known here."
        )
    return [Note(kind, text) for kind, text in notes.items()]
