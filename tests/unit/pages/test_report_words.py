"""Words, tables and prepared plots of a report."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from report_experiment import log_text, write_experiment, write_log
from skimage.color import rgb2lab

from hippo_nnunet.analysis.tables import ShownTable, comparison_table, interval, number, results_table
from hippo_nnunet.analysis.verdicts import headline
from hippo_nnunet.cli.main import app as program
from hippo_nnunet.evaluation.comparison import Options
from hippo_nnunet.evaluation.pairing import Model
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.request import parse_folds
from hippo_nnunet.nnunet.training_log import read_curves
from hippo_nnunet.pages.palette import LABEL_COLOURS, MODEL_COLOURS, MODEL_COLOURS_DARK
from hippo_nnunet.pages.report.content import Content, gather
from hippo_nnunet.pages.report.figures import report_figures
from hippo_nnunet.pages.report.forest import prepare_forest
from hippo_nnunet.pages.report.notebook import compare_scores
from hippo_nnunet.pages.report.paper import methods
from hippo_nnunet.pages.report.style import MARKERS, marker, series
from hippo_nnunet.pages.report.tables import escape_latex, latex, markdown, minus
from hippo_nnunet.pages.report.words import command, conclusions


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    folder = tmp_path_factory.mktemp("made") / "exp"
    write_experiment(folder, ["UNet", "AttentionUNet"])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.delenv(name, raising=False)
        return gather(folder, options=Options(n_resamples=99), notebook=True)


def cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)&", row)) + 1


def test_latex_is_sound(content: Content) -> None:
    hostile = ShownTable(
        "x",
        "50% of a_b",
        ("m_1", "n"),
        1,
        [["a & b_{c}", "±1"], [r"\input{x}", "–"]],
        frozenset({0, 1}),
        pd.DataFrame(),
    )
    comparison = comparison_table(content.comparison)
    assert comparison is not None
    for table in (hostile, results_table(content.comparison), comparison):
        text = latex(table)
        bare = text.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}")
        assert text.isascii()
        body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
        assert not re.search(r"(?<!\\)[_%#^~]", body)
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) == 1 + len(table.rows)
        assert {cells(row) for row in rows} == {len(table.columns)}
        columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
        assert columns
        assert len(columns[1]) == len(table.columns)
        assert {line.count(" | ") for line in markdown(table).splitlines()[:3]} == {len(table.columns) - 1}
    assert r"\textbackslash{}input" in latex(hostile)
    assert escape_latex("³") == r"\textsuperscript{3}"


def test_the_table_says_what_the_metrics_say(content: Content) -> None:
    table = results_table(content.comparison)
    own = content.table[content.table["variant"] == "AttentionUNet"]
    dice = own.groupby("label")["dice"].mean()
    row = next(row for row in table.rows if row[0] == "AttentionUNet 2d")
    by_case = own.groupby("case")["dice"].mean()
    assert row[table.columns.index("Dice")] == f"{dice.mean():.4f} ({by_case.std():.4f})"
    assert row[table.columns.index("training, min per fold")] == "1.0"
    below = table.rows[table.rows.index(row) + 1]
    assert below[:2] == ["folds 0, 1, 20 cases", "Anterior"]


def test_numbers() -> None:
    assert [number(v, "+.0f") for v in (0.4, -0.4, 1.6, float("nan"), None)] == ["0", "0", "+2", "–", "–"]
    assert interval(-0.2, 0.00001, "+.4f") == "-0.2000 to 0.0000"


def test_places_on_the_axis_keep_order_and_room(content: Content) -> None:
    forest = prepare_forest(content.comparison.pairs, ["variant"])
    assert forest is not None
    (rows,) = forest.groups.values()
    for row in rows:
        places = [forest.percent(v) for v in (row.low, row.narrow_low, row.difference, row.narrow_high, row.high)]
        assert places == sorted(places)
        assert 0 < places[0] < places[-1] < 100
    assert forest.percent(0) == 50
    assert forest.percent(forest.rope) - 50 == pytest.approx(50 - forest.percent(-forest.rope))
    assert 0 in forest.ticks
    assert prepare_forest(content.comparison.pairs, ["control"]) is None


def pair(variant: str, verdict: str, configuration: str = "2d", against: str = "UNet") -> dict[str, Any]:
    named: dict[str, Any] = {"kind": "variant", "scope": "mean", "variant": variant, "configuration": configuration}
    named |= {"against": against, "against_configuration": configuration, "verdict": verdict}
    return {**named, "metric": "dice", "p_holm": 0.5, "alpha": 0.05, "low": -0.001, "high": 0.001, "rope": 0.005}


def test_the_headline_groups_what_is_alike() -> None:
    rows = [pair("A", "equivalent"), pair("B", "worse"), pair("C", "equivalent"), pair("D", "cannot tell")]
    assert headline(pd.DataFrame(rows)) == (
        "A and C are equivalent to UNet (2d); B is worse than UNet (2d); "
        "these cases cannot tell whether D differs from UNet (2d)."
    )
    both = [pair("A", "better"), pair("A", "better", "3d_fullres")]
    assert headline(pd.DataFrame(both)) == "A is better than UNet (2d, 3d_fullres)."
    sure = {**pair("E", "equivalent"), "p_holm": 0.001, "low": -0.0045, "high": -0.0027, "difference": -0.0036}
    assert headline(pd.DataFrame([*rows[:1], sure])) == (
        "A is equivalent to UNet (2d); E is slightly worse than UNet by 0.0036, within the margin of 0.005 (2d)."
    )
    assert "nothing to compare" in headline(pd.DataFrame())


def test_conclusions_follow_the_experiment(content: Content, tmp_path: Path) -> None:
    can, cannot = conclusions(content)
    assert can[0].startswith("As trained, AttentionUNet 2d is better than UNet 2d (20 cases of 2 folds), and the same")
    assert any("share most of their training cases" in line for line in cannot)
    assert any("Fold 0 in 2D is slightly optimistic" in line for line in cannot)
    assert not any("ensemble" in line for line in cannot)
    write_experiment(tmp_path / "one", ["UNet", "AttentionUNet"], folds=1)
    (tmp_path / "one" / "experiment.yaml").unlink()
    _, alone = conclusions(gather(tmp_path / "one", options=Options(n_resamples=99)))
    assert any("rests on one fold (0)" in line for line in alone)
    assert not any("share most" in line or "Fold 0 in 2D" in line for line in alone)
    assert content.experiment is not None
    _, by_subject = conclusions(replace(content, experiment=replace(content.experiment, subjects="auto")))
    assert not any("Fold 0 in 2D" in line for line in by_subject)


@pytest.mark.parametrize(
    ("again", "words"),
    [
        ("equivalent", "and the same is expected of new trainings (-0.0050 to -0.0020)."),
        ("worse", "however, the folds expect the verdict 'worse' (-0.0050 to -0.0020)."),
        ("cannot tell", "whether new trainings would show the same, the folds cannot tell"),
        (None, "for new trainings this is not known."),
    ],
)
def test_conclusions_agree_with_both_verdicts(content: Content, again: str | None, words: str) -> None:
    """Also where the verdict on training again is known and differs: `not shown` would contradict it."""
    pairs = content.comparison.pairs.head(1).assign(
        verdict="equivalent",
        p_holm=0.5,
        low_retrained=-0.005,
        high_retrained=-0.002,
        p_retrained=np.nan if again is None else 0.01,
        verdict_retrained=again,
    )
    changed = replace(content, comparison=replace(content.comparison, pairs=pairs))
    (text, *_), _ = conclusions(changed)
    assert text.startswith("As trained, AttentionUNet 2d is equivalent to UNet 2d within ±0.005")
    assert words in text
    sure = replace(content.comparison, pairs=pairs.assign(p_holm=0.01))
    (text, *_), _ = conclusions(replace(content, comparison=sure))
    assert text.startswith("As trained, AttentionUNet 2d is slightly better than UNet 2d, within the margin of 0.005 (")


def test_a_difference_that_dwarfs_the_others_breaks_the_axis(content: Content) -> None:
    named = content.comparison.pairs.head(1)
    rows = [
        named.assign(difference=value, low=value - 0.002, high=value + 0.002) for value in (0.004, -0.006, 0.008, -0.6)
    ]
    forest = prepare_forest(pd.concat(rows), ["variant"])
    assert forest is not None
    assert forest.beyond is not None
    assert forest.reach < 0.02 < 0.6 < forest.beyond
    left, right = forest.breaks
    assert left < forest.percent(-0.01) < forest.percent(0) == 50 < forest.percent(0.01) < right
    assert 0 <= forest.percent(-0.602) < forest.percent(-0.5) < left
    assert forest.percent(0.01) - 50 > 15, "the small differences have most of the room"
    assert min(forest.ticks) == pytest.approx(-0.6)
    figures = report_figures(replace(content, comparison=replace(content.comparison, pairs=pd.concat(rows))))
    canvas = Figure()
    {figure.name: figure for figure in figures}["differences"].panels[0].draw(canvas)
    assert "−0.6" in [tick.get_text() for tick in canvas.axes[0].get_xticklabels()]
    alike = prepare_forest(pd.concat(rows[:3]), ["variant"])
    assert alike is not None
    assert alike.breaks == []


def test_palettes_are_disjoint() -> None:
    """No model has a colour near a label's, on the page, in figures, in light and dark."""
    for models in (MODEL_COLOURS, MODEL_COLOURS_DARK):
        for model, label in product(models, LABEL_COLOURS):
            distance = np.linalg.norm(lab(model) - lab(label))
            assert distance > 20, (model, label)
    for palette in (LABEL_COLOURS, MODEL_COLOURS, MODEL_COLOURS_DARK):
        assert min(np.linalg.norm(lab(one) - lab(other)) for one, other in combinations(palette, 2)) > 10


