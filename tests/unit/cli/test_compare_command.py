"""`compare` on a folder as `run` leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK
import typer
import yaml
from typer.testing import CliRunner, Result

from hippo_nnunet.analysis.compare import as_json, compare_experiment
from hippo_nnunet.cli.compare import compare
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.comparison import Options
from hippo_nnunet.evaluation.comparison import compare as compare_table
from hippo_nnunet.evaluation.metrics import case_metrics
from hippo_nnunet.evaluation.notebook_dice import notebook_dice
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.tables import COLUMNS

LABELS = {"Anterior": 1, "Posterior": 2}
DATASET = "Dataset004_Hippocampus"
VARIANTS = {"UNet": 2, "AttentionUNet": 1}  # slices that each of them misses
FAST = Options(n_resamples=200)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight cases in two folds, two variants, times, and test images predicted by one variant."""
    folder = tmp_path_factory.mktemp("experiment")
    wanted = {"dataset": DATASET, "preset": "laptop", "variants": [*VARIANTS], "folds": {"2d": [0, 1]}}
    (folder / "experiment.yaml").write_text(yaml.safe_dump({**wanted, "number_of_folds": 2, "plans": "CompactPlans"}))
    preprocessed = folder / "nnunet" / "nnUNet_preprocessed" / DATASET
    rng = np.random.default_rng(0)
    rows = []
    for number in range(8):
        case, fold = f"case_{number}", number % 2
        reference = np.zeros((20, 12, 14), np.uint8)
        reference[4 : 16 + number % 3, 2:9, 3:9] = 1
        reference[8:, 2:9, 3:9] *= 2
        write(preprocessed / "gt_segmentations" / f"{case}.nii.gz", reference)
        for variant, missed in VARIANTS.items():
            prediction = reference.copy()
            prediction[4 : 4 + missed + rng.integers(0, 2)] = 0
            model = f"{variant}Trainer_fast__CompactPlans__2d"
            place = folder / "nnunet" / "nnUNet_results" / DATASET / model / f"fold_{fold}" / "validation"
            write(place / f"{case}.nii.gz", prediction)
            named = {"case": case, "fold": fold, "variant": variant, "configuration": "2d"}
            rows += [{**named, **row} for row in case_metrics(reference, prediction, (1, 1, 1), LABELS)]
    labels = {"labels": {"background": 0, **LABELS}, "file_ending": ".nii.gz"}
    (preprocessed / "dataset.json").write_text(json.dumps(labels))
    (folder / "metrics").mkdir()
    pd.DataFrame(rows)[list(COLUMNS)].to_csv(folder / "metrics" / "per_case.csv", index=False)
    folds = [
        {"variant": variant, "configuration": "2d", "fold": fold, "trained_seconds": 60.0 + fold}
        for variant in VARIANTS
        for fold in (0, 1)
    ]
    (folder / "manifest.json").write_text(json.dumps({"folds": folds}))
    for case in ("t1", "t2"):
        write(folder / "predictions" / "UNet" / f"{case}.nii.gz", reference)
    (folder / "predictions" / "UNet" / "dataset.json").write_text("{}")
    (folder / "benchmarks" / "predict").mkdir(parents=True)
    (folder / "benchmarks" / "predict" / "UNet.tsv").write_text("s\th:m:s\n9.0\t0:00:09\n")
    return folder


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)


def program(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(compare)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "220"})


def test_times_and_the_notebooks_score(made: Path) -> None:
    comparison = compare_experiment(made, FAST)
    models = comparison.models[comparison.models["scope"] == "mean"].set_index("variant")
    assert models["trained_seconds"].tolist() == [60.5, 60.5]
    assert models.loc["UNet", "predict_seconds"] == 4.5
    results = made / "nnunet" / "nnUNet_results" / DATASET / "UNetTrainer_fast__CompactPlans__2d"
    references = made / "nnunet" / "nnUNet_preprocessed" / DATASET / "gt_segmentations"
    read = lambda path: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))  # noqa: E731
    files = sorted(results.glob("fold_*/validation/*.nii.gz"))
    expected = np.mean([notebook_dice(read(file), read(references / file.name)) for file in files])
    assert models.loc["UNet", "notebook_dice"] == pytest.approx(expected)
    assert expected > models.loc["UNet", "dice"]


def test_the_command_prints_and_writes(made: Path) -> None:
    done = program(str(made), "--full")
    assert done.exit_code == 0, done.output
    for words in (
        "notebooks' score",
        "min per fold",
        "s per image",
        "if trained again",
        "AttentionUNet 2d against UNet 2d:",
    ):
        assert words in done.stdout
    written = pd.read_csv(made / "metrics" / "comparison.csv")
    assert written["scope"].tolist() == ["mean", *LABELS]
    assert written["verdict"].iloc[0] == "better"
    assert not list((made / "metrics").glob(".*"))
    again = program(str(made), "--metric", "hd95_mm", "--rope", "0.1", "--baseline", "AttentionUNet", "--json")
    found = json.loads(again.stdout)
    assert found["options"]["rope"] == 0.1
    assert found["pairs"][0]["verdict"] == "worse"
    assert len(found["sentences"]) == 3
    written = pd.read_csv(made / "metrics" / "comparison.csv")
    assert written["metric"].tolist() == ["dice"] * 3 + ["hd95_mm"] * 3, "another metric is added"
    program(str(made))
    again = pd.read_csv(made / "metrics" / "comparison.csv")
    assert again["metric"].tolist() == ["hd95_mm"] * 3 + ["dice"] * 3, "the same metric is replaced"


