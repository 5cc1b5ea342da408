"""The mixed model of several trainings: against sums of squares by hand, and what more trainings tell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hippo_nnunet.evaluation.mixed_model import mixed_result


def simulate(
    rng: np.random.Generator,
    training: float,
    repeats: int = 3,
    mean: float = 0.01,
    cases: int = 12,
    per_subject: int = 1,
) -> pd.DataFrame:
    """Differences of five folds, balanced: a row for each case and pair of repeats."""
    rows = []
    for fold in range(5):
        luck = rng.normal(0, training, repeats)
        for case in range(cases):
            own = rng.normal(0, 0.02)
            for repeat in range(repeats):
                value = mean + own + luck[repeat] + rng.normal(0, 0.01)
                rows.append((value, f"{fold}_{case}", f"{fold}_{case}", fold, repeat))
    return pd.DataFrame(rows, columns=["difference", "case", "subject", "fold", "repeat"])


def test_equals_the_analysis_of_variance_of_balanced_data() -> None:
    """Where no variance is estimated as zero, restricted maximum likelihood gives the classical estimates."""
    table = simulate(np.random.default_rng(3), training=0.03)
    result = mixed_result(table)
    cube = table["difference"].to_numpy().reshape(5, 12, 3)
    folds, cases, repeats = cube.shape
    by_case, by_training, by_fold = cube.mean(2), cube.mean(1), cube.mean((1, 2))
    within = folds * (cases - 1) * (repeats - 1)
    rest = ((cube - by_case[..., None] - by_training[:, None] + by_fold[:, None, None]) ** 2).sum() / within
    of_case = repeats * ((by_case - by_fold[:, None]) ** 2).sum() / (folds * (cases - 1))
    of_training = cases * ((by_training - by_fold[:, None]) ** 2).sum() / (folds * (repeats - 1))
    assert result.mean == pytest.approx(cube.mean())
    # the folds' means add to what is known of the variances, so that the estimates agree but for that
    assert result.training_sd == pytest.approx(np.sqrt((of_training - rest) / cases), rel=0.15)
    variance = ((of_case - rest) / repeats / cases + result.training_sd**2 / repeats + rest / (cases * repeats)) / folds
    half = stats.t.ppf(0.975, 14) * np.sqrt(variance)
    assert (result.low, result.high) == pytest.approx((cube.mean() - half, cube.mean() + half), rel=0.02)


def test_luck_of_training_widens_the_interval() -> None:
    calm, lucky = (mixed_result(simulate(np.random.default_rng(5), training)) for training in (0.0, 0.05))
    assert calm.training_sd < 0.005 < lucky.training_sd
    assert calm.high - calm.low < (lucky.high - lucky.low) / 2
    assert calm.p < 0.05 < lucky.p


def test_two_cases_of_a_subject_are_not_two_subjects() -> None:
    rng = np.random.default_rng(7)
    first = simulate(rng, 0.0, repeats=2, cases=30)
    second = first.assign(case=first["case"] + "b", difference=first["difference"] + rng.normal(0, 0.01, len(first)))
    pairs = pd.concat([first, second], ignore_index=True)
    width, as_if_apart, alone = (
        result.high - result.low for result in map(mixed_result, (pairs, pairs.assign(subject=pairs["case"]), first))
    )
    assert as_if_apart < 0.92 * width
    assert width == pytest.approx(alone, rel=0.2)


@pytest.mark.parametrize(("repeats", "folds"), [(1, 5), (3, 1)])
def test_too_few_trainings_give_no_estimate(repeats: int, folds: int) -> None:
    table = simulate(np.random.default_rng(1), 0.01, repeats=repeats)
    assert np.isnan(mixed_result(table[table["fold"] < folds]).mean)


def test_identical_models() -> None:
    result = mixed_result(simulate(np.random.default_rng(1), 0.0).assign(difference=0.0))
    assert (result.mean, result.low, result.high, result.p) == (0, 0, 0, 1)


def test_repeats_that_are_copies_give_no_interval() -> None:
    table = simulate(np.random.default_rng(1), 0.0, repeats=1)
    result = mixed_result(pd.concat([table, table.assign(repeat=1)], ignore_index=True))
    assert result.mean == pytest.approx(table["difference"].mean())
    assert np.isnan([result.low, result.high, result.p]).all()