def lab(colour: str) -> np.ndarray:
    return np.asarray(rgb2lab(np.array([[to_rgb(colour)]]))[0, 0])


def test_latex_has_minus_signs_and_a_label() -> None:
    table = ShownTable("x", "From -0.1", ("a", "b"), 1, [["a-1", "-0.5 (-1 to 2)"]], frozenset(), pd.DataFrame())
    text = latex(table)
    assert r"\label{tab:x}" in text
    assert "a-1 & $-$0.5 ($-$1 to 2)" in text
    assert "From $-$0.1" in text
    assert minus("UNet-2 -0.1 to -0.2, 2026-01-02, 0-4") == "UNet-2 −0.1 to −0.2, 2026-01-02, 0-4"


def test_methods_name_subjects_and_empty_labels_where_there_are_any(content: Content) -> None:
    plain = " ".join(methods(content))
    assert "the subject" not in plain
    assert "If both lack it" not in plain
    pairs = content.comparison.pairs.assign(subjects=12)
    table = content.table.assign(volume_ref_mm3=0.0)
    text = " ".join(methods(replace(content, table=table, comparison=replace(content.comparison, pairs=pairs))))
    assert "the subject (12 subjects)" in text
    assert "If both lack it, Dice and NSD are 1 and the distances are 0." in text


