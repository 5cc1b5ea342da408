"""The comparison of models from a table of per-case metrics: pairs, folds, verdicts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.comparison import PAIR_COLUMNS, Options, compare
from hippo_nnunet.evaluation.mixed_model import mixed_result, repeated_differences
from hippo_nnunet.evaluation.pairing import Model, models_of, pairs_of
from hippo_nnunet.evaluation.per_case import check_design, read_per_case, read_published
from hippo_nnunet.evaluation.tables import COLUMNS, summarise
from hippo_nnunet.evaluation.wording import sentence, shown_verdict
from hippo_nnunet.files import write_table

LABELS = ("Anterior", "Posterior")
FAST = Options(n_resamples=400)


def per_case(
    models: dict[tuple[str, str], float], folds: dict[str, int] | None = None, cases: int = 60, noise: float = 0.01
) -> pd.DataFrame:
    """Dice of models with a known advantage; `folds`: how many folds of 5 a configuration has (5)."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0.88, 0.03, (cases, 2))
    rows = []
    for (variant, configuration), advantage in models.items():
        dice = difficulty + advantage + rng.normal(0, noise, (cases, 2))
        for case in range(cases):
            if case % 5 < (folds or {}).get(configuration, 5):
                for column, label in enumerate(LABELS):
                    figures = (dice[case, column], 0.9, 1 - dice[case, column], 0.3, 1000.0, 990.0)
                    rows.append((f"case_{case:03d}", case % 5, variant, configuration, label, *figures))
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.fixture(scope="module")
def two() -> pd.DataFrame:
    return per_case({("UNet", "2d"): 0.0, ("AttentionUNet", "2d"): 0.02})


def test_a_better_model_is_called_so(two: pd.DataFrame) -> None:
    comparison = compare(two, FAST)
    assert tuple(comparison.pairs.columns) == PAIR_COLUMNS
    assert comparison.pairs["scope"].tolist() == ["mean", *LABELS]
    row = comparison.pairs.iloc[0]
    wide = two.pivot_table(index="case", columns="variant", values="dice")
    d = wide["AttentionUNet"] - wide["UNet"]
    assert (row["variant"], row["against"], row["n"], row["folds"]) == ("AttentionUNet", "UNet", 60, "0,1,2,3,4")
    assert row["difference"] == pytest.approx(d.mean())
    assert row["p_wilcoxon"] == row["p_holm"] == pytest.approx(stats.wilcoxon(d).pvalue, rel=1e-6)
    assert (row["verdict"], row["verdict_retrained"]) == ("better", "better")
    assert "better, by more than 0.005" in sentence(row)
    labels = comparison.pairs.iloc[1:]
    np.testing.assert_allclose(labels["p_holm"].min(), min(1, 2 * labels["p_wilcoxon"].min()))


def test_distances_are_better_when_smaller(two: pd.DataFrame) -> None:
    dice = compare(two, FAST).pairs.iloc[0]
    distance = compare(two, Options("hd95_mm", rope=0.005, n_resamples=400)).pairs.iloc[0]  # the fixture's is 1 - Dice
    assert distance["verdict"] == "better"
    assert distance["difference"] == pytest.approx(dice["difference"])


def test_repeats_give_distances_their_margin(two: pd.DataFrame) -> None:
    options = Options("hd95_mm", n_resamples=400)
    with pytest.raises(ConfigError, match=r"no recipe has three repeats.*state yours with --rope"):
        compare(two, options)
    once = two[two["variant"] == "UNet"]
    repeats = [once.assign(variant=f"UNet_seed{seed}", hd95_mm=once["hd95_mm"] + 0.01 * seed) for seed in (2, 3)]
    rope = compare(pd.concat([two, *repeats]), options).pairs["rope"].unique()
    squares = 2 * 0.01**2 * np.var([0, 2, 3], ddof=1)
    assert rope == pytest.approx(1.96 * np.sqrt(squares), rel=0.05)


def test_equal_models_are_equivalent_and_few_cases_cannot_tell() -> None:
    models = {("UNet", "2d"): 0.0, ("AttentionUNet", "2d"): 0.0}
    row = compare(per_case(models, noise=0.004, cases=150), FAST).pairs.iloc[0]
    assert row["verdict"] == "equivalent"
    assert "within ±0.005" in sentence(row)
    comparison = compare(per_case(models, noise=0.004), FAST)
    assert comparison.pairs.iloc[0]["verdict"] == "cannot tell"
    assert any("fewer than 150 cases do not say 'equivalent'" in note.text for note in comparison.notes)
    row = compare(per_case(models, noise=0.04), FAST).pairs.iloc[0]
    assert row["verdict"] == "cannot tell"
    assert f"{row['detectable']:.4f} would have shown with 80% power" in sentence(row)


