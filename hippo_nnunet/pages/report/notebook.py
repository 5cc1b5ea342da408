"""The notebooks' score and ours of the same masks: how they differ, and where they rank models differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from hippo_nnunet.evaluation.pairing import Model

MEASURED = (("3 epochs", 0.9187, 0.839), ("5 epochs", 0.9140, 0.856), ("10 epochs", 0.9217, 0.860))
"""The notebooks' own 2D U-Net on Task04_Hippocampus: trained for, its own score, mean foreground Dice of a volume.

Source: ours, measured on two CPU cores with the notebooks' own code and split.
"""
MEASURED_DATASET = "Hippocampus"
"""The dataset, by the end of its name, that MEASURED belongs to."""


@dataclass(frozen=True)
class NotebookScores:
    """Both scores of every case, and what they say of the models' order.

    Attributes:
        cases: Columns `model` (a Model), `fold`, `case`, `dice` (mean over labels) and `notebook_dice`.
        means: Columns `model`, `cases`, `dice`, `notebook_dice`, over the cases that every model has.
        reversals: A row for each pair of models and set of cases (`fold` a number, or `all`) that the two scores rank
            differently: `better` by Dice, `other`, `fold`, `dice` and `notebook_dice`, the differences.
        comparisons: Pairs and sets of cases that were looked at.
        disagreeing_cases: Share of cases, over all pairs, that the two scores rank differently; NaN with one model.
    """

    cases: pd.DataFrame
    means: pd.DataFrame
    reversals: pd.DataFrame
    comparisons: int
    disagreeing_cases: float


def compare_scores(cases: pd.DataFrame, models: Sequence[Model]) -> NotebookScores:
    """Put the two scores side by side.

    Args:
        cases: See `NotebookScores.cases`; without NaN.
        models: In the order of the report.
    """
    wide = {
        name: cases.pivot_table(index=["fold", "case"], columns="model", values=name, sort=False).reindex(
            columns=[model for model in models if (cases["model"] == model).any()]
        )
        for name in ("dice", "notebook_dice")
    }
    common = wide["dice"].notna().all(axis=1)
    means = pd.DataFrame({name: frame[common].mean() for name, frame in wide.items()})
    means = means.assign(cases=int(common.sum())).rename_axis("model").reset_index()
    rows, comparisons, opposed, compared = [], 0, 0, 0
    for one, other in combinations(wide["dice"].columns, 2):
        both = wide["dice"][one].notna() & wide["dice"][other].notna()
        differences = pd.DataFrame({name: (frame[one] - frame[other])[both] for name, frame in wide.items()})
        signs = np.sign(differences["dice"]) * np.sign(differences["notebook_dice"])
        opposed, compared = opposed + int((signs < 0).sum()), compared + len(signs)
        by_fold = differences.groupby("fold").mean()
        sets = [("all", differences.mean()), *((str(fold), row) for fold, row in by_fold.iterrows())]
        for fold, row in sets if len(by_fold) > 1 else sets[1:]:
            comparisons += 1
            if row["dice"] * row["notebook_dice"] < 0:
                first, second, sign = (one, other, 1) if row["dice"] > 0 else (other, one, -1)
                named = {"better": first, "other": second, "fold": fold}
                rows.append({**named, "dice": sign * row["dice"], "notebook_dice": sign * row["notebook_dice"]})
    columns = ["better", "other", "fold", "dice", "notebook_dice"]
    share = opposed / compared if compared else float("nan")
    return NotebookScores(cases, means, pd.DataFrame(rows, columns=columns), comparisons, share)
