"""The verdicts over many simulated experiments: how often they are wrong, and how often they find what is there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hippo_nnunet.evaluation.fold_means import corrected_test, verdict_retrained
from hippo_nnunet.evaluation.statistics import detectable_difference, paired_result, verdict

pytestmark = pytest.mark.slow

ROPE = 0.005
FOLDS = np.arange(50) % 5
SUBJECTS = np.repeat(np.arange(156), np.repeat([1, 2], [92, 64]))
"""Subject of each case, as in Task04."""


def simulated_dice(rng: np.random.Generator, experiments: int, variants: int, noise: float) -> np.ndarray:
    """Skewed Dice of variants without a true difference: (experiments, variants, cases); hard cases scatter more."""
    difficulty = rng.beta(1.5, 12, (experiments, 1, 40))
    scatter = noise * (0.5 + 4 * difficulty) * rng.standard_t(5, (experiments, variants, 40))
    return 1 - difficulty + scatter


@pytest.mark.parametrize("noise", [0.015, 0.06])
def test_no_true_difference(noise: float) -> None:
    """Two variants against one baseline, 500 experiments for each noise: 1,000 in all."""
    rng = np.random.default_rng(11)
    verdicts = []
    for dice in simulated_dice(rng, 500, 3, noise):
        results = [paired_result(dice[k] - dice[0], ROPE, FOLDS[:40], n_resamples=499) for k in (1, 2)]
        p = [result.p_wilcoxon for result in results]
        corrected = [max(p_k, 2 * min(p)) for p_k in p]  # Holm's; statsmodels takes 50 ms for each call
        verdicts.append([verdict(r, p_k, ROPE) for r, p_k in zip(results, corrected, strict=True)])
    better = np.mean(["better" in v for v in verdicts])
    either = np.mean(["better" in v or "worse" in v for v in verdicts])
    assert better <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 500)  # a two-sided 0.05 leaves 0.025 for better
    assert either <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 500)
    if noise > 0.05:
        assert either > 0  # the rule is not just silent


def test_equivalence_at_the_border_and_inside() -> None:
    """Declared for a true difference of the region's own width in 5 % at most, and mostly for none at all."""
    rng = np.random.default_rng(12)
    for true, bound in ((ROPE, (0, 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200))), (0.0, (0.8, 1))):
        found = [
            paired_result(rng.normal(true, 0.02, 150), ROPE, np.arange(150) % 5, n_resamples=499) for _ in range(200)
        ]
        rate = np.mean([verdict(r, r.p_wilcoxon, ROPE) == "equivalent" for r in found])
        assert bound[0] <= rate <= bound[1]


@pytest.mark.parametrize("cases", [44, 150, 220])
def test_a_model_that_rarely_fails_is_seldom_called_equivalent(cases: int) -> None:
    """One case in 50 loses 0.5 Dice, so that the true difference is -0.01, twice the margin."""
    rng = np.random.default_rng(17)
    found = []
    for _ in range(300):
        d = rng.normal(0, 0.01, cases) - 0.5 * (rng.random(cases) < 0.02)
        result = paired_result(d, ROPE, np.arange(cases) % 5, n_resamples=499)
        found.append(verdict(result, result.p_wilcoxon, ROPE) == "equivalent")
    assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_power_and_coverage_are_as_computed() -> None:
    """A true difference of `detectable_difference` is called better in 80 % of the experiments."""
    rng = np.random.default_rng(13)
    true = detectable_difference(0.03, len(FOLDS))
    assert true > 2 * ROPE
    found = [paired_result(rng.normal(true, 0.03, len(FOLDS)), ROPE, FOLDS, n_resamples=499) for _ in range(500)]
    power = np.mean([verdict(r, r.p_wilcoxon, ROPE) == "better" for r in found])
    assert power == pytest.approx(0.8, abs=0.02 + 3 * np.sqrt(0.8 * 0.2 / 500))  # signed ranks cost up to 0.02
    coverage = np.mean([r.low <= true <= r.high for r in found])
    assert coverage == pytest.approx(0.95, abs=0.01 + 3 * np.sqrt(0.05 * 0.95 / 500))


def test_the_correction_allows_for_folds_that_correlate() -> None:
    """Fold means with the correlation that the correction assumes, 1 / K: exact there, too bold without it."""
    rng = np.random.default_rng(14)
    shared, own = rng.normal(0, np.sqrt(0.2), (2000, 1)), rng.normal(0, np.sqrt(0.8), (2000, 5))
    means = 0.003 * (shared + own)
    corrected = np.mean([corrected_test(m, 5).p <= 0.05 for m in means])
    naive = np.mean(stats.ttest_1samp(means, 0, axis=1).pvalue <= 0.05)
    assert corrected == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 2000))
    assert naive > 0.09


