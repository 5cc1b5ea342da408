"""The difference of two recipes, each trained several times, by a mixed model of cases, subjects and trainings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.pairing import Model, rows_of, seed_of
from hippo_nnunet.evaluation.statistics import ALPHA
from hippo_nnunet.evaluation.subjects import subject_names

MIN_TRAININGS = 4
"""Fewer pairs of trainings do not tell how much luck is in one."""


@dataclass(frozen=True)
class MixedResult:
    """The estimate for two recipes, trained again and tested on further subjects; NaN where it cannot be made.

    Attributes:
        mean: Difference of the recipes, in the metric's unit.
        low: Lower end of its `1 - ALPHA` interval.
        high: Upper end.
        p: Two-sided p of no difference.
        training_sd: Standard deviation that training a pair once more would give, whatever the cases.
    """

    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    training_sd: float = np.nan


def repeated_differences(
    table: pd.DataFrame, one: Model, other: Model, metric: str, subjects: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Pair the repeats of two recipes by their seeds: repeats of one seed saw the same batches.

    Args:
        table: Checked table of per-case metrics, `score_empty` applied.
        one: A model.
        other: Another.
        metric: One of QUALITY; the mean over labels is compared.
        subjects: Subject of each case; None: every case is one.

    Returns:
        Differences for `mixed_result`, positive where the first model is better; `repeat` is the seed's word, and
        repeats without a counterpart are left out.
    """
    means = []
    for model in (one, other):
        own = table[rows_of(table, model)]
        repeat = own["variant"].map(seed_of).rename("repeat")
        means.append(own.groupby([repeat, "fold", "case"])[metric].mean())
    difference = QUALITY[metric].sign * means[0].sub(means[1]).dropna()  # where both have the seed
    found = difference.rename("difference").reset_index()
    return found.assign(subject=subject_names(found["case"], subjects))


def mixed_result(differences: pd.DataFrame) -> MixedResult:
    """Estimate the difference of two recipes from several pairs of trainings.

    `difference = mean + subject + case + training + rest`, where `training` is one pair of trainings: a repeat in a
    fold. For the test of the folds' means (`hippo_nnunet.evaluation.fold_means`), more repeats are no further evidence;
    here they are.

    Args:
        differences: A row for each case and pair of repeats: `difference`, finite; `case`, `subject`, `fold`, `repeat`.

    Returns:
        The estimate; NaN with fewer than two repeats or MIN_TRAININGS pairs of trainings.

    Source:
        Linear mixed model by restricted maximum likelihood (statsmodels MixedLM). Its interval takes Student's t with
        the number of pairs of trainings less one as degrees of freedom: exact for balanced data where the training is
        what matters, cautious where it does not. That folds share training cases is not in the model.
    """
    import statsmodels.formula.api as formula

    trainings = len(differences.groupby(["fold", "repeat"]))
    if differences["repeat"].nunique() < 2 or trainings < MIN_TRAININGS:
        return MixedResult()
    if np.ptp(differences["difference"]) == 0:
        mean = float(differences["difference"].iloc[0])
        return MixedResult(mean, mean, mean, float(mean == 0), 0.0)
    effects = {"training": "0 + C(repeat)", "case": "0 + C(case)"}
    if differences["subject"].nunique() < differences["case"].nunique():
        effects["subject"] = "0 + C(subject)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # variances that are estimated as zero are a result, not a failure
        # folds have neither cases nor trainings in common
        model = formula.mixedlm("difference ~ 1", differences, groups="fold", vc_formula=effects)
        try:
            fit = model.fit(reml=True, method="powell")  # lbfgs stops short of variances that are zero
        except (np.linalg.LinAlgError, ValueError):  # repeats that differ by nothing or by a constant
            return MixedResult(float(differences["difference"].mean()))
    mean, error = float(fit.params.iloc[0]), float(fit.bse.iloc[0])
    if not np.isfinite(error) or error <= 0:
        return MixedResult(mean)
    variances = dict(zip(model.exog_vc.names, fit.vcomp, strict=True))
    half = stats.t.ppf(1 - ALPHA / 2, trainings - 1) * error
    return MixedResult(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=float(2 * stats.t.sf(abs(mean) / error, trainings - 1)),
        training_sd=float(np.sqrt(variances["training"])),
    )
