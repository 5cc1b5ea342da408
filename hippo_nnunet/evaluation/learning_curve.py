"""A metric against the number of training cases: every recipe's mean at each number, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from hippo_nnunet.evaluation.pairing import ENSEMBLE, Model, rows_of
from hippo_nnunet.evaluation.statistics import ALPHA, MIN_CASES, RESAMPLES, bootstrap_intervals
from hippo_nnunet.evaluation.subjects import folds_of_subjects, subject_names, subject_values

COLUMNS = ("variant", "configuration", "size", "repeats", "trainings", "n", "subjects", "mean", "low", "high")
"""The columns of `learning_curve`."""


def learning_curve(
    table: pd.DataFrame,
    models: Sequence[Model],
    metric: str,
    subjects: Mapping[str, str] | None = None,
    n_resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Arrange the models that were trained on several numbers of cases by that number.

    Args:
        table: Checked table of per-case metrics, `score_empty` applied.
        models: Of `models_of`.
        metric: One of QUALITY; the mean over labels is taken.
        subjects: Subject of each case; None: every case is one.
        n_resamples: Number of resamples of the bootstrap.

    Returns:
        COLUMNS, a row for each recipe, configuration and number: `variant` is the recipe without its number, `size`
        the number that was asked for (NaN: all cases of a fold), `repeats` its seeds, `trainings` those of all folds,
        `n` the cases, and the rest as in `mean_with_interval`. Recipes that were only trained on all cases are left
        out.
    """
    curves = {(model.full_recipe, model.configuration) for model in models if model.size is not None}
    rows = []
    for model in models:
        if model.recipe == ENSEMBLE or (model.full_recipe, model.configuration) not in curves:
            continue
        own = table[rows_of(table, model)]
        values = own.groupby(["fold", "case", "variant"])[metric].mean().unstack("variant").dropna()
        mean, low, high = mean_with_interval(values, subjects, n_resamples)
        cases = values.index.get_level_values("case")
        counts = (values.shape[1], len(own.groupby(["variant", "fold"])), len(values))
        named = (model.full_recipe, model.configuration, model.size, *counts)
        rows.append((*named, len(set(subject_names(cases, subjects))), mean, low, high))
    found = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"size": float})
    order = found.groupby(["variant", "configuration"], sort=False).ngroup()
    return found.assign(order=order).sort_values(["order", "size"], ignore_index=True).drop(columns="order")


def mean_with_interval(
    values: pd.DataFrame,
    subjects: Mapping[str, str] | None = None,
    n_resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """Estimate what a recipe scores on further subjects and, if it has repeats, in further trainings.

    Args:
        values: A row for each (fold, case), a column for each repeat; finite.
        subjects: Subject of each case; None: every case is one.
        n_resamples: Number of resamples of the bootstrap.

    Returns:
        Mean of all cases and repeats, and the ends of its `1 - ALPHA` interval; the ends are NaN with fewer than
        MIN_CASES subjects. With one repeat the interval is that of these trained models on further subjects.

    Source:
        Subjects: cluster bootstrap as in `statistics.paired_result`. Trainings: Student's t with the variance between
        the repeats' means within folds, pooled over folds; it holds initialisation, sampling and, for a subset, the
        choice of cases. Both widths are combined as Zou and Donner 2008 (MOVER, doi:10.1002/sim.3095) do for a sum
        of independent estimates; what subject and training have together counts in both, which is cautious.
    """
    folds, cases = (values.index.get_level_values(level).to_numpy() for level in ("fold", "case"))
    of_cases = values.mean(axis=1).to_numpy()
    mean = float(of_cases.mean()) if len(of_cases) else np.nan
    names, index = np.unique(subject_names(cases, subjects), return_inverse=True)
    if len(names) < MIN_CASES:
        return mean, np.nan, np.nan
    own = subject_values(of_cases, index)
    (low, high), *_ = bootstrap_intervals(own, folds_of_subjects(folds, index), (1 - ALPHA,), n_resamples)
    reach = _reach_of_trainings(values)
    return mean, mean - float(np.hypot(mean - low, reach)), mean + float(np.hypot(high - mean, reach))


def _reach_of_trainings(values: pd.DataFrame) -> float:
    """Return the half-width of the interval that the mean has over trainings; 0 with one repeat."""
    repeats = values.shape[1]
    if repeats < 2:
        return 0.0
    by_fold = values.groupby("fold")
    means, shares = by_fold.mean(), by_fold.size() / len(values)
    freedom = len(means) * (repeats - 1)
    variance = float(means.var(axis=1, ddof=1).mean()) / repeats * float((shares**2).sum())
    return float(stats.t.ppf(1 - ALPHA / 2, freedom) * np.sqrt(variance))