def test_identical_models() -> None:
    table = per_case({("UNet", "2d"): 0.0}, cases=150)
    table = pd.concat([table, table.assign(variant="AttentionUNet")], ignore_index=True)
    row = compare(table, FAST).pairs.iloc[0]
    assert (row["difference"], row["p_wilcoxon"], row["verdict"]) == (0, 1, "equivalent")
    shares = compare(table, FAST).ranks
    assert (shares.loc[shares["rank"] == 1, "share"] == 1).all()


def test_the_side_by_side_figures_are_the_summarys(two: pd.DataFrame) -> None:
    models = compare(two, FAST).models
    entry = summarise(two)["AttentionUNet"]["2d"]
    rows = models[models["variant"] == "AttentionUNet"].set_index("scope")
    assert rows.loc["mean", "dice"] == pytest.approx(entry["foreground_mean"]["dice"]["mean"])
    assert rows.loc["mean", "hd95_mm_sd"] == pytest.approx(entry["foreground_mean"]["hd95_mm"]["std"])
    assert rows.loc["Posterior", "dice_sd"] == pytest.approx(entry["labels"]["Posterior"]["dice"]["std"])
    folds = [entry["folds"][fold]["dice"] for fold in "01234"]
    assert rows.loc["mean", "dice_fold_sd"] == pytest.approx(np.std(folds, ddof=1))


def test_a_configuration_with_fewer_folds_is_compared_on_the_common_ones() -> None:
    table = per_case({("UNet", "2d"): 0.0, ("UNet", "3d_fullres"): 0.02}, folds={"3d_fullres": 1})
    comparison = compare(table, FAST)
    row = comparison.pairs.iloc[0]
    assert (row["kind"], row["configuration"], row["n"], row["folds"]) == ("configuration", "3d_fullres", 12, "0")
    first = table[table["fold"] == 0].groupby("configuration")["dice"].mean()
    assert row["difference"] == pytest.approx(first["3d_fullres"] - first["2d"])
    assert np.isnan(row["p_retrained"])
    assert (row["verdict"], row["verdict_retrained"]) == ("better", "cannot tell")
    assert "It rests on one fold" in sentence(row)
    assert any("compared on fold 0 alone" in note.text for note in comparison.notes)
    means = comparison.models[comparison.models["scope"] == "mean"]
    assert means[["configuration", "folds", "cases"]].values.tolist() == [
        ["2d", "0,1,2,3,4", 60], ["2d", "0", 12], ["3d_fullres", "0", 12],
    ]  # fmt: skip
    assert means.iloc[1]["dice"] == pytest.approx(first["2d"])


def test_folds_that_do_not_meet_are_not_compared() -> None:
    table = per_case({("UNet", "2d"): 0.0, ("UNet", "3d_fullres"): 0.02})
    keep = (table["configuration"] == "2d") == (table["fold"] == 0)
    comparison = compare(table[keep], FAST)
    assert comparison.pairs.empty
    assert any("no fold in common" in note.text for note in comparison.notes)


def test_clip_controls_stand_in_one_block() -> None:
    variants = ("CLIPGuidedUNet_noImage", "AttentionUNet", "CLIPGuidedUNet", "CLIPGuidedUNet_randomText", "UNet")
    models = models_of(per_case({(variant, "2d"): 0.0 for variant in variants}, cases=10))
    assert [m.recipe for m in models] == [
        "CLIPGuidedUNet", "CLIPGuidedUNet_noImage", "CLIPGuidedUNet_randomText", "AttentionUNet", "UNet",
    ]  # fmt: skip
    found = {(p.kind, p.one.recipe, p.other.recipe) for p in pairs_of(models)}
    assert found == {
        ("variant", "CLIPGuidedUNet", "UNet"),
        ("variant", "AttentionUNet", "UNet"),
        ("control", "CLIPGuidedUNet", "CLIPGuidedUNet_noImage"),
        ("control", "CLIPGuidedUNet", "CLIPGuidedUNet_randomText"),
    }
    assert Model("CLIPGuidedUNet_noImage_mini", "2d").block == "CLIPGuidedUNet_mini"
    for words in ("plainHead_noImage", "rotatedText_noImage", "plainHead", "rotatedText"):
        assert Model(f"CLIPGuidedUNet_{words}_mini", "2d").block == "CLIPGuidedUNet_mini"
    dense = "CLIPGuidedUNet_dense_plainHead"
    heads = [Model(name, "2d") for name in ("UNet", dense, f"{dense}_rotatedText", "CLIPGuidedUNet_dense_noImage")]
    assert [(p.kind, p.one.recipe, p.other.recipe) for p in pairs_of(heads)] == [
        ("variant", dense, "UNet"),
        ("variant", "CLIPGuidedUNet_dense_noImage", "UNet"),
        ("control", dense, f"{dense}_rotatedText"),
    ]
    full = Model("CLIPGuidedUNet_dense", "2d")
    assert ("control", full.recipe, dense) in {(p.kind, p.one.recipe, p.other.recipe) for p in pairs_of([*heads, full])}
    lonely = [Model("UNet", "2d"), Model("CLIPGuidedUNet_noImage", "2d")]
    assert [(p.kind, p.one.recipe) for p in pairs_of(lonely)] == [("variant", "CLIPGuidedUNet_noImage")]


