"""Intervals hold as often as they say, flags find what they should, and the ICC agrees with an analysis of variance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.case_volumes import (
    EVERY_LABEL,
    SIZES,
    coverage_by_part,
    coverage_table,
    cross_validated,
    hit_rates,
    judge,
)
from hippo_nnunet.evaluation.segmentation_shape import Segmentation, measure_labels
from hippo_nnunet.evaluation.volume_calibration import (
    LabelCalibration,
    calibrate,
    subjects_needed,
    uncalibrated,
    with_total,
)
from hippo_nnunet.evaluation.volumetry import intraclass_correlation

LABELS = {"Anterior": 1, "Posterior": 2}


def of_subjects(residuals: Sequence[float]) -> LabelCalibration:
    """A calibration with ascending residuals, each of a subject of its own."""
    return LabelCalibration(tuple(map(float, residuals)), (1 / (len(residuals) + 1),) * len(residuals))


@pytest.mark.parametrize(("n", "level"), [(19, 0.9), (20, 0.9), (44, 0.9), (44, 0.8), (220, 0.95), (3, 0.5)])
def test_intervals_hold_as_often_as_they_say(n: int, level: float) -> None:
    """Skewed, biased errors of cases that are exchangeable: the coverage is the order statistics' own, never less."""
    rng = np.random.default_rng(n)
    repetitions = 2000
    errors = rng.gamma(1.5, 60, (repetitions, n + 1)) - 40
    held = 0
    for *calibration, new in errors.tolist():
        low, high = of_subjects(sorted(calibration)).interval(1000, level)
        held += low <= 1000 + new <= high
    tail = math.floor((n + 1) * (1 - level) / 2 + 1e-9)
    exact = 1 - 2 * tail / (n + 1)
    assert exact >= level - 1e-9
    low, high = stats.binom.interval(0.9999, repetitions, exact) if exact < 1 else (repetitions, repetitions)
    assert low <= held <= high
    assert exact < level + 2 / (n + 1)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_few_cases_bound_nothing(level: float) -> None:
    needed = subjects_needed(level)
    enough = of_subjects(range(needed))
    assert enough.interval(100, level) == (100, 100 + needed - 1)
    few = of_subjects(range(needed - 1))
    assert np.isnan(few.interval(100, level)).all()


def test_a_level_that_is_none() -> None:
    table = pd.DataFrame({"label": ["A"], "volume_mm3": [1.0], "volume_ref_mm3": [1.0]})
    for level in (0, 1, 90):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            calibrate(table, {"A": 1}, level)


