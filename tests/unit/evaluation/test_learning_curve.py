"""A metric against the number of training cases, and comparisons at equal numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from hippo_nnunet.analysis.verdicts import headline
from hippo_nnunet.evaluation.comparison import Options, compare
from hippo_nnunet.evaluation.learning_curve import learning_curve, mean_with_interval
from hippo_nnunet.evaluation.notes import NoteKind
from hippo_nnunet.evaluation.pairing import Model, models_of, pairs_of
from hippo_nnunet.evaluation.side_by_side import extreme_cases, full_rows
from hippo_nnunet.evaluation.statistics import bootstrap_intervals
from hippo_nnunet.evaluation.tables import COLUMNS

FAST = Options(n_resamples=200)
VARIANTS = (
    *("UNet_5cases", "UNet_20cases", "UNet", "AttentionUNet_5cases", "AttentionUNet_20cases", "AttentionUNet"),
    *("CLIPGuidedUNet_noImage_20cases", "CLIPGuidedUNet_20cases", "ensemble"),
)


def per_case(variants: Sequence[str], seeds: int = 1, cases: int = 60) -> pd.DataFrame:
    """Dice of variants: 0.05 less with 20 cases, 0.2 less with 5; AttentionUNet gains 0.02."""
    rng = np.random.default_rng(0)
    difficulty, rows = rng.normal(0.85, 0.03, cases), []
    for variant in variants:
        shift = 0.02 * variant.startswith("Attention") - 0.05 * ("_20cases" in variant) - 0.2 * ("_5cases" in variant)
        for seed in range(1 if variant == "ensemble" else seeds):
            dice = difficulty + shift + rng.normal(0, 0.004, cases)
            name = f"{variant}_seed{seed}" if seed else variant
            for case in range(cases):
                rows.append((f"case_{case:03d}", case % 5, name, "2d", "a", dice[case], 0.9, 1.0, 0.3, 1000.0, 990.0))
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return per_case(VARIANTS)


def test_models_on_fewer_cases_come_last_by_their_number(table: pd.DataFrame) -> None:
    assert [model.recipe for model in models_of(table)] == [
        *("UNet", "AttentionUNet", "ensemble", "UNet_5cases", "UNet_20cases", "AttentionUNet_5cases"),
        *("AttentionUNet_20cases", "CLIPGuidedUNet_20cases", "CLIPGuidedUNet_noImage_20cases"),
    ]


def test_models_are_only_compared_at_equal_numbers(table: pd.DataFrame) -> None:
    pairs = [(pair.kind, pair.one.recipe, pair.other.recipe) for pair in pairs_of(models_of(table))]
    assert pairs == [
        ("variant", "AttentionUNet", "UNet"),
        ("subset", "AttentionUNet_5cases", "UNet_5cases"),
        ("subset", "AttentionUNet_20cases", "UNet_20cases"),
        ("subset", "CLIPGuidedUNet_20cases", "UNet_20cases"),
        ("subset control", "CLIPGuidedUNet_20cases", "CLIPGuidedUNet_noImage_20cases"),
        ("ensemble", "ensemble", "UNet"),
        ("ensemble", "ensemble", "AttentionUNet"),
    ]
    other = pairs_of(models_of(table), baseline="AttentionUNet")
    assert [pair.other.recipe for pair in other if pair.kind == "subset"] == [
        *("AttentionUNet_5cases", "AttentionUNet_20cases", "AttentionUNet_20cases")
    ]
    configurations = [Model("UNet_5cases", "2d"), Model("UNet_5cases", "3d_fullres")]
    assert [pair.kind for pair in pairs_of(configurations)] == ["subset"]


def test_fewer_cases_change_neither_verdicts_nor_ranks_nor_the_margin_of_full_trainings() -> None:
    full = per_case(["UNet", "AttentionUNet"], seeds=3)
    fewer = per_case(["UNet_5cases", "AttentionUNet_5cases"], seeds=3)
    fewer.loc[fewer["variant"].str.endswith("seed1"), "dice"] -= 0.1  # another choice of cases is much worse
    alone, both = compare(full, FAST), compare(pd.concat([full, fewer]), FAST)
    assert both.options.margin == alone.options.margin < 0.01
    rows = both.pairs[both.pairs["kind"] == "variant"]
    pd.testing.assert_frame_equal(rows, alone.pairs)
    pd.testing.assert_frame_equal(both.ranks, alone.ranks)
    assert headline(both.pairs) == headline(alone.pairs)
    assert alone.curve.empty
    assert NoteKind.SUBSETS not in {note.kind for note in alone.notes}
    equal = both.pairs[(both.pairs["kind"] == "subset") & (both.pairs["scope"] == "mean")].iloc[0]
    assert equal["difference"] == pytest.approx(0.02, abs=0.002)


def test_the_curve_has_every_number_of_each_recipe(table: pd.DataFrame) -> None:
    comparison = compare(per_case([v for v in VARIANTS if "noImage" not in v], seeds=2), FAST)
    curve = comparison.curve
    found = [(row["variant"], row["size"]) for row in curve.fillna(0).to_dict("records")]
    assert found == [
        *(("UNet", 5), ("UNet", 20), ("UNet", 0), ("AttentionUNet", 5), ("AttentionUNet", 20), ("AttentionUNet", 0)),
        ("CLIPGuidedUNet", 20),
    ]
    assert set(curve["trainings"]) == {10}
    models = comparison.models[comparison.models["scope"] == "mean"].set_index("variant")["dice"]
    assert curve["mean"].tolist() == pytest.approx(
        [
            models[name]
            for name in (
                *("UNet_5cases", "UNet_20cases", "UNet", "AttentionUNet_5cases", "AttentionUNet_20cases"),
                *("AttentionUNet", "CLIPGuidedUNet_20cases"),
            )
        ]
    )
    said = {note.kind: note.text for note in comparison.notes}[NoteKind.SUBSETS]
    assert "further choices of the training cases" in said
    assert learning_curve(full_rows(table), models_of(full_rows(table)), "dice").empty


def test_with_one_seed_the_interval_is_that_of_the_trained_models(table: pd.DataFrame) -> None:
    own = table[table["variant"] == "UNet_5cases"].set_index(["fold", "case"])[["dice"]]
    mean, low, high = mean_with_interval(own, n_resamples=200)
    folds = own.index.get_level_values("fold").to_numpy()
    assert mean == pytest.approx(own["dice"].mean())
    assert (low, high) == pytest.approx(bootstrap_intervals(own["dice"].to_numpy(), folds, n_resamples=200)[0])
    assert "not another choice" in str(compare(table, FAST).notes)
    few = mean_with_interval(own.iloc[:5])
    assert few[0] == pytest.approx(own["dice"].iloc[:5].mean())
    assert np.isnan(few[1:]).all()


def test_intervals_hold_further_subjects_and_further_trainings() -> None:
    rng = np.random.default_rng(0)
    folds, subjects, repeats, experiments = 5, 12, 3, 150
    hits = np.zeros((experiments, 2))
    names = {f"{fold}_{case}": f"{fold}_{case // 2}" for fold in range(folds) for case in range(2 * subjects)}
    index = pd.MultiIndex.from_tuples([(int(name[0]), name) for name in names], names=["fold", "case"])
    for experiment in range(experiments):
        of_subject = np.repeat(rng.normal(0, 0.03, folds * subjects), 2)[:, None]
        of_training = np.repeat(rng.normal(0, 0.02, (folds, repeats)), 2 * subjects, axis=0)
        values = 0.8 + of_subject + of_training + rng.normal(0, 0.02, (len(index), repeats))
        frame = pd.DataFrame(values, index=index)
        for column, shown in enumerate((frame, frame.mean(axis=1).to_frame())):
            _, low, high = mean_with_interval(shown, names, n_resamples=199)
            hits[experiment, column] = low <= 0.8 <= high
    error = 3 * np.sqrt(0.95 * 0.05 / experiments)
    assert hits[:, 0].mean() >= 0.95 - error
    assert hits[:, 1].mean() < 0.95 - error, "averaged repeats without their spread claim too much"


def test_rows_of_full_trainings(table: pd.DataFrame) -> None:
    assert set(full_rows(table)["variant"]) == {"UNet", "AttentionUNet", "ensemble"}
    subsets = table[table["variant"].str.contains("cases")]
    assert full_rows(subsets) is subsets
    assert set(extreme_cases(table, 1, 0)["variant"]) == {"UNet", "AttentionUNet"}