def test_baseline_all_pairs_and_ensemble() -> None:
    names = [Model("A", "2d"), Model("B", "2d"), Model("C", "2d"), Model("ensemble", "2d")]
    found = [(p.kind, p.one.recipe, p.other.recipe) for p in pairs_of(names)]
    assert found[:3] == [("variant", "B", "A"), ("variant", "C", "A"), ("variant", "C", "B")]
    assert found[3:] == [("ensemble", "ensemble", name) for name in "ABC"]
    assert [p.other.recipe for p in pairs_of(names, "B") if p.kind == "variant"] == ["B", "B"]
    with pytest.raises(ConfigError, match="'X' is not in this experiment; it has A, B, C"):
        pairs_of(names, "X")


def test_a_model_is_compared_with_the_baseline_of_another_configuration_where_its_own_has_none() -> None:
    models = [Model("B", "2d"), Model("B_noImage", "2d"), Model("A", "3d"), Model("B", "3d")]
    found = [(p.kind, str(p.one), str(p.other)) for p in pairs_of(models, "A")]
    assert ("variant", "B 2d", "A 3d") in found
    assert ("variant", "B 3d", "A 3d") in found
    assert not [pair for pair in found if pair[0] == "variant" and pair[1] == "B_noImage 2d"]


def test_repeats_are_averaged_and_their_spread_is_shown(two: pd.DataFrame) -> None:
    repeat = two[two["variant"] == "UNet"].assign(variant="UNet_seed1", dice=lambda t: t["dice"] + 0.01)
    comparison = compare(pd.concat([two, repeat], ignore_index=True), FAST)
    alone = compare(two, FAST).pairs.iloc[0]
    assert len(comparison.pairs) == 3
    assert comparison.pairs.iloc[0]["difference"] == pytest.approx(alone["difference"] - 0.005)
    row = comparison.models.iloc[0]
    assert (row["variant"], row["repeats"], row["cases"]) == ("UNet", 2, 60)
    assert row["dice_seed_sd"] == pytest.approx(0.01 / np.sqrt(2))
    assert not any("several seeds" in note.text for note in comparison.notes)
    assert any("several seeds" in note.text for note in compare(two, FAST).notes)


def test_repeats_of_both_recipes_give_a_mixed_model(two: pd.DataFrame) -> None:
    rng = np.random.default_rng(4)
    repeats = two.assign(
        variant=two["variant"] + "_seed1", dice=(two["dice"] + rng.normal(0, 0.01, len(two))).clip(upper=1)
    )
    row = compare(pd.concat([two, repeats], ignore_index=True), FAST).pairs.iloc[0]
    by_hand = pd.concat([two, repeats.assign(repeat=1)]).fillna({"repeat": 0})
    means = by_hand.assign(variant=by_hand["variant"].str.removesuffix("_seed1"))
    wide = means.pivot_table(index=["repeat", "fold", "case"], columns="variant", values="dice").reset_index()
    expected = mixed_result(wide.assign(difference=wide["AttentionUNet"] - wide["UNet"], subject=wide["case"]))
    assert (row["low_mixed"], row["high_mixed"]) == pytest.approx((expected.low, expected.high), rel=1e-3)
    assert row["low_mixed"] < row["difference"] < row["high_mixed"]
    assert row["difference_mixed"] == pytest.approx(row["difference"], abs=1e-4)
    assert "For the recipes, from their repeats by a mixed model: +0.0" in sentence(row)
    alone = compare(two, FAST).pairs.iloc[0]
    assert np.isnan(alone["p_mixed"])
    assert "mixed model" not in sentence(alone)


