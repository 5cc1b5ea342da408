"""Training times and precisions of an experiment's folds, and what `compare` and the report say about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_experiment import write_experiment
from typer.testing import CliRunner

from hippo_nnunet.analysis.fold_records import fold_records, precision_notes, trained_seconds
from hippo_nnunet.cli.main import app
from hippo_nnunet.evaluation.notes import NoteKind
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import write_json
from hippo_nnunet.pages.report.content import gather
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
