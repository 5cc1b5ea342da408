"""Means over folds: the test that accounts for overlapping training sets, and the stability of rankings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from hippo_nnunet.evaluation.statistics import (
    ALPHA,
    BETTER,
    CANNOT_TELL,
    EQUIVALENT,
    MIN_CASES,
    MIN_EQUIVALENT,
    POWER,
    RESAMPLES,
    WORSE,
    detectable_effect,
)
from hippo_nnunet.evaluation.subjects import folds_of_subjects

SHARED_DATA = (
    "Any two folds share most of their training cases, so their scores are not independent; no unbiased estimate of "
    "their variance exists (Bengio & Grandvalet 2004), and Nadeau & Bengio's correction is an approximation."
)


@dataclass(frozen=True)
class CorrectedResult:
    """Nadeau and Bengio's test of the mean of the folds' differences.

    `mean` and `sd` are those of the folds' mean differences, each fold counting the same; `low` to `high` is the
    corrected `1 - ALPHA` interval, `low_equivalence` to `high_equivalence` the `1 - 2 ALPHA` one; `p` is two-sided.
    """

    folds: int
    mean: float
    sd: float
    low: float
    high: float
    low_equivalence: float
    high_equivalence: float
    p: float


def corrected_test(fold_means: np.ndarray, number_of_folds: int) -> CorrectedResult:
    """Test whether the mean over folds is 0, with a variance that allows for shared training data.

    The variance of the mean is taken as `(1 / J + n_test / n_train) s^2` in the place of `s^2 / J`, with J - 1 degrees
    of freedom; with K folds, `n_test / n_train` is `1 / (K - 1)`.

    Args:
        fold_means: Mean difference of each fold that was trained, shape (J,).
        number_of_folds: K, folds of the split, which may be more than were trained.

    Returns:
        The result; NaN for one fold. Folds that all have the same mean give p 0, or 1 where that is 0.

    Source:
        Nadeau & Bengio 2003, Inference for the generalization error (doi:10.1023/A:1024068626366), section 3, the
        corrected resampled t-test; for cross-validation as in Bouckaert & Frank 2004. Ours, because no library that
        the project uses has it.
    """
    j = len(fold_means)
    mean = float(np.mean(fold_means)) if j else np.nan
    if j < 2 or number_of_folds < 2:
        return CorrectedResult(j, mean, *[np.nan] * 6)
    sd = float(np.std(fold_means, ddof=1))
    error = sd * np.sqrt(1 / j + 1 / (number_of_folds - 1))
    p = float(2 * stats.t.sf(abs(mean) / error, j - 1)) if error > 0 else float(mean == 0)
    outer, inner = (float(stats.t.ppf(1 - tail, j - 1)) * error for tail in (ALPHA / 2, ALPHA))
    return CorrectedResult(j, mean, sd, mean - outer, mean + outer, mean - inner, mean + inner, p)


def verdict_retrained(result: CorrectedResult, p_holm: float, rope: float, subjects: int) -> str:
    """Return the verdict about training the same two recipes again on other cases.

    Args:
        result: Of `corrected_test`.
        p_holm: Its p, corrected for all comparisons of its family.
        rope: Half-width of the region of practical equivalence.
        subjects: Number of the subjects in all folds.

    Returns:
        `equivalent`, `better`, `worse` or `cannot tell`: the rules of `statistics.verdict` by the corrected intervals
            and `p_holm`, with the same least numbers of subjects.
    """
    within = -rope < result.low_equivalence and result.high_equivalence < rope
    if subjects >= MIN_EQUIVALENT and within:
        return EQUIVALENT
    if subjects >= MIN_CASES and p_holm <= ALPHA:
        return BETTER if result.mean > 0 else WORSE
    return CANNOT_TELL


def detectable_retrained(result: CorrectedResult, number_of_folds: int, comparisons: int = 1) -> float:
    """Compute the smallest true difference of two recipes that this many folds would have detected.

    Args:
        result: Of `corrected_test`.
        number_of_folds: See `corrected_test`.
        comparisons: See `statistics.detectable_difference`.

    Returns:
        The difference, in the metric's unit; NaN for one fold.
    """
    if result.folds < 2 or number_of_folds < 2:
        return np.nan
    effect = detectable_effect(result.folds, ALPHA / comparisons, POWER)
    return effect * result.sd * float(np.sqrt(1 + result.folds / (number_of_folds - 1)))


def rank_shares(
    scores: pd.DataFrame,
    folds: np.ndarray,
    n_resamples: int = RESAMPLES,
    subjects: np.ndarray | None = None,
) -> pd.DataFrame:
    """Resample the subjects within folds, and count how often each model takes each rank.

    Args:
        scores: A row for each case, a column for each model; higher is better; no NaN.
        folds: Fold of each case, shape (cases,).
        n_resamples: Number of resamples.
        subjects: Subject of each case, shape (cases,); None: every case is one. If one is in several folds, subjects
            are resampled all together.

    Returns:
        A row for each model, columns 1 to the number of models: the share of resamples with that rank, 1 the best.
        Models that tie share the better rank, so a column may add up to more than 1.

    Source:
        Ranking stability by bootstrap: Wiesenfarth et al. 2021 (doi:10.1038/s41598-021-82017-6).
    """
    rng = np.random.default_rng(0)
    sums = np.zeros((n_resamples, scores.shape[1]))
    index = np.unique(np.arange(len(scores)) if subjects is None else subjects, return_inverse=True)[1]
    totals = scores.groupby(index).sum().to_numpy(dtype=float)
    fold_of = folds_of_subjects(folds, index)
    fold_of = np.zeros(len(totals)) if fold_of is None else fold_of
    for fold in np.unique(fold_of):
        part = totals[fold_of == fold]
        counts = rng.multinomial(len(part), np.full(len(part), 1 / len(part)), size=n_resamples)
        sums += counts @ part
    ranks = stats.rankdata(-np.round(sums / len(scores), 12), method="min", axis=1)
    shares = {rank: (ranks == rank).mean(axis=0) for rank in range(1, scores.shape[1] + 1)}
    return pd.DataFrame(shares, index=scores.columns)