def test_repeats_are_paired_by_their_seeds(two: pd.DataFrame) -> None:
    """Those of one seed saw the same batches; here a seed's number shifts both recipes alike."""
    seeds = {"UNet": (2, 10), "AttentionUNet": (0, 2, 10)}
    rows = [
        own.assign(variant=f"{variant}_seed{seed}", dice=0.5 + 0.02 * seed + 0.01 * (variant != "UNet"))
        for variant, own in two.groupby("variant")
        for seed in seeds[variant]
    ]
    one, other = Model("AttentionUNet", "2d"), Model("UNet", "2d")
    found = repeated_differences(pd.concat(rows), one, other, "dice")
    np.testing.assert_allclose(found["difference"], 0.01)
    assert set(found["repeat"]) == {"seed2", "seed10"}
    nothing = repeated_differences(pd.concat([rows[0], rows[-1].assign(variant="UNet_seed3")]), one, other, "dice")
    assert nothing.empty and np.isnan(mixed_result(nothing).p)


def test_what_new_trainings_would_show_is_corrected_for_the_pairs_that_were_tested(two: pd.DataFrame) -> None:
    single = two[(two["fold"] == 0) & (two["variant"] == "UNet")].assign(configuration="3d_fullres")
    alone, more = (compare(table, FAST).pairs for table in (two, pd.concat([two, single], ignore_index=True)))
    assert len(more) > len(alone)
    column = "detectable_retrained"
    assert more[column].dropna().tolist() == pytest.approx(alone[column].tolist())


def test_the_margin_is_what_trainings_differ_by_where_repeats_tell(two: pd.DataFrame) -> None:
    lucky = [
        two.assign(variant=two["variant"] + f"_seed{k}", dice=two["dice"] - shift)
        for k, shift in ((1, 0.002), (2, 0.004))
    ]
    comparison = compare(pd.concat([two, *lucky], ignore_index=True), FAST)
    assert comparison.options.rope == pytest.approx(2.77 * 0.002, rel=0.02)  # the deviation of 0, 0.002 and 0.004
    assert comparison.pairs["rope"].unique() == [comparison.options.rope]
    assert any("two trainings of one recipe lie" in note.text and "4 degrees" in note.text for note in comparison.notes)
    once = compare(pd.concat([two, lucky[0][lucky[0]["variant"] == "UNet_seed1"]], ignore_index=True), FAST)
    assert once.pairs["rope"].unique() == [0.005]
    assert any("0.005 Dice, a convention" in note.text for note in once.notes)
    given = compare(pd.concat([two, *lucky], ignore_index=True), Options(n_resamples=400, rope=0.01))
    assert given.pairs["rope"].unique() == [0.01]


METRICS_OF_EMPTY = ["dice", "nsd_1mm", "hd95_mm", "assd_mm"]


def lack(table: pd.DataFrame, cases: list[str], label: str, inventor: str) -> pd.DataFrame:
    """Return the table of cases without a label, which one variant invents and the others do not."""
    table, here = table.copy(), table["case"].isin(cases) & (table["label"] == label)
    table.loc[here, "volume_ref_mm3"] = 0.0
    invents = here & (table["variant"] == inventor)
    table.loc[invents, METRICS_OF_EMPTY] = [0.0, 0.0, 60.0, 60.0]
    table.loc[here & ~invents, [*METRICS_OF_EMPTY, "volume_mm3"]] = [*[np.nan] * 4, 0.0]
    return table


def test_a_model_that_invents_a_label_is_not_equivalent() -> None:
    same = per_case({("UNet", "2d"): 0.0, ("AttentionUNet", "2d"): 0.0}, noise=0.001, cases=160)
    assert compare(same, FAST).pairs.iloc[0]["verdict"] == "equivalent"
    table = lack(same, [f"case_{i:03d}" for i in range(0, 160, 4)], "Anterior", "AttentionUNet")
    comparison = compare(table, FAST)
    rows = comparison.pairs.set_index("scope")
    assert (rows["verdict"] == "equivalent").to_dict() == {"mean": False, "Anterior": False, "Posterior": True}
    assert rows["n"].tolist() == [160, 160, 160]
    assert rows.loc["Anterior", "difference"] == pytest.approx(-0.25, abs=0.001)
    assert any("Anterior in 40 of 160 cases" in note.text for note in comparison.notes)
    means = comparison.models.set_index(["variant", "scope"])["dice"]
    for scope in ("mean", *LABELS):  # one estimate in both tables
        between = means["AttentionUNet", scope] - means["UNet", scope]
        assert rows.loc[scope, "difference"] == pytest.approx(between, abs=1e-12)
    distances = compare(table, Options(metric="hd95_mm", rope=0.5, n_resamples=400)).pairs.set_index("scope")
    assert distances.loc["Anterior", "difference"] == pytest.approx(-15, abs=0.1)