def out_of_fold(n: int = 100, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    parts = []
    for label in LABELS:
        reference = rng.normal(1500, 150, n)
        table = pd.DataFrame({"case": [f"c{i:03d}" for i in range(n)], "fold": np.arange(n) % 5, "label": label})
        parts.append(table.assign(volume_ref_mm3=reference, volume_mm3=reference + rng.normal(20, 50, n)))
    return pd.concat(parts, ignore_index=True).assign(
        elongation_ref=rng.normal(0.5, 0.02, 2 * n),
        elongation=0.5,
        border_ref=False,
        border=False,
        components=1,
        doubt=rng.uniform(0, 0.1, 2 * n),
        disagreement=rng.uniform(0, 0.1, 2 * n),
    )


def test_every_interval_of_a_case_at_once() -> None:
    """Independent errors: two intervals of 90 % hold together for about 81 %."""
    judged = pd.concat(
        cross_validated(out_of_fold(200, seed), LABELS).assign(case=lambda t, s=seed: t["case"] + f"_{s}")
        for seed in range(2)
    )
    table = coverage_table(judged).set_index("label")
    assert table.loc[EVERY_LABEL, "n"] == 400
    assert table.loc[EVERY_LABEL, "coverage"] == pytest.approx(0.82, abs=0.06)
    assert table.loc["Anterior", "width_share"] == pytest.approx(table.loc["Anterior", "width_mm3"] / 1500, rel=0.01)


def test_coverage_by_fold_and_size() -> None:
    table = out_of_fold(150)
    table["volume_mm3"] -= 0.4 * (table["volume_ref_mm3"] - 1500)  # large volumes are underestimated
    judged = cross_validated(table, LABELS)
    parts = coverage_by_part(judged)
    assert parts["part"].tolist() == [*(f"fold {k}" for k in range(5)), *SIZES] * 2
    for _, of_label in parts.groupby("label"):
        for group in (of_label[:5], of_label[5:]):
            assert group["n"].sum() == 150
            hits = (group["n"] * group["coverage"]).sum()
            assert hits == judged[judged["label"] == of_label["label"].iloc[0]]["covered"].sum()
        small, middle, large = of_label["coverage"][5:]
        assert middle > max(small, large)
    few = coverage_by_part(cross_validated(out_of_fold(10), LABELS))
    assert few.empty, "no interval has two ends"


def test_a_reference_that_is_not_known_calibrates_nothing() -> None:
    table = out_of_fold()
    table.loc[table["case"] == "c007", "volume_ref_mm3"] = np.nan
    judged = cross_validated(table, LABELS)
    assert judged.loc[judged["case"] == "c007", "covered"].isna().all()
    assert coverage_table(judged)["n"].tolist() == [99, 99, 99]
    calibrated_on = judged.groupby("fold")["calibration_cases"].unique().map(list).to_dict()
    assert calibrated_on == {0: [79], 1: [79], 2: [80], 3: [79], 4: [79]}  # fold 2 has the case itself


def judged_case(calibration: pd.DataFrame, **changes: float) -> dict[str, object]:
    row = {"case": "new", "label": "Anterior", "volume_mm3": 1500.0, "components": 1, "elongation": 0.5}
    new = {**row, "border": False, "doubt": 0.05, "disagreement": 0.05, **changes}
    return dict(judge(pd.DataFrame([new]), calibrate(calibration, LABELS)).iloc[0])


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, ""),
        ({"volume_mm3": 300.0}, "volume"),
        ({"volume_mm3": 0.0, "elongation": np.nan}, "volume"),
        ({"elongation": 0.8}, "shape"),
        ({"components": 2}, "components"),
        ({"border": True}, "border"),
        ({"doubt": 0.2}, "doubt"),
        ({"disagreement": 0.2, "components": 3}, "components disagreement"),
        ({"doubt": np.nan, "disagreement": np.nan}, ""),
    ],
)
def test_each_flag_has_its_reason(changes: dict[str, float], flags: str) -> None:
    assert judged_case(out_of_fold(), **changes)["flags"] == flags


def test_what_references_do_is_not_flagged() -> None:
    usual = out_of_fold()
    usual["border_ref"] = usual.index % 10 == 0
    assert judged_case(usual, border=True)["flags"] == ""
    usual.loc[3, ["volume_ref_mm3", "volume_mm3", "elongation_ref"]] = [0, 0, np.nan]
    absent = judged_case(usual, volume_mm3=0.0, elongation=np.nan)
    assert absent["flags"] == ""
    assert absent["low_mm3"] == 0
    missing = judged_case(out_of_fold(), volume_mm3=0.0, elongation=np.nan)
    assert np.isnan([missing["low_mm3"], missing["high_mm3"]]).all()


def test_without_calibration_only_what_can_be_seen() -> None:
    array = np.zeros((9, 9, 9), dtype=np.uint8)
    array[1:3, 1:3, 1:3] = array[6:8, 6:8, 6:8] = 1
    found = judge(pd.DataFrame(measure_labels(Segmentation("c", array, (1, 1, 2)), LABELS)), uncalibrated(LABELS))
    assert found["flags"].tolist() == ["components", "volume"]
    assert found["volume_mm3"].tolist() == [32, 0]
    assert found[["low_mm3", "high_mm3", "level"]].isna().all(axis=None)
    assert found["calibration_cases"].tolist() == [0, 0]


def test_pieces_border_and_disagreement() -> None:
    array = np.zeros((8, 8, 8), dtype=np.uint8)
    array[2:4, 2:4, 2:4] = 1
    array[4:6, 2:4, 7] = 2
    raw = array.copy()
    raw[6, 6, 6] = 1  # what postprocessing has taken away
    half = array.copy()
    half[2, 2:4, 2:4] = 0
    given = Segmentation("c", array, (1, 1, 1), None, raw, [array, half, array])
    rows = {str(row["label"]): row for row in measure_labels(given, {**LABELS, "absent": 5})}
    assert [row["components"] for row in rows.values()] == [2, 1, 0]
    assert [row["border"] for row in rows.values()] == [False, True, False]
    dice = 2 * 4 / (8 + 4)
    assert rows["Anterior"]["disagreement"] == pytest.approx(1 - (dice + 1 + dice) / 3)
    assert [rows[name]["disagreement"] for name in ("Posterior", "absent")] == [0, 0]
    alone = measure_labels(Segmentation("c", array, (1, 1, 1), of_models=[array]), LABELS)
    assert np.isnan(alone[0]["disagreement"])
    flat = measure_labels(Segmentation("c", array[2:3], (1, 1, 1)), LABELS)[0]
    assert flat["border"] is False  # an axis of one voxel has no border
    with pytest.raises(DataError, match="case c: got probabilities or masks of shape"):
        measure_labels(Segmentation("c", array, (1, 1, 1), of_models=[array[1:]]), LABELS)


