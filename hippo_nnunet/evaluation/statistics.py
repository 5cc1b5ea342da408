"""Paired differences between two models on the same cases: interval, tests, effect size, verdict.

The unit is the subject, of which there may be several cases. A verdict here is about the models *as they were trained*,
on further subjects of the same kind; for retrained models see `hippo_nnunet.evaluation.fold_means`. See
docs/statistics.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from hippo_nnunet.evaluation.subjects import folds_of_subjects, subject_values

ALPHA = 0.05
"""Two-sided error of every test and interval."""
POWER = 0.8
"""Power at which the smallest detectable difference is given."""
RESAMPLES = 9999
MIN_CASES = 6
"""Fewer subjects give no verdict: with 5, no two-sided signed-rank test can reach 0.05."""
MIN_EQUIVALENT = 150
"""Fewer subjects never give `equivalent`: they may lack the failures that make a model worse.

With 150, a failure of one in 50 is missed in 5 % of the experiments (0.98^150); with 44, in 41 %.
"""
ROUNDING = 1e-12
"""Relative difference below which values count as equal: BCa divides by their spread."""

BETTER, WORSE, EQUIVALENT, CANNOT_TELL = "better", "worse", "equivalent", "cannot tell"


@dataclass(frozen=True)
class PairedResult:
    """Statistics of the paired differences of one comparison; NaN if the sample is too small.

    Attributes:
        n: Cases with a difference.
        subjects: Subjects that they belong to.
        mean: Mean difference of all cases, in the metric's unit.
        sd: Standard deviation of the differences between cases.
        subject_sd: Standard deviation of `subject_values`; `sd` if every case is a subject.
        low: Lower end of the `1 - ALPHA` interval of the mean.
        high: Upper end.
        low_equivalence: Lower end of the `1 - 2 ALPHA` interval, which equivalence is judged by.
        high_equivalence: Upper end.
        p_wilcoxon: Two-sided p of the signed-rank test, not corrected for several comparisons.
        p_equivalence: p of the two one-sided t-tests against the region of practical equivalence.
        rank_biserial: Matched-pairs rank-biserial correlation of the test, -1 to 1: (W+ - W-) / (W+ + W-).
        cohens_dz: Mean over standard deviation of the differences.
    """

    n: int
    subjects: int
    mean: float
    sd: float
    subject_sd: float
    low: float
    high: float
    low_equivalence: float
    high_equivalence: float
    p_wilcoxon: float
    p_equivalence: float
    rank_biserial: float
    cohens_dz: float


def paired_result(
    differences: np.ndarray,
    rope: float,
    folds: np.ndarray | None = None,
    n_resamples: int = RESAMPLES,
    subjects: np.ndarray | None = None,
) -> PairedResult:
    """Describe and test the paired differences of one comparison.

    Args:
        differences: Shape (cases,), finite; positive where the first model is better.
        rope: Half-width of the region of practical equivalence, above 0, in the metric's unit.
        folds: Fold of each case, shape (cases,). Subjects are resampled within their folds, which a split has fixed,
            if every fold has MIN_FOLD_SUBJECTS subjects and no subject is in two; else all together.
        n_resamples: Number of resamples of the bootstrap.
        subjects: Subject of each case, shape (cases,); None: every case is one.

    Returns:
        The result; with no case, `n` 0 and NaN.

    Source:
        Bootstrap BCa: Efron 1987, by scipy.stats.bootstrap; subjects are resampled (Davison and Hinkley 1997, section
        3.8). Wilcoxon with Pratt's treatment of zeros, by scipy, of the subjects' means, one summary for each cluster
        as Galbraith et al. 2010 recommend (doi:10.1523/JNEUROSCI.0362-10.2010). TOST: Schuirmann 1987, by statsmodels.
        Rank-biserial: Kerby 2014 (doi:10.2466/11.IT.3.1). dz: Lakens 2013 (doi:10.3389/fpsyg.2013.00863).
    """
    d = np.asarray(differences, dtype=float)
    n = len(d)
    names, index, sizes = np.unique(
        np.arange(n) if subjects is None else subjects, return_inverse=True, return_counts=True
    )
    mean = float(d.mean()) if n else np.nan
    if len(names) < 2:
        return PairedResult(n, len(names), mean, *[np.nan] * 10)
    values = subject_values(d, index)
    fold_of = folds_of_subjects(folds, index)
    inner, outer = bootstrap_intervals(values, fold_of, (1 - 2 * ALPHA, 1 - ALPHA), n_resamples)
    means = np.bincount(index, d) / sizes
    sd = float(d.std(ddof=1))
    return PairedResult(
        n=n,
        subjects=len(names),
        mean=mean,
        sd=sd,
        subject_sd=float(values.std(ddof=1)),
        low=outer[0],
        high=outer[1],
        low_equivalence=inner[0],
        high_equivalence=inner[1],
        p_wilcoxon=float(stats.wilcoxon(means, zero_method="pratt").pvalue) if means.any() else 1.0,
        p_equivalence=_tost(values, rope),
        rank_biserial=rank_biserial(means),
        cohens_dz=mean / sd if sd > 0 else np.nan,
    )


def bootstrap_intervals(
    values: np.ndarray,
    folds: np.ndarray | None = None,
    levels: Sequence[float] = (1 - ALPHA,),
    n_resamples: int = RESAMPLES,
) -> list[tuple[float, float]]:
    """Compute BCa bootstrap intervals of a mean, all levels from the same resamples.

    Args:
        values: Shape (subjects,), finite, at least two.
        folds: Of `folds_of_subjects`.
        levels: Confidence levels, 0 to 1.
        n_resamples: Number of resamples.

    Returns:
        Lower and upper end for each level. Values that are all equal, but for rounding, give that value twice.
    """
    if np.ptp(values) <= ROUNDING * np.abs(values).max():
        return [(float(values[0]), float(values[0]))] * len(levels)
    samples = (values,) if folds is None else tuple(values[folds == fold] for fold in np.unique(folds))
    result = None
    intervals = []
    for level in levels:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # an interval of NaN gives no verdict
            result = stats.bootstrap(
                samples,
                _mean_of_all,
                vectorized=True,
                confidence_level=level,
                n_resamples=0 if result else n_resamples,
                method="BCa",
                rng=np.random.default_rng(0),
                bootstrap_result=result,
            )
        intervals.append((float(result.confidence_interval.low), float(result.confidence_interval.high)))
    return intervals


def smallest_margin(result: PairedResult) -> float:
    """Return the smallest region of practical equivalence (its half-width) that would give `equivalent`.

    Args:
        result: Of `paired_result`; NaN with fewer than MIN_EQUIVALENT subjects.
    """
    if result.subjects < MIN_EQUIVALENT:
        return np.nan
    bootstrapped = max(abs(result.low_equivalence), abs(result.high_equivalence))
    error = result.subject_sd / np.sqrt(result.subjects)  # TOST passes where the t interval lies within the region
    return float(max(bootstrapped, abs(result.mean) + stats.t.ppf(1 - ALPHA, result.subjects - 1) * error))


def verdict(result: PairedResult, p_holm: float, rope: float) -> str:
    """Return the verdict of a comparison; all but the last need two methods to agree.

    | verdict | needs |
    |---|---|
    | `equivalent` | MIN_EQUIVALENT subjects, the `1 - 2 ALPHA` interval within the region, TOST's p at most ALPHA |
    | `better`, `worse` | not equivalent; Holm's p at most ALPHA, and the `1 - ALPHA` interval without 0 |
    | `cannot tell` | everything else, and fewer than MIN_CASES subjects |

    So a difference that is real but too small to matter is `equivalent`.

    Args:
        result: Of `paired_result`.
        p_holm: Its signed-rank p, corrected for all comparisons of its family.
        rope: Half-width of the region of practical equivalence.
    """
    if result.subjects < MIN_CASES:
        return CANNOT_TELL
    within = -rope < result.low_equivalence and result.high_equivalence < rope
    if result.subjects >= MIN_EQUIVALENT and within and result.p_equivalence <= ALPHA:
        return EQUIVALENT
    if p_holm <= ALPHA and result.low > 0:
        return BETTER
    if p_holm <= ALPHA and result.high < 0:
        return WORSE
    return CANNOT_TELL


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Correct the p-values of one family for their number.

    Args:
        p_values: NaN (no test) stays NaN and does not count.

    Returns:
        Adjusted p-values, shape (len(p_values),).

    Source:
        Holm 1979. Ours, because statsmodels' `multipletests` collects all garbage of the process in every call.
    """
    adjusted = np.asarray(p_values, dtype=float).copy()
    order = np.argsort(adjusted)[: np.count_nonzero(~np.isnan(adjusted))]  # NaN last
    steps = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def detectable_difference(sd: float, n: int, comparisons: int = 1) -> float:
    """Compute the smallest true difference that so many subjects detect with probability `POWER`, in the unit of `sd`.

    Args:
        sd: Standard deviation of the paired differences between subjects.
        n: Subjects.
        comparisons: Tests in the family: the first of Holm's steps is taken, ALPHA over their number.

    Returns:
        The difference; 0 for sd 0, NaN for fewer than MIN_CASES subjects.

    Source:
        Power of the paired t-test, by statsmodels. On normal differences the signed-rank test needs 5 % more.
    """
    if n < MIN_CASES or np.isnan(sd):
        return np.nan
    return detectable_effect(n, ALPHA / comparisons, POWER) * sd


@lru_cache
def detectable_effect(n: int, alpha: float, power: float) -> float:
    """Compute the smallest mean that a two-sided paired t-test of n differences of standard deviation 1 detects."""
    from statsmodels.stats.power import TTestPower

    # one-sided, as the far tail adds nothing, and for few n it is NaN, with which the solver returns any number
    return float(np.squeeze(TTestPower().solve_power(nobs=n, alpha=alpha / 2, power=power, alternative="larger")))


def rank_biserial(differences: np.ndarray) -> float:
    """Compute the matched-pairs rank-biserial correlation: 1 where every difference is positive, 0 where all are 0."""
    d = differences[differences != 0]
    ranks = stats.rankdata(np.abs(d))
    return float(np.sum(np.sign(d) * ranks) / ranks.sum()) if len(d) else 0.0


def _mean_of_all(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(np.concatenate(samples, axis=axis).mean(axis=axis))


def _tost(d: np.ndarray, rope: float) -> float:
    from statsmodels.stats.weightstats import DescrStatsW

    if np.ptp(d) == 0:
        return 0.0 if abs(d[0]) < rope else 1.0
    return float(DescrStatsW(d).ttost_mean(-rope, rope)[0])