def test_the_smallest_margin_that_would_pass() -> None:
    table = per_case({("UNet", "2d"): 0.0, ("AttentionUNet", "2d"): 0.02}, cases=150)
    needed = compare(table, FAST).pairs.iloc[0]["rope_to_pass"]
    assert 0.02 < needed < 0.025
    for factor, expected in ((1.001, "equivalent"), (0.999, "better")):
        row = compare(table, Options(n_resamples=400, rope=needed * factor)).pairs.iloc[0]
        assert row["verdict"] == expected
    row = compare(table, Options(n_resamples=400, rope=0.05)).pairs.iloc[0]
    assert row["verdict"] == "equivalent"
    assert shown_verdict(row) == "slightly better"
    assert "slightly better; " in sentence(row)
    assert f"95% interval {row['low']:+.4f} to {row['high']:+.4f}, within the margin of 0.05" in sentence(row)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("dice", 1.2, "1 cases with a Dice or NSD outside 0 to 1"),
        ("nsd_1mm", -0.1, "1 cases with a Dice or NSD outside 0 to 1"),
        ("dice", np.nan, "1 cases without a metric of a label that is there"),
        ("hd95_mm", np.nan, "1 cases without a metric of a label that is there"),
    ],
)
def test_metrics_that_cannot_be(two: pd.DataFrame, column: str, value: float, message: str) -> None:
    table = two.copy()
    table.loc[7, column] = value
    with pytest.raises(DataError, match=message):
        check_design(table)


@pytest.mark.parametrize(("cases", "n"), [(1, 1), (4, 4)])
def test_one_case_and_few(cases: int, n: int) -> None:
    comparison = compare(per_case({("UNet", "2d"): 0.0, ("AttentionUNet", "2d"): 0.5}, cases=cases), FAST)
    row = comparison.pairs.iloc[0]
    assert (row["n"], row["verdict"]) == (n, "cannot tell")
    assert np.isnan(row["detectable"])
    assert np.isnan(row["low"]) == (n == 1)
    assert "cannot tell" in sentence(row)
    assert any("fewer than 6 cases" in note.text for note in comparison.notes)


def test_one_model_is_shown_alone() -> None:
    comparison = compare(per_case({("UNet", "2d"): 0.0}), FAST)
    assert comparison.pairs.empty
    assert comparison.ranks.empty
    assert len(comparison.models) == 3
    assert "nothing to compare" in comparison.notes[0].text