def test_doubt_of_regions_is_that_of_the_least_certain_one() -> None:
    array = np.ones((2, 2, 2), dtype=np.uint8)
    probabilities = np.stack([np.full(array.shape, 0.99), np.full(array.shape, 0.4)])
    rows = measure_labels(Segmentation("c", array, (1, 1, 1), probabilities, regions=True), {"whole": (1, 2)})
    assert rows[0]["doubt"] == pytest.approx(0.4)


def test_the_total_of_labels() -> None:
    assert with_total(LABELS) == {**LABELS, "total": (1, 2)}
    regions = {"whole": (1, 2, 3), "core": (2, 3)}
    assert with_total(regions) == regions
    assert with_total({"core": (2, 3), "edge": 1})["total"] == (1, 2, 3)
    assert with_total({"only": 4}) == {"only": 4}
    with pytest.raises(DataError, match="a label is called total"):
        with_total({"total": 1, "other": 2})


def test_hit_rates_by_hand() -> None:
    cases = [f"c{i:02d}" for i in range(40)]
    flags = ["doubt", "doubt components", "", "volume", *[""] * 36]
    judged = pd.DataFrame({"case": cases, "label": "A", "flags": flags})
    rates = hit_rates(judged, pd.Series(np.linspace(0.1, 0.9, 40), index=cases)).set_index("flag")
    assert rates.loc["any", ["n", "hit_rate", "flagged", "precision", "worst"]].tolist() == [4, 0.75, 0.075, 1, 0.1]
    assert rates.loc["doubt", ["hit_rate", "flagged"]].tolist() == [0.5, 0.05]
    exact = stats.binomtest(3, 4).proportion_ci(method="exact")
    assert rates.loc["any", ["hit_rate_low", "hit_rate_high"]].tolist() == pytest.approx([exact.low, exact.high])
    assert rates.loc["any", "p"] == pytest.approx(4 * 3 * 2 / (40 * 39 * 38))  # all three among the four worst
    assert np.isnan(rates.loc["shape", "precision"])
    assert rates.loc["shape", ["hit_rate", "flagged", "p"]].tolist() == [0, 0, 1]


def test_flags_at_random_hit_as_many_as_they_flag() -> None:
    rng = np.random.default_rng(1)
    cases = [f"c{i}" for i in range(60)]
    dice = pd.Series(rng.uniform(size=60), index=cases)
    rates = []
    for _ in range(60):
        judged = pd.DataFrame({"case": cases, "label": "A", "flags": np.where(rng.uniform(size=60) < 0.2, "doubt", "")})
        rates.append(hit_rates(judged, dice).iloc[0])
    found = pd.DataFrame(rates)
    assert found["hit_rate"].mean() == pytest.approx(found["flagged"].mean(), abs=0.05)
    assert found["precision"].mean() == pytest.approx(found["worst"].mean(), abs=0.04)
    assert (found["p"] <= 0.05).mean() <= 0.12


@pytest.mark.parametrize("seed", range(3))
def test_icc_equals_an_analysis_of_variance(seed: int) -> None:
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(seed)
    n = 15
    truth = rng.normal(1500, 200, n)
    predicted, reference = truth + rng.normal(40, 80, n), truth + rng.normal(0, 30, n)
    rows = pd.DataFrame({"v": [*predicted, *reference], "case": [*range(n)] * 2, "rater": ["p"] * n + ["r"] * n})
    table = anova_lm(ols("v ~ C(case) + C(rater)", rows).fit())
    cases, raters, error = (table.loc[name, "mean_sq"] for name in ("C(case)", "C(rater)", "Residual"))
    expected = (cases - error) / (cases + error + 2 / n * (raters - error))
    assert intraclass_correlation(predicted, reference).icc == pytest.approx(expected, rel=1e-9)