@pytest.mark.parametrize(
    ("preset", "subjects", "asked"),
    [("laptop", "auto", "auto"), ("overnight", "none", "none"), ("laptop", "file", "my exp/subjects.csv")],
)
def test_the_command_asks_for_the_same_experiment(preset: str, subjects: str, asked: str) -> None:
    experiment = Experiment(
        "Dataset004_X",
        preset,
        ("UNet", "AttentionUNet"),
        {"2d": (0, 1, 2), "3d_fullres": (0, 2)},
        subjects=subjects,
        only={"UNet": ("2d",)},
    )
    text = command(experiment, "my exp", "cpu")
    words = shlex.split(text)
    assert words[2] == "my exp"
    folds = words[words.index("--folds") + 1]
    assert parse_folds(folds, ["2d", "3d_fullres"], 5) == experiment.folds
    import typer

    run = typer.main.get_command(program).commands["run"]  # type: ignore[attr-defined]
    given = run.make_context("run", words[2:]).params
    assert given["variants"] == "UNet@2d,AttentionUNet"
    assert given["subjects"] == asked
    assert given["seeds"] == (1 if preset == "overnight" else None)


def test_scores_that_agree_are_no_reversal() -> None:
    models = [Model("A", "2d"), Model("B", "2d")]
    rows = [
        {
            "model": model,
            "fold": 0,
            "case": f"c{n}",
            "dice": 0.8 + 0.01 * n + 0.1 * k,
            "notebook_dice": 0.9 + sign * k * 0.05,
        }
        for k, model in enumerate(models)
        for n, sign in enumerate((1, 1, -1))
    ]
    found = compare_scores(pd.DataFrame(rows), models)
    assert found.reversals.empty
    assert found.comparisons == 1
    assert found.disagreeing_cases == pytest.approx(1 / 3)
    assert found.means["dice"].tolist() == pytest.approx([0.81, 0.91])


def test_models_differ_in_shape_where_colours_repeat() -> None:
    looks = [(marker(k).plotly, series(k)) for k in range(2 * len(MARKERS))]
    assert len(set(looks)) == len(looks)


def test_an_interrupted_training_is_one_curve(tmp_path: Path) -> None:
    assert read_curves(tmp_path) is None
    write_log(tmp_path, log_text(range(3)), "training_log_2026_1_1_00_00_00.txt")
    write_log(tmp_path, "", "training_log_2026_1_1_01_00_00.txt")
    write_log(tmp_path, log_text([2, 3], loss=9.0), "training_log_2026_1_1_02_00_00.txt")
    curves = read_curves(tmp_path)
    assert curves is not None
    assert curves.epochs == [0, 1, 2, 3]
    assert curves.train_loss == [0.5, 0.25, 3.0, 2.25]
    assert curves.pseudo_dice == pytest.approx([0.8] * 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[0.5, 0.7]", 0.6),
        ("[np.float64(0.5), nan]", 0.5),
        ("[np.float32(nan)]", np.nan),
        ("[1e-05]", 1e-5),
    ],
)
def test_pseudo_dice_of_every_numpy(tmp_path: Path, text: str, expected: float) -> None:
    stamp = "2026-01-01 00:00:00:"  # without microseconds, as once in a million
    write_log(tmp_path, f"{stamp} Epoch 0 \n{stamp} train_loss nan \n{stamp} Pseudo dice {text} \n{stamp} Epoch 1 \n")
    curves = read_curves(tmp_path)
    assert curves is not None
    assert curves.epochs == [0], "an epoch that has not ended has no value"
    assert curves.pseudo_dice[0] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(curves.train_loss[0])


def test_figures_for_papers_cover_what_the_page_shows(content: Content) -> None:
    figures = report_figures(content)
    names = [figure.name for figure in figures]
    assert names == ["differences", "cases", "notebook", "curves", "volumes-anterior", "volumes-posterior"]
    assert all(panel.alt for figure in figures for panel in figure.panels)
    panels = [panel.name for figure in figures for panel in figure.panels]
    assert len(set(panels)) == len(panels)