def drop(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    hit = np.logical_and.reduce([table[column] == value for column, value in values.items()])
    return table[~hit]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda t: drop(t, variant="UNet", case="case_007"),
            r"1 cases measured for AttentionUNet 2d, but not for UNet 2d, in fold 2 \(case_007\)",
        ),
        (
            lambda t: drop(t, variant="AttentionUNet", case="case_007"),
            r"measured for UNet 2d, but not for AttentionUNet",
        ),
        (
            lambda t: drop(t, variant="UNet", fold=3),
            r"AttentionUNet 2d has the folds 0, 1, 2, 3, 4, UNet 2d has 0, 1, 2, 4",
        ),
        (lambda t: drop(t, variant="UNet", case="case_007", label="Anterior"), r"without a row for every label"),
        (lambda t: drop(t, variant="UNet", label="Anterior"), r"UNet 2d lacks the labels Anterior"),
        (lambda t: t.assign(fold=t["fold"].where(t["variant"] == "UNet", (t["fold"] + 1) % 5)), "in two folds"),
        (lambda t: pd.concat([t, t.head(1)]), "stands twice"),
        (lambda t: t.assign(hd95_mm=np.inf), "infinite metric"),
        (lambda t: t.assign(dice="high"), "column dice holds something else than numbers"),
        (lambda t: t.drop(columns=["fold"]), "lacks the columns fold"),
        (lambda t: t.head(0), "holds no case"),
    ],
)
def test_tables_that_cannot_be_compared(two: pd.DataFrame, damage: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_design(damage(two))  # type: ignore[operator]


def test_the_file_is_named_in_the_error(tmp_path: Path, two: pd.DataFrame) -> None:
    path = tmp_path / "per_case.csv"
    with pytest.raises(DataError, match=r"per_case\.csv is missing"):
        read_per_case(path)
    path.write_text("")
    with pytest.raises(DataError, match=r"per_case\.csv cannot be read as a table"):
        read_per_case(path)
    drop(two, variant="UNet", case="case_007").to_csv(path, index=False)
    with pytest.raises(DataError, match=r"per_case\.csv: 1 cases measured for"):
        read_per_case(path)
    two.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_per_case(path), two, check_dtype=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "volume_mm3"}, "cannot be compared"),
        ({"rope": 0.0}, "without width"),
        ({"rope": float("nan")}, "without width"),
    ],
)
def test_bad_options(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Options(**arguments)  # type: ignore[arg-type]


def test_published_results_are_paired_by_case(tmp_path: Path, two: pd.DataFrame) -> None:
    wide = two[two["variant"] == "UNet"].pivot_table(index="case", columns="label", values="dice")
    theirs = pd.DataFrame({"case": wide.index[::-1], "conv_fold": 0})
    theirs["conv_anterior"] = (wide["Anterior"] - 0.02).to_numpy()[::-1]
    theirs["conv_posterior"] = (wide["Posterior"] - 0.04).to_numpy()[::-1]
    theirs["half_anterior"] = 0.5
    path = tmp_path / "published.csv"
    theirs.iloc[:50].to_csv(path, index=False)
    published = read_published(path, LABELS, list(wide.index))
    assert list(published) == ["conv"]  # 'half' lacks a label
    comparison = compare(two, FAST, published)
    row = comparison.pairs[(comparison.pairs["kind"] == "published") & (comparison.pairs["variant"] == "UNet")].iloc[0]
    assert (row["against"], row["n"], row["verdict"]) == ("conv", 50, "better")
    assert row["difference"] == pytest.approx(0.03)
    assert any("conv has no result for 10 of UNet 2d's cases" in note.text for note in comparison.notes)
    published["conv"].iloc[:20, 1] = np.nan  # no mean over labels of one label alone
    comparison = compare(two, FAST, published)
    row = comparison.pairs[(comparison.pairs["kind"] == "published") & (comparison.pairs["variant"] == "UNet")].iloc[0]
    assert (row["scope"], row["n"]) == ("mean", 30)
    assert row["difference"] == pytest.approx(0.03)
    with pytest.raises(ConfigError, match="published results are Dice"):
        compare(two, Options("nsd_1mm"), published)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,conv_anterior,conv_posterior\na,1,1\n", "expected 'case'"),
        ("case,conv_anterior\ncase_000,1\n", "no method has a column for each of Anterior, Posterior"),
        ("case,c_anterior,c_posterior\nother,1,1\n", "none of the experiment's cases: got other, expected case_000"),
        ("case,c_anterior,c_posterior\ncase_000,1,1\ncase_000,1,1\n", "case_000 stands twice"),
        ("case,c_anterior,c_posterior\ncase_000,90,88\n", "c holds something else than Dice"),
        ("case,c_anterior,c_posterior\ncase_000,x,0.8\n", "c holds something else than Dice"),
    ],
)
def test_published_files_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_published(path, LABELS, ["case_000"])
    with pytest.raises(DataError, match="cannot be read"):
        read_published(tmp_path / "absent.csv", LABELS, ["case_000"])


def test_names_that_look_like_missing_values_are_names(two: pd.DataFrame, tmp_path: Path) -> None:
    named = two.replace({"label": {"Anterior": "NA"}, "case": {"case_000": "None"}})
    write_table(named, tmp_path / "per_case.csv")
    table = read_per_case(tmp_path / "per_case.csv")
    assert compare(table, FAST).pairs["scope"].tolist() == ["mean", "NA", "Posterior"]
    with pytest.raises(DataError, match="a label is called mean"):
        check_design(two.replace({"label": {"Anterior": "mean"}}))
    (tmp_path / "published.csv").write_text("case,conv_na,conv_posterior\nNone,0.5,0.25\n")
    published = read_published(tmp_path / "published.csv", ("NA", "Posterior"), ["None"])
    assert published["conv"].loc["None"].tolist() == [0.5, 0.25]