def test_the_correction_on_cross_validated_learners() -> None:
    """Two learners that are equally good by symmetry: each predicts the mean of its own noisy copy of the target."""
    rng = np.random.default_rng(15)
    fold, runs = np.arange(40) % 5, 2000
    target, *copies = rng.normal(0, [[[1.0]], [[1.5]], [[1.5]]], (3, runs, 40))
    losses = np.empty((2, runs, 40))
    for k in range(5):
        for row, copy in zip(losses, copies, strict=True):
            row[:, fold == k] = (target[:, fold == k] - copy[:, fold != k].mean(axis=1, keepdims=True)) ** 2
    difference = losses[0] - losses[1]
    means = np.stack([difference[:, fold == k].mean(axis=1) for k in range(5)], axis=1)
    corrected = np.mean([corrected_test(m, 5).p <= 0.05 for m in means])
    naive = np.mean(stats.ttest_1samp(means, 0, axis=1).pvalue <= 0.05)
    assert corrected <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert naive > corrected


def test_luck_of_training_is_what_only_the_second_verdict_allows_for() -> None:
    """Models that differ by luck alone, as much as cases scatter a fold's mean: docs/statistics.md quotes this."""
    rng = np.random.default_rng(16)
    first, second = [], []
    for _ in range(200):
        d = rng.normal(0, 0.02, len(FOLDS)) + rng.normal(0, 0.02 / np.sqrt(10), 5)[FOLDS]
        result = paired_result(d, 0.001, FOLDS, n_resamples=499)
        first.append(verdict(result, result.p_wilcoxon, 0.001))
        means = np.array([d[k == FOLDS].mean() for k in range(5)])
        retrained = corrected_test(means, 5)
        second.append(verdict_retrained(retrained, retrained.p, 0.001, len(d)))
    wrong = [np.mean(np.isin(verdicts, ["better", "worse"])) for verdicts in (first, second)]
    assert wrong[0] > 0.08
    assert wrong[1] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def clustered_differences(rng: np.random.Generator, icc: float, sd: float, mean: float = 0.0) -> np.ndarray:
    """Differences of the 220 cases of 156 subjects of Task04, correlated within subjects."""
    shared, own = rng.standard_t(6, 156)[SUBJECTS], rng.standard_t(6, 220)
    return mean + sd * (np.sqrt(icc) * shared + np.sqrt(1 - icc) * own)


def test_rates_hold_with_two_cases_of_a_subject() -> None:
    """The unit is the subject: without that, models without a difference are called better or worse too often."""
    rng = np.random.default_rng(18)
    verdicts: dict[bool, list[str]] = {True: [], False: []}
    covered = []
    for _ in range(400):
        d = clustered_differences(rng, 0.8, 0.05)
        for known, said in verdicts.items():
            units = SUBJECTS if known else None
            result = paired_result(d, 0.001, SUBJECTS % 5, n_resamples=299, subjects=units)
            said.append(verdict(result, result.p_wilcoxon, 0.001))
            if known:
                covered.append(result.low <= 0 <= result.high)
    wrong = {known: np.mean(np.isin(said, ["better", "worse"])) for known, said in verdicts.items()}
    assert wrong[True] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert wrong[False] > 0.07
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01 + 3 * np.sqrt(0.05 * 0.95 / 400))


def test_equivalence_with_two_cases_of_a_subject() -> None:
    """A true difference of the region's width is called equivalent in 5 % of the experiments at most."""
    rng = np.random.default_rng(19)
    found = []
    for _ in range(400):
        d = clustered_differences(rng, 0.8, 0.02, ROPE)
        result = paired_result(d, ROPE, SUBJECTS % 5, n_resamples=299, subjects=SUBJECTS)
        found.append(verdict(result, 1.0, ROPE) == "equivalent")
    assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_model_that_rarely_fails_on_a_subject_is_seldom_called_equivalent() -> None:
    """One subject in 50 loses 0.5 Dice in all of its cases."""
    rng = np.random.default_rng(20)
    found = []
    for _ in range(300):
        d = clustered_differences(rng, 0.6, 0.01) - 0.5 * (rng.random(156) < 0.02)[SUBJECTS]
        result = paired_result(d, ROPE, SUBJECTS % 5, n_resamples=299, subjects=SUBJECTS)
        found.append(verdict(result, result.p_wilcoxon, ROPE) == "equivalent")
    assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
