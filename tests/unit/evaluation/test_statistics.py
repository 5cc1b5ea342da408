"""Paired statistics against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from hippo_nnunet.evaluation.fold_means import corrected_test, detectable_retrained, rank_shares, verdict_retrained
from hippo_nnunet.evaluation.statistics import (
    bootstrap_intervals,
    detectable_difference,
    detectable_effect,
    holm,
    paired_result,
    rank_biserial,
    smallest_margin,
    verdict,
)

ROPE = 0.005


@pytest.fixture(scope="module")
def differences() -> np.ndarray:
    return stats.skewnorm.rvs(4, loc=-0.004, scale=0.02, size=80, random_state=3)


@pytest.mark.parametrize("noise", [0.0, 4e-18])
def test_values_that_are_equal_but_for_rounding_have_no_width(noise: float) -> None:
    values = np.full(50, 0.03)
    values[::3] += noise * np.arange(17)
    assert (np.ptp(values) > 0) == (noise > 0)
    assert bootstrap_intervals(values) == [(values[0], values[0])]


def test_the_interval_is_between_t_and_percentile(differences: np.ndarray) -> None:
    ((low, high),) = bootstrap_intervals(differences, n_resamples=4000)
    by_t = stats.t.interval(0.95, 79, differences.mean(), stats.sem(differences))
    rng = np.random.default_rng(7)
    means = differences[rng.integers(0, 80, (4000, 80))].mean(axis=1)
    np.testing.assert_allclose([low, high], by_t, atol=0.1 * (high - low))
    np.testing.assert_allclose([low, high], np.percentile(means, [2.5, 97.5]), atol=0.1 * (high - low))
    assert (low, high) == bootstrap_intervals(differences, n_resamples=4000)[0]


def test_resampling_within_folds_leaves_the_folds_differences_out() -> None:
    rng = np.random.default_rng(1)
    folds = np.repeat(np.arange(5), 20)
    values = rng.normal(0, 0.01, 100) + 0.05 * folds
    within = bootstrap_intervals(values, folds, n_resamples=1000)[0]
    together = bootstrap_intervals(values, None, n_resamples=1000)[0]
    expected = 2 * 1.96 * 0.01 / 10
    assert np.ptp(within) == pytest.approx(expected, rel=0.25)
    assert np.ptp(together) > 4 * np.ptp(within)
    few = paired_result(values[::4], 0.005, folds[::4], n_resamples=1000)  # 5 cases a fold: together
    assert few.high - few.low > 4 * np.ptp(within)


def test_result_by_hand() -> None:
    d = np.array([0.01, 0.02, 0.03, -0.01, 0.04, 0.05, 0.0, 0.06])
    result = paired_result(d, ROPE, n_resamples=200)
    assert result.mean == pytest.approx(0.025)
    assert result.cohens_dz == pytest.approx(0.025 / np.std(d, ddof=1))
    # ranks of |d| without the zero: 1.5 3 4 1.5 5 6 7, of which the second 1.5 is negative
    assert result.rank_biserial == pytest.approx((26.5 - 1.5) / 28)
    error = np.std(d, ddof=1) / np.sqrt(8)
    one_sided = max(stats.t.sf((0.025 + ROPE) / error, 7), stats.t.cdf((0.025 - ROPE) / error, 7))
    assert result.p_equivalence == pytest.approx(one_sided)


def test_wilcoxon_equals_all_sign_flips() -> None:
    d = np.array([1.1, -0.4, 2.3, 0.7, 3.1, 1.9, -0.2, 2.8, 0.9])
    ranks = stats.rankdata(np.abs(d))
    signs = np.array(np.meshgrid(*[[0, 1]] * 9)).reshape(9, -1)
    sums = ranks @ signs
    observed = ranks[d > 0].sum()
    exact = 2 * min((sums >= observed).mean(), (sums <= observed).mean())
    assert paired_result(d, ROPE, n_resamples=100).p_wilcoxon == pytest.approx(exact)


def test_rank_biserial_is_the_balance_of_favourable_pairs() -> None:
    d = np.array([0.3, -0.1, 0.5, 0.2])
    walsh = [d[i] + d[j] for i in range(4) for j in range(i, 4)]  # Walsh sums
    assert rank_biserial(d) == pytest.approx(np.mean(np.sign(walsh)))
    assert rank_biserial(np.zeros(3)) == 0


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, np.nan, 0.03]), [0.03, 0.06, np.nan, 0.06])
    assert np.isnan(holm([np.nan])).all()


def test_holm_is_that_of_statsmodels() -> None:
    values = np.random.default_rng(0).random((4, 7)) ** 3
    values[:, 1] = values[:, 0]
    for p_values in values:
        np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1])


def test_detectable_difference_has_its_power() -> None:
    found = detectable_difference(0.02, 50, comparisons=2)
    critical = stats.t.ppf(1 - 0.0125, 49)
    shift = found / 0.02 * np.sqrt(50)
    power = stats.nct.sf(critical, 49, shift) + stats.nct.cdf(-critical, 49, shift)
    assert power == pytest.approx(0.8, abs=1e-4)
    assert detectable_effect(5, 0.05 / 10, 0.8) == pytest.approx(3.155, abs=1e-3)  # where the far tail is NaN
    assert detectable_effect(3, 0.05 / 20, 0.8) == pytest.approx(14.647, abs=1e-3)
    assert detectable_difference(0.0, 50) == 0
    assert np.isnan(detectable_difference(0.02, 5))


@pytest.mark.parametrize(
    ("mean", "sd", "p", "expected"),
    [
        (0.02, 0.01, 0.001, "better"),
        (-0.02, 0.01, 0.001, "worse"),
        (0.02, 0.01, 0.2, "cannot tell"),  # Holm does not agree
        (0.001, 0.002, 0.001, "equivalent"),  # surely there, surely small
        (0.0, 0.05, 0.9, "cannot tell"),
    ],
)
def test_verdicts(mean: float, sd: float, p: float, expected: str) -> None:
    d = stats.norm.ppf((np.arange(150) + 0.5) / 150) * sd + mean
    assert verdict(paired_result(d, ROPE, n_resamples=500), p, ROPE) == expected


def test_few_cases_are_never_equivalent() -> None:
    d = stats.norm.ppf((np.arange(149) + 0.5) / 149) * 0.002
    result = paired_result(d, ROPE, n_resamples=500)
    assert verdict(result, 0.9, ROPE) == "cannot tell"
    assert verdict(paired_result(d + 0.001, ROPE, n_resamples=500), 0.001, ROPE) == "better"
    assert np.isnan(smallest_margin(result))


def test_no_verdict_from_five_cases_and_none_from_none() -> None:
    assert verdict(paired_result(np.full(5, 0.1), ROPE), 0.001, ROPE) == "cannot tell"
    empty = paired_result(np.array([]), ROPE)
    assert empty.n == 0
    assert np.isnan(empty.mean)


def test_the_correction_by_hand() -> None:
    means = np.array([0.01, 0.02, 0.03, 0.02, 0.02])
    result = corrected_test(means, 5)
    t = 0.02 / (np.std(means, ddof=1) * np.sqrt(1 / 5 + 1 / 4))
    assert result.p == pytest.approx(2 * stats.t.sf(t, 4))
    assert result.high - result.low == pytest.approx(1.5 * 2 * stats.t.ppf(0.975, 4) * np.std(means, ddof=1) / 5**0.5)
    assert verdict_retrained(result, result.p, ROPE, 156) == "better"
    assert verdict_retrained(result, 0.06, ROPE, 156) == "cannot tell"
    assert verdict_retrained(corrected_test(-means, 5), result.p, ROPE, 156) == "worse"
    assert verdict_retrained(corrected_test(means - 0.02, 5), 1.0, 0.03, 156) == "equivalent"
    assert verdict_retrained(corrected_test(means[:1], 5), np.nan, ROPE, 156) == "cannot tell"
    assert verdict_retrained(corrected_test(means - 0.02, 5), 1.0, 0.03, 149) == "cannot tell"
    assert verdict_retrained(result, result.p, ROPE, 5) == "cannot tell"


def test_what_a_recipe_would_have_to_gain_is_detected_with_its_power() -> None:
    """Fold means that correlate as the correction assumes."""
    rng = np.random.default_rng(3)
    shared, own = rng.normal(0, np.sqrt(0.2), (4000, 1)), rng.normal(0, np.sqrt(0.8), (4000, 5))
    found = np.array([detectable_retrained(corrected_test(row, 5), 5) for row in (shared + own)[:200]])
    deviation = np.sqrt(0.8)  # of the fold means about their common mean, which the sample deviation estimates
    true = np.mean(found) * deviation / np.mean([np.std(row, ddof=1) for row in (shared + own)[:200]])
    power = np.mean([corrected_test(row + true, 5).p <= 0.05 for row in shared + own])
    assert power == pytest.approx(0.8, abs=0.03)
    assert np.isnan(detectable_retrained(corrected_test(np.array([0.1]), 5), 5))


def test_rank_shares_of_two_models_are_the_bootstraps_p(differences: np.ndarray) -> None:
    scores = pd.DataFrame({"a": differences, "b": 0.0, "c": 0.0})
    shares = rank_shares(scores, np.zeros(80), n_resamples=4000)
    expected = stats.norm.cdf(differences.mean() / (differences.std() / np.sqrt(80)))
    assert shares.loc["a", 1] == pytest.approx(expected, abs=0.03)
    assert shares.loc["b", 1] == shares.loc["c", 1] == pytest.approx(1 - shares.loc["a", 1])  # a tie shares the better
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_ranks_on_folds_of_one_case_are_not_certain() -> None:
    scores = pd.DataFrame({"a": [0.9, 0.1, 0.9, 0.1, 0.6], "b": 0.5})
    shares = rank_shares(scores, np.arange(5), n_resamples=4000)
    assert 0.4 < shares.loc["a", 1] < 0.8
