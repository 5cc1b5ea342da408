"""Training times and precisions of an experiment's folds, and what `compare` and the report say about them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_experiment import NO_VIEWER, write_experiment
from typer.testing import CliRunner

from hippo_nnunet.analysis.curve_tables import equal_cases_table
from hippo_nnunet.analysis.fold_records import fold_records, precision_notes, trained_seconds, with_training_cases
from hippo_nnunet.cli.main import app
from hippo_nnunet.evaluation.comparison import Options, compare
from hippo_nnunet.evaluation.notes import NoteKind
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import write_json
from hippo_nnunet.pages.figure import inline_svg
from hippo_nnunet.pages.report.charts import chart_data
from hippo_nnunet.pages.report.content import gather
from hippo_nnunet.pages.report.figures import report_figures
from hippo_nnunet.pages.report.page import render
from hippo_nnunet.pages.report.words import comparison_notes

NOTE = "UNet was trained in float32, AttentionUNet in bfloat16: the difference may come from that."


def records_of(precisions: dict[tuple[str, str], str | None]) -> dict[Cell, dict[str, str | None]]:
    """Return the record of one fold for each variant and configuration."""
    return {
        Cell(variant, f"{variant}Trainer", configuration, 0): {"precision": precision}
        for (variant, configuration), precision in precisions.items()
    }


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """An experiment whose variants were trained in two precisions."""
    write_experiment(tmp_path / "mixed", ("UNet", "AttentionUNet"))
    path = tmp_path / "mixed" / "manifest.json"
    manifest = json.loads(path.read_text())
    for fold in manifest["folds"]:
        fold["precision"] = "float32" if fold["variant"] == "UNet" else "bfloat16"
    write_json(path, manifest)
    return path.parent


def test_compare_and_the_report_say_that_variants_differ_in_precision(mixed: Path) -> None:
    assert NOTE in " ".join(CliRunner().invoke(app, ["compare", str(mixed)], env={"COLUMNS": "220"}).stdout.split())
    done = CliRunner().invoke(app, ["compare", str(mixed), "--json"])
    assert NOTE in json.loads(done.stdout)["notes"]
    assert NOTE in comparison_notes(gather(mixed))


def test_a_curve_has_the_cases_that_were_really_trained_on() -> None:
    cells = {
        Cell("UNet_5cases", "", "2d", 0): {"training_cases": 4},
        Cell("UNet_5cases_seed1", "", "2d", 0): {"training_cases": 6},
        Cell("UNet_5cases", "", "3d_fullres", 0): {"training_cases": 9},
        Cell("UNet", "", "2d", 0): {"training_cases": 176},
        Cell("AttentionUNet_5cases", "", "2d", 0): {},
        Cell("AttentionUNet", "", "2d", 0): {},
    }
    rows = [("UNet", 5), ("UNet", np.nan), ("AttentionUNet", 5), ("AttentionUNet", np.nan)]
    curve = pd.DataFrame([(name, "2d", size) for name, size in rows], columns=["variant", "configuration", "size"])
    found = with_training_cases(curve, cells)
    np.testing.assert_array_equal(found["cases"], [5, 176, 5, np.nan])
    np.testing.assert_array_equal(found["cases_min"], [4, 176, 5, np.nan])
    np.testing.assert_array_equal(found["cases_max"], [6, 176, 5, np.nan])


def test_compare_and_the_report_show_dice_against_training_cases(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    write_experiment(folder, [f"{n}{s}" for n in ("UNet", "AttentionUNet") for s in ("_5cases", "_20cases", "")])
    done = CliRunner().invoke(app, ["compare", str(folder)], env={"COLUMNS": "80"})
    shown = done.stdout[done.stdout.index("Dice against the number of training cases") :]
    lines = [line.split() for line in shown.splitlines()]
    assert ["UNet", "2d", "5", "5"] in [line[:4] for line in lines]
    assert ["all", "40"] in [line[:2] for line in lines]
    assert max(map(len, shown.splitlines()[:12])) <= 80
    assert "whole subjects" in " ".join(done.stdout.split())
    equal = [line.split() for line in shown[shown.index("Differences in Dice at equal numbers") :].splitlines()]
    assert [line[:3] for line in equal if len(line) > 3 and line[3].startswith("+0.0")] == [
        ["AttentionUNet", "2d", "5"],
        ["against", "UNet", "20"],
    ]
    assert "_5cases" not in done.stdout
    found = json.loads(CliRunner().invoke(app, ["compare", str(folder), "--json"]).stdout)
    assert [row["size"] for row in found["curve"]] == [5, 20, None] * 2

    content = gather(folder, options=Options(n_resamples=99))
    assert [model.recipe for model in content.models] == ["UNet", "AttentionUNet"]
    page = render(content, NO_VIEWER)
    assert page.index('id="differences"') < page.index('id="sizes"') < page.index('id="cases"')
    assert "Dice against number of training cases" in page
    assert "whole subjects" in page[page.index('id="sizes"') : page.index('id="cases"')]
    charts = chart_data(content)
    assert [(line["model"], line["name"], line["cases"]) for line in charts["sizes"]["lines"]] == [
        (0, "UNet 2d", [5, 20, 40]),
        (1, "AttentionUNet 2d", [5, 20, 40]),
    ]
    assert charts["sizes"]["ticks"] == [5, 20, 40]
    assert {fold["model"] for fold in charts["curves"]} == {0, 1}
    assert len(charts["volumes"]) == 2
    figure = next(figure for figure in report_figures(content) if figure.name == "training-cases")
    drawn = inline_svg(figure.panels[0])
    assert drawn.startswith("<svg")


def test_a_recipe_of_subsets_alone_is_shown_beside_one_that_has_all_cases(tmp_path: Path) -> None:
    write_experiment(tmp_path / "few", ("UNet", "UNet_5cases", "AttentionUNet_5cases"))
    content = gather(tmp_path / "few", options=Options(n_resamples=99))
    charts = chart_data(content)
    lines = charts["sizes"]["lines"]
    assert [(line["model"], line["name"]) for line in lines] == [(0, "UNet 2d"), (1, "AttentionUNet 2d")]
    assert [model["name"] for model in charts["models"]] == ["UNet 2d", "AttentionUNet 2d"]
    assert charts["cases"]["order"] == [0]
    assert "AttentionUNet 2d" in render(content, NO_VIEWER)


def test_an_experiment_of_subsets_alone_is_shown_too(tmp_path: Path) -> None:
    write_experiment(tmp_path / "few", ("UNet_5cases", "UNet_20cases", "AttentionUNet_5cases"))
    content = gather(tmp_path / "few", options=Options(n_resamples=99))
    assert [line["name"] for line in chart_data(content)["sizes"]["lines"]] == ["UNet 2d", "AttentionUNet 2d"]
    page = render(content, NO_VIEWER)
    assert "AttentionUNet_5cases is" in page[: page.index('id="table"')]
    assert "There is one model" not in page
    assert "All comparisons are at" in page


def test_a_difference_over_seeds_is_of_the_seeds_that_its_interval_has(tmp_path: Path) -> None:
    write_experiment(
        tmp_path, ("UNet_5cases", "UNet_5cases_seed1", "AttentionUNet_5cases", "AttentionUNet_5cases_seed1")
    )
    table = read_per_case(tmp_path / "metrics" / "per_case.csv")
    worse = table[table["variant"] == "UNet_5cases"].assign(variant="UNet_5cases_seed2", dice=0.4)
    comparison = compare(pd.concat([table, worse], ignore_index=True), Options(n_resamples=99))
    shown = equal_cases_table(comparison)
    assert shown is not None
    (row,) = shown.rows
    pair = comparison.pairs[comparison.pairs["scope"] == "mean"].iloc[0]
    assert pair["difference"] > pair["high_mixed"], "all seeds"
    assert row[2] == f"{pair['difference_mixed']:+.4f}"
    low, high = map(float, row[3].split(" to "))
    assert low <= float(row[2]) <= high


@pytest.mark.parametrize(
    ("precisions", "text"),
    [
        ({("UNet", "2d"): "float32", ("AttentionUNet", "2d"): "float32"}, None),
        # of a version that did not record it
        ({("UNet", "2d"): "float16", ("AttentionUNet", "2d"): None}, None),
        ({("UNet", "2d"): None}, None),
        (
            {("UNet", "2d"): "float32", ("UNet", "3d_fullres"): "bfloat16"},
            "UNet 2d was trained in float32, UNet 3d_fullres in bfloat16: the difference may come from that.",
        ),
        (
            {("UNet_seed1", "2d"): "float32", ("UNet_seed2", "2d"): "bfloat16"},
            "UNet was trained in bfloat16 and float32: the difference may come from that.",
        ),
    ],
)
def test_a_note_names_what_was_trained_in_which_precision(
    precisions: dict[tuple[str, str], str | None], text: str | None
) -> None:
    notes = precision_notes(records_of(precisions))
    assert [note.text for note in notes] == ([] if text is None else [text])
    assert all(note.kind is NoteKind.PRECISION for note in notes)


def test_a_fold_missing_in_the_manifest_is_read_from_its_own_folder(tmp_path: Path) -> None:
    experiment: Experiment = write_experiment(tmp_path, ("UNet",))
    folders = ExperimentPaths(tmp_path).nnunet(None)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["folds"] = [fold for fold in manifest["folds"] if fold["fold"] == 0]
    write_json(path, manifest)
    for expected in (60.0, 80.0):  # the mean of what is recorded
        seconds, notes = trained_seconds(fold_records(experiment, tmp_path, folders))
        assert seconds == {("UNet", "2d"): expected}
        assert not notes
        for cell in experiment.cells():
            record = experiment.result_folder(cell, folders.results) / "hippo_training.json"
            write_json(record, {"trained_seconds": 100.0, "precision": "float32"})
    path.unlink()
    assert precision_notes(fold_records(experiment, tmp_path, folders)) == []
