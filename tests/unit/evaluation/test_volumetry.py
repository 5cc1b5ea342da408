"""Agreement of volumes, intervals for them, and flags."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.case_volumes import coverage_table, cross_validated, hit_rates, judge
from hippo_nnunet.evaluation.segmentation_shape import MEASURES, Segmentation, measure_labels
from hippo_nnunet.evaluation.volume_calibration import calibrate
from hippo_nnunet.evaluation.volumetry import agreement_table, bland_altman, intraclass_correlation

LABELS = {"Anterior": 1, "Posterior": 2}
REFERENCE = np.array([1510.0, 1720, 1345, 1998, 1642, 1201, 1877, 1560])
PREDICTED = np.array([1490.0, 1741, 1300, 1950, 1650, 1180, 1840, 1602])


def test_bland_altman_by_hand() -> None:
    found = bland_altman(PREDICTED, REFERENCE)
    d = PREDICTED - REFERENCE
    assert found.bias_mm3 == pytest.approx(-12.5)
    assert found.upper_mm3 - found.lower_mm3 == pytest.approx(2 * 1.96 * np.std(d, ddof=1))
    # Bland & Altman's approximation of the limits' standard error, which the exact interval surrounds
    error = np.std(d, ddof=1) * np.sqrt(1 / 8 + 1.96**2 / (2 * 7))
    assert found.upper_high_mm3 - found.upper_low_mm3 == pytest.approx(2 * 2.365 * error, rel=0.2)
    assert found.upper_high_mm3 - found.upper_mm3 > found.upper_mm3 - found.upper_low_mm3
    assert found.lower_mm3 - found.lower_low_mm3 == pytest.approx(found.upper_high_mm3 - found.upper_mm3)
    alone = bland_altman(PREDICTED[:1], REFERENCE[:1])
    assert (alone.n, alone.bias_mm3) == (1, -20)
    assert np.isnan(alone.sd_mm3)


def test_proportional_bias_by_hand() -> None:
    found = bland_altman(PREDICTED, REFERENCE)
    mean, d = (PREDICTED + REFERENCE) / 2, PREDICTED - REFERENCE
    fit = sm.OLS(d, sm.add_constant(mean)).fit()
    assert found.slope == pytest.approx(fit.params[1])
    assert (found.slope_low, found.slope_high) == pytest.approx(tuple(fit.conf_int()[1]))
    wider = bland_altman(PREDICTED, REFERENCE, subjects=5)
    assert wider.slope == found.slope
    assert wider.slope_high - wider.slope_low > found.slope_high - found.slope_low
    assert np.isnan(bland_altman(PREDICTED[:2], REFERENCE[:2]).slope)


def test_a_network_that_shrinks_large_volumes_has_a_negative_slope() -> None:
    rng = np.random.default_rng(2)
    reference = rng.normal(1500, 200, 200)
    found = bland_altman(1500 + 0.85 * (reference - 1500) + rng.normal(0, 30, 200), reference)
    assert found.slope == pytest.approx(-0.16, abs=0.03)
    assert found.slope_high < -0.1


def test_limits_cover_as_they_say() -> None:
    """Simulated normal differences: the intervals of bias and limits hold the truth in 95 of 100 samples."""
    rng = np.random.default_rng(5)
    found = [bland_altman(d, np.zeros(12)) for d in rng.normal(20, 50, (1000, 12))]
    held = [
        np.mean([f.bias_low_mm3 <= 20 <= f.bias_high_mm3 for f in found]),
        np.mean([f.upper_low_mm3 <= 20 + 1.96 * 50 <= f.upper_high_mm3 for f in found]),
        np.mean([f.lower_low_mm3 <= 20 - 1.96 * 50 <= f.lower_high_mm3 for f in found]),
    ]
    assert held == pytest.approx([0.95] * 3, abs=0.025)


def test_icc_is_the_concordance_of_unbiased_variances() -> None:
    x, y = PREDICTED, REFERENCE
    covariance = np.cov(x, y)
    denominator = covariance[0, 0] + covariance[1, 1] + (x.mean() - y.mean()) ** 2
    denominator -= np.var(x - y, ddof=1) / len(x)
    assert intraclass_correlation(x, y).icc == pytest.approx(2 * covariance[0, 1] / denominator)


def test_icc_equals_pingouins() -> None:
    pingouin = pytest.importorskip("pingouin")
    rows = pd.DataFrame({"v": [*PREDICTED, *REFERENCE], "case": [*range(8)] * 2, "rater": ["p"] * 8 + ["r"] * 8})
    theirs = pingouin.intraclass_corr(rows, targets="case", raters="rater", ratings="v").set_index("Type")
    row = theirs.loc["ICC(A,1)" if "ICC(A,1)" in theirs.index else "ICC2"]
    ours = intraclass_correlation(PREDICTED, REFERENCE)
    assert ours.icc == pytest.approx(row["ICC"], abs=1e-4)
    interval = row["CI95"] if "CI95" in row else row["CI95%"]
    assert [ours.icc_low, ours.icc_high] == pytest.approx(list(interval), abs=0.01)


def test_icc_interval_covers_and_edge_cases() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 3, (600, 25, 1))
    pairs = truth + rng.normal(0, 1, (600, 25, 2)) + rng.normal(0, 0.0, (600, 1, 2))
    found = [intraclass_correlation(p[:, 0], p[:, 1]) for p in pairs]
    assert np.mean([f.icc_low <= 0.9 <= f.icc_high for f in found]) == pytest.approx(0.95, abs=0.03)
    assert intraclass_correlation(REFERENCE, REFERENCE).icc == 1
    assert intraclass_correlation(REFERENCE, REFERENCE + 400).icc < 0.6  # a correlation would be 1
    assert np.isnan(intraclass_correlation(np.ones(5), np.ones(5)).icc)
    assert np.isnan(intraclass_correlation(REFERENCE[:2], PREDICTED[:2]).icc)


def measured(n: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    parts = []
    for label, size in (("Anterior", 1800.0), ("Posterior", 1500.0)):
        reference = size * np.exp(rng.normal(0, 0.2, n))
        table = pd.DataFrame({"case": [f"c{i:03d}" for i in range(n)], "fold": np.arange(n) % 5, "label": label})
        parts.append(table.assign(volume_ref_mm3=reference, volume_mm3=reference + 30 + rng.exponential(60, n)))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(
        components=1, elongation=rng.normal(0.6, 0.03, 2 * n), elongation_ref=rng.normal(0.6, 0.03, 2 * n), doubt=0.1
    )


def test_intervals_follow_the_order_of_the_residuals() -> None:
    table = pd.DataFrame({"label": "A", "volume_mm3": 1000.0, "volume_ref_mm3": 1000.0 + np.arange(19)})
    calibration = calibrate(table, {"A": 1}, level=0.9)
    assert calibration.by_label["A"].interval(500, 0.9) == (500, 518)  # of 19 the 1st and the 19th
    assert calibration.by_label["A"].interval(1, 0.9)[0] == 1
    assert calibrate(table.assign(volume_ref_mm3=990.0), {"A": 1}).by_label["A"].interval(5, 0.9) == (0, 0)
    few = calibrate(table.head(18), {"A": 1}).by_label["A"].interval(500, 0.9)
    assert np.isnan(few).all()  # 18 cases cannot bound 90 %
    with pytest.raises(DataError, match="no case to calibrate the volumes of label B"):
        calibrate(table, {"B": 1})


def test_intervals_cover_biased_and_skewed_errors() -> None:
    tables = [cross_validated(measured(seed=seed), LABELS) for seed in range(5)]
    coverage = coverage_table(pd.concat(tables))
    coverage = coverage[coverage["label"] != "every label"]
    assert coverage["n"].tolist() == [1000, 1000]
    assert (coverage["coverage"] >= 0.88).all()
    assert (coverage["coverage"] <= 0.94).all()
    assert ((coverage["coverage_low"] < 0.92) & (coverage["coverage_high"] > 0.88)).all()
    assert (coverage["width_mm3"] < 250).all()  # the central 90 % of an exponential of 60 are 174 wide
    few = cross_validated(measured(20), LABELS)
    assert few["covered"].isna().all()
    assert coverage_table(few)["n"].tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="1 fold"):
        cross_validated(measured().query("fold == 0"), LABELS)


def test_shapes() -> None:
    array = np.zeros((20, 20, 20), dtype=np.uint8)
    array[2:18, 5:7, 5:7] = 1
    array[10:12, 12:14, 12:14] = 2
    array[12, 14, 14] = 2  # touches at a corner: one piece
    probabilities = np.full((3, 20, 20, 20), 0.2)
    probabilities[0] = 0.6
    whole = Segmentation("c", array, (1.0, 1.0, 2.0), probabilities)
    rows = measure_labels(whole, {**LABELS, "both": (1, 2)})
    assert [row["components"] for row in rows] == [1, 1, 2]
    assert rows[0]["volume_mm3"] == 128
    assert rows[0]["elongation"] == pytest.approx(np.std(np.repeat(np.arange(16), 4), ddof=1) / 128 ** (1 / 3))
    assert rows[0]["doubt"] == pytest.approx(0.4)
    empty = measure_labels(Segmentation("e", np.zeros((3, 3, 3)), (1, 1, 1)), LABELS)[0]
    assert (empty["volume_mm3"], empty["components"]) == (0, 0)
    assert np.isnan(empty["elongation"])
    ball = np.indices((41, 41, 41)) - 20
    round_ = measure_labels(Segmentation("b", (np.sum(ball**2, axis=0) < 18**2) * 1, (1, 1, 1)), {"A": 1})[0]
    assert round_["elongation"] == pytest.approx(0.277, abs=0.005)
    with pytest.raises(DataError, match="cannot have the spacing"):
        measure_labels(Segmentation("c", array, (1, 1)), LABELS)
    with pytest.raises(DataError, match=r"got probabilities or masks of shape \(19, 20, 20\)"):
        measure_labels(Segmentation("c", array, (1, 1, 1), probabilities[:, 1:]), LABELS)


def test_volumes_of_new_cases() -> None:
    table = measured()
    calibration = calibrate(table.assign(elongation_ref=0.28 + 0.01 * np.arange(400) / 400), LABELS)
    array = np.zeros((30, 30, 30), dtype=np.uint8)
    array[5:17, 5:17, 5:17] = 1
    array[18:29, 5:17, 5:17] = 2
    broken = array.copy()
    broken[0, 29, 29] = 1
    broken[broken == 2] = 0
    cases = (Segmentation("fine", array, (1, 1, 1)), Segmentation("broken", broken, (1, 1, 1)))
    rows = [row for case in cases for row in measure_labels(case, LABELS)]
    found = judge(pd.DataFrame(rows), calibration).set_index(["case", "label"])
    assert found.loc[("fine", "Anterior"), "volume_mm3"] == 1728
    assert (found["low_mm3"] < found["volume_mm3"]).drop(("broken", "Posterior")).all()
    assert found.loc[("fine", "Anterior"), "high_mm3"] < 1728  # the model was calibrated to outline too much
    assert found.loc[("fine", "Anterior"), "flags"] == ""
    assert "components" in found.loc[("broken", "Anterior"), "flags"]
    assert found.loc[("broken", "Posterior"), "flags"] == "volume"
    assert judge(pd.DataFrame(columns=["case", "label", *MEASURES]), calibration).empty


def test_flags_find_bad_cases_and_their_worth_is_told() -> None:
    table = measured()
    bad = table["case"].isin(["c003", "c017", "c040"])
    table.loc[bad & (table["label"] == "Anterior"), ["components", "volume_mm3"]] = [3, 200.0]
    table.loc[table["case"] == "c100", "doubt"] = 0.5
    dice = pd.Series(0.9, index=table["case"].unique()) + np.linspace(0, 0.01, 200)
    dice[["c003", "c017", "c040"]] = 0.3
    judged = cross_validated(table, LABELS)
    rates = hit_rates(judged, dice).set_index("flag")  # the 20 worst: 3 bad ones and the first of the others
    assert rates.loc["components", ["n", "hit_rate", "flagged"]].tolist() == [20, 3 / 20, 3 / 200]
    assert rates.loc["volume", "hit_rate"] == 3 / 20
    assert rates.loc["doubt", "hit_rate"] == 0
    assert rates.loc["components", "p"] < 1e-3 < rates.loc["doubt", "p"]
    with pytest.raises(DataError, match="1 flagged cases have no Dice"):
        hit_rates(judged, dice.drop("c003"))
    known = judge(
        table[["case", "label", "volume_mm3"]], calibrate(table[["label", "volume_mm3", "volume_ref_mm3"]], LABELS)
    )
    assert set(" ".join(known["flags"]).split()) == {"volume"}


def test_agreement_per_label() -> None:
    table = measured().assign(variant="UNet", configuration="2d")
    found = agreement_table(table)
    assert found[["variant", "label", "n"]].values.tolist() == [["UNet", "Anterior", 200], ["UNet", "Posterior", 200]]
    assert found["bias_mm3"].between(75, 105).all()
    assert found["icc"].between(0.7, 0.99).all()
