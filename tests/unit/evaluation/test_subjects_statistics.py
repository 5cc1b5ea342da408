"""The subject is the unit of intervals, tests, ranks and calibration: copies of a case are no further evidence."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.case_volumes import coverage_table, cross_validated, hit_rates
from hippo_nnunet.evaluation.comparison import Options, compare
from hippo_nnunet.evaluation.fold_means import rank_shares
from hippo_nnunet.evaluation.notes import NoteKind
from hippo_nnunet.evaluation.per_case import COLUMNS
from hippo_nnunet.evaluation.statistics import paired_result, smallest_margin, verdict
from hippo_nnunet.evaluation.subjects import subject_values
from hippo_nnunet.evaluation.volume_calibration import LabelCalibration, calibrate
from hippo_nnunet.evaluation.volumetry import agreement_table
from hippo_nnunet.evaluation.wording import sentence

ROPE = 0.005
SIZES = np.repeat([1, 2], [92, 64])
"""Cases of each subject, as in Task04: 220 cases of 156 subjects."""
SUBJECTS = np.repeat(np.arange(156), SIZES)


def clustered(rng: np.random.Generator, icc: float, sd: float = 1.0, mean: float = 0.0) -> np.ndarray:
    """Values of the 220 cases, correlated within subjects."""
    shared, own = rng.normal(0, np.sqrt(icc), 156)[SUBJECTS], rng.normal(0, np.sqrt(1 - icc), 220)
    return mean + sd * (shared + own)


def test_the_standard_error_is_the_cluster_robust_one() -> None:
    values = clustered(np.random.default_rng(0), 0.6)
    of_subjects = subject_values(values, SUBJECTS)
    assert of_subjects.mean() == pytest.approx(values.mean())
    fit = sm.OLS(values, np.ones(220)).fit(cov_type="cluster", cov_kwds={"groups": SUBJECTS})
    assert stats.sem(of_subjects) == pytest.approx(fit.bse[0])
    np.testing.assert_allclose(subject_values(values, np.arange(220)), values)


def test_copies_of_cases_change_nothing() -> None:
    d = stats.skewnorm.rvs(4, loc=-0.004, scale=0.02, size=60, random_state=3)
    folds = np.arange(60) % 5
    one = paired_result(d, ROPE, folds, n_resamples=500)
    subjects = np.tile(np.arange(60), 3)
    three = paired_result(np.tile(d, 3), ROPE, np.tile(folds, 3), n_resamples=500, subjects=subjects)
    same = {name: value for name, value in asdict(one).items() if name not in ("n", "sd", "cohens_dz")}
    assert {name: asdict(three)[name] for name in same} == pytest.approx(same)
    assert (one.n, three.n, three.subjects) == (60, 180, 60)
    naive = paired_result(np.tile(d, 3), ROPE, np.tile(folds, 3), n_resamples=500)
    assert naive.high - naive.low < 0.65 * (three.high - three.low)
    assert np.isnan(smallest_margin(three)), "60 subjects are too few for equivalence"
    assert smallest_margin(naive) > 0


def test_the_signed_rank_test_is_that_of_the_subjects_means() -> None:
    d = clustered(np.random.default_rng(1), 0.5, mean=0.1)
    means = pd.Series(d).groupby(SUBJECTS).mean()
    result = paired_result(d, ROPE, n_resamples=100, subjects=SUBJECTS)
    assert result.p_wilcoxon == pytest.approx(stats.wilcoxon(means).pvalue)
    assert result.mean == pytest.approx(d.mean())
    labelled = paired_result(d, ROPE, n_resamples=100, subjects=np.array([f"s{s:03d}" for s in SUBJECTS]))
    assert labelled == result


def test_subjects_with_cases_in_several_folds_are_resampled_together() -> None:
    d = clustered(np.random.default_rng(2), 0.5)
    broken, whole = np.arange(220) % 5, SUBJECTS % 5
    together = paired_result(d, ROPE, None, n_resamples=300, subjects=SUBJECTS)
    assert paired_result(d, ROPE, broken, n_resamples=300, subjects=SUBJECTS) == together
    assert paired_result(d, ROPE, whole, n_resamples=300, subjects=SUBJECTS) != together


def test_few_subjects_give_no_verdict_however_many_cases() -> None:
    d = np.repeat([0.1, 0.2, 0.1, 0.3, 0.2], 10) + np.linspace(0, 0.01, 50)
    result = paired_result(d, ROPE, subjects=np.repeat(np.arange(5), 10), n_resamples=200)
    assert verdict(result, 0.001, ROPE) == "cannot tell"
    one = paired_result(d, ROPE, subjects=np.zeros(50))
    assert (one.n, one.subjects) == (50, 1)
    assert np.isnan(one.low)


def test_ranks_of_copies() -> None:
    rng = np.random.default_rng(3)
    scores = pd.DataFrame({"a": rng.normal(0, 1, 60), "b": rng.normal(0.1, 1, 60)})
    folds = np.arange(60) % 3
    one = rank_shares(scores, folds, 400)
    two = pd.concat([scores, scores], ignore_index=True)
    copied = rank_shares(two, np.tile(folds, 2), 400, subjects=np.tile(np.arange(60), 2))
    pd.testing.assert_frame_equal(one, copied)


def volumes(errors: np.ndarray, subjects: np.ndarray) -> pd.DataFrame:
    reference = 1500 + 200 * np.random.default_rng(4).normal(size=int(subjects.max()) + 1)[subjects]
    return pd.DataFrame(
        {
            "case": [f"c{i:03d}" for i in range(len(errors))],
            "fold": subjects % 5,
            "label": "A",
            "volume_ref_mm3": reference,
            "volume_mm3": reference - errors,
        }
    )


def test_weights_of_residuals_by_hand() -> None:
    table = volumes(np.array([5.0, 1.0, 3.0, 2.0]), np.array([0, 0, 1, 2]))
    known = calibrate(table, {"A": 1}, 0.5, {"c000": "x", "c001": "x"}).by_label["A"]
    assert known.residuals_mm3 == pytest.approx((1, 2, 3, 5))
    assert known.weights == pytest.approx((1 / 8, 1 / 4, 1 / 4, 1 / 8))
    assert known.subjects == 3
    # from below 1/8, 3/8, 5/8, 6/8: three quarters are reached at 5; from above at 1
    assert known.interval(100, 0.5) == pytest.approx((101, 105))
    assert np.isnan(known.interval(100, 0.6)).all()


def test_calibration_on_copies_gives_the_same_intervals() -> None:
    errors = np.random.default_rng(5).gamma(1.5, 60, 60) - 40
    one = calibrate(volumes(errors, np.arange(60)), {"A": 1}).by_label["A"]
    table = volumes(np.tile(errors, 2), np.tile(np.arange(60), 2))
    subjects = {case: f"s{i % 60}" for i, case in enumerate(table["case"])}
    two = calibrate(table, {"A": 1}, subjects=subjects).by_label["A"]
    assert two.subjects == 60
    for level in (0.5, 0.8, 0.9):
        assert two.interval(1000, level) == pytest.approx(one.interval(1000, level))


def test_intervals_hold_for_new_subjects_where_cases_of_large_ones_are_unlike() -> None:
    """Ten subjects of eight similar cases and thirty of one, whose errors scatter three times as much."""
    rng = np.random.default_rng(6)
    sizes = np.repeat([8, 1], [10, 31])
    subjects = np.repeat(np.arange(41), sizes)
    held, naive = [], []
    for _ in range(600):
        scatter = np.repeat([20.0, 60.0], [80, 31])
        order = rng.permutation(41)
        errors = scatter * (rng.normal(size=41)[subjects] + 0.3 * rng.normal(size=len(subjects)))
        new = order[0]
        known = subjects != new
        drawn = rng.choice(errors[subjects == new])
        ordered = np.argsort(errors[known])
        weights = 1 / (41 * sizes[subjects[known]])
        residuals = tuple(errors[known][ordered])
        by_subject = LabelCalibration(residuals, tuple(weights[ordered]))
        by_case = LabelCalibration(residuals, (1 / (len(residuals) + 1),) * len(residuals))
        for found, calibration in ((held, by_subject), (naive, by_case)):
            low, high = calibration.interval(1000, 0.8)
            found.append(low <= 1000 + drawn <= high)
    assert np.mean(held) >= 0.8 - 3 * np.sqrt(0.8 * 0.2 / 600)
    assert np.mean(naive) < 0.8 - 3 * np.sqrt(0.8 * 0.2 / 600)


def test_the_subjects_of_a_fold_are_left_out_of_its_calibration() -> None:
    """Cases of these subjects in other folds would make the test of the intervals too kind."""
    errors = np.random.default_rng(9).normal(0, 60, 10)
    table = volumes(np.tile(errors, 2), np.tile(np.arange(10), 2)).assign(fold=np.repeat([0, 1], 10))
    subjects = {case: f"s{i % 10}" for i, case in enumerate(table["case"])}
    copied = cross_validated(table, {"A": 1}, 0.6)
    assert copied["calibration_cases"].eq(10).all()
    with pytest.raises(DataError, match="no case to calibrate"):  # all subjects are in both folds
        cross_validated(table, {"A": 1}, 0.6, subjects)
    table["fold"] = np.arange(20) // 5
    apart = cross_validated(table, {"A": 1}, 0.6, subjects)
    assert apart["calibration_cases"].eq(10).all()  # of the five subjects that are not in the fold
    assert cross_validated(table, {"A": 1}, 0.6)["calibration_cases"].eq(15).all()


def test_shares_and_agreement_of_copies_have_the_intervals_of_the_subjects() -> None:
    rng = np.random.default_rng(7)
    one = volumes(rng.normal(10, 60, 60), np.arange(60)).assign(variant="V", configuration="2d")
    two = pd.concat([one, one.assign(case=one["case"] + "x")], ignore_index=True)
    subjects = {f"{case}x": str(case) for case in one["case"]}
    found, copied = agreement_table(one), agreement_table(two, subjects=subjects)
    names = [name for name in found if name.endswith(("_low", "_high"))]
    np.testing.assert_allclose(found[names].to_numpy(), copied[names].to_numpy(), rtol=0.01)
    assert agreement_table(two)["bias_low_mm3"][0] > copied["bias_low_mm3"][0] + 3

    judged = one.assign(covered=np.arange(60) % 4 > 0, low_mm3=0.0, high_mm3=1.0, flags=["doubt", "", ""] * 20)
    twice = pd.concat([judged, judged.assign(case=judged["case"] + "x")], ignore_index=True)
    pd.testing.assert_frame_equal(
        coverage_table(judged).drop(columns="n"), coverage_table(twice, subjects).drop(columns="n")
    )
    dice = pd.Series(rng.uniform(0.7, 0.9, 60), one["case"])
    both = pd.concat([dice, dice.rename(lambda case: f"{case}x")])
    pd.testing.assert_frame_equal(
        hit_rates(judged, dice).drop(columns="n"), hit_rates(twice, both, subjects=subjects).drop(columns="n")
    )


def table_of_pairs() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    rows = []
    for variant, gain in (("UNet", 0.0), ("AttentionUNet", 0.004)):
        for case in range(60):
            values = dict.fromkeys(COLUMNS, 1.0)
            values.update(case=f"c{case:02d}", fold=case // 2 % 5, variant=variant, configuration="2d", label="A")  # type: ignore[arg-type]
            values["dice"] = 0.85 + gain + 0.01 * rng.normal()
            rows.append(values)
    return pd.DataFrame(rows)[list(COLUMNS)]


def test_a_comparison_counts_subjects_and_warns_where_folds_break_them_apart() -> None:
    table, subjects = table_of_pairs(), {f"c{case:02d}": str(case // 2) for case in range(60)}
    options = Options(n_resamples=200)
    plain, paired = compare(table, options), compare(table, options, subjects=subjects)
    row = paired.pairs.iloc[0]
    assert (row["n"], row["subjects"], plain.pairs.iloc[0]["subjects"]) == (60, 30, 60)
    assert "60 cases of 30 subjects" in sentence(row)
    assert "subjects" not in sentence(plain.pairs.iloc[0])
    assert row["difference"] == plain.pairs.iloc[0]["difference"]
    assert any("fewer than 150 subjects do not say 'equivalent'" in note.text for note in paired.notes)
    assert NoteKind.BROKEN_SUBJECTS not in {note.kind for note in paired.notes}
    apart = {case: str(int(case[1:]) // 3) for case in subjects}
    (note,) = (n for n in compare(table, options, subjects=apart).notes if n.kind == NoteKind.BROKEN_SUBJECTS)
    assert note.text.startswith("60 of 60 cases have another case of their subject in another fold")