def test_a_read_only_experiment_is_compared_without_being_saved(
    made: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = made / "metrics"
    before = {path: path.stat().st_mtime_ns for path in metrics.iterdir()}
    monkeypatch.setattr("hippo_nnunet.nnunet.paths.folder_problem", lambda folder: "Read-only file system")
    done = program(str(made))
    assert done.exit_code == 0, done.output
    assert "AttentionUNet is better than UNet" in done.stdout
    assert "comparison: " not in done.stdout
    assert "metrics: cannot write there (Read-only file system): the comparison is shown, not saved" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in metrics.iterdir()} == before


def test_small_p_values_are_not_rounded_to_zero() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f"case_{case}", case % 5, variant, "2d", label, 0.8 + gain + rng.normal(0, 0.01), 0.9, 1.0, 0.3, 900.0, 900.0)
        for variant, gain in (("UNet", 0.0), ("AttentionUNet", 0.05))
        for case in range(150)
        for label in LABELS
    ]
    found = json.loads(as_json(compare_table(pd.DataFrame(rows, columns=list(COLUMNS)), FAST)))
    assert 0 < found["pairs"][0]["p_wilcoxon"] < 1e-15
    assert found["pairs"][0]["low_retrained"] > 0


@pytest.mark.parametrize("columns", ["80", "60"])
def test_the_verdict_comes_first_and_all_fits(made: Path, columns: str) -> None:
    app = typer.Typer()
    app.command()(compare)
    done = CliRunner().invoke(app, [str(made)], env={"COLUMNS": columns})
    assert done.exit_code == 0, done.output
    *lines, last = done.stdout.splitlines()
    assert last.startswith("comparison: ")
    assert lines[0] == "AttentionUNet is better than UNet (2d)."
    assert lines[1].startswith("- AttentionUNet 2d against UNet 2d: better")
    assert max(map(len, lines)) <= int(columns)
    (heading,) = (line for line in lines if line.split()[:2] == ["model", "label"])
    for words in ("Dice", "5th pct.", "HD95, mm", "failed"):
        assert words in heading
    assert "if trained again" not in done.stdout, "that table is behind --full"


def test_against_published_results(made: Path, tmp_path: Path) -> None:
    cases = [f"case_{number}" for number in range(8)]
    path = tmp_path / "published.csv"
    pd.DataFrame({"case": cases, "conv_fold": 0, "conv_anterior": 0.1, "conv_posterior": 0.1}).to_csv(path, index=False)
    done = program(str(made), "--against", str(path))
    assert "UNet 2d against conv: better, by more than 0.005" in done.stdout


def test_against_another_experiment(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "metrics").mkdir(parents=True)
    table = pd.read_csv(made / "metrics" / "per_case.csv")
    mine = table[table["variant"] == "UNet"]
    repeats = [mine.assign(variant=name, dice=mine["dice"] - lower) for name, lower in (("U", 0.2), ("U_seed1", 0.1))]
    pd.concat(repeats).to_csv(other / "metrics" / "per_case.csv", index=False)
    pairs = compare_experiment(made, FAST, other).pairs
    found = pairs[(pairs["against"] == "other: U 2d") & (pairs["variant"] == "UNet") & (pairs["scope"] == MEAN)]
    assert found["difference"].to_numpy() == pytest.approx(0.15), "both trainings, averaged"
    mine.assign(label="Other " + mine["label"]).to_csv(other / "metrics" / "per_case.csv", index=False)
    with pytest.raises(DataError, match="holds no label Anterior: name an experiment with the same data"):
        compare_experiment(made, FAST, other)
    mine.assign(case="x" + mine["case"]).to_csv(other / "metrics" / "per_case.csv", index=False)
    with pytest.raises(DataError, match="holds none of the experiment's cases"):
        compare_experiment(made, FAST, other)


def test_what_is_missing_is_told(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        compare_experiment(tmp_path / "absent", FAST)
    with pytest.raises(DataError, match=r"per_case\.csv is missing"):
        compare_experiment(tmp_path, FAST)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "per_case.csv").write_text((made / "metrics" / "per_case.csv").read_text())
    alone = compare_experiment(tmp_path, FAST)
    assert "experiment.yaml is missing: no times" in alone.notes[-1].text
    (tmp_path / "experiment.yaml").write_text((made / "experiment.yaml").read_text())
    comparison = compare_experiment(tmp_path, FAST)
    assert Note(NoteKind.TRAINING_TIME, "No training time is recorded for UNet 2d.") in comparison.notes
    assert any(note.kind is NoteKind.NOTEBOOK_SCORE for note in comparison.notes)
    assert any("No score of the notebooks' protocol" in note.text for note in comparison.notes)
    pd.testing.assert_frame_equal(comparison.pairs, alone.pairs)


def test_a_missing_prediction_leaves_that_score_out(made: Path) -> None:
    (made / "metrics" / "notebook_dice.csv").unlink(missing_ok=True)  # which compare keeps
    (path,) = made.glob("nnunet/nnUNet_results/*/UNetTrainer*/fold_1/validation/case_3.nii.gz")
    moved = path.rename(path.with_name("kept"))
    try:
        comparison = compare_experiment(made, FAST)
    finally:
        moved.rename(path)
    scores = comparison.models[comparison.models["scope"] == "mean"].set_index("variant")["notebook_dice"]
    assert np.isnan(scores["UNet"])
    assert scores["AttentionUNet"] > 0.5
    assert any("case_3.nii.gz: the file is missing" in note.text for note in comparison.notes)
