"""Volumes of an experiment: measured from probabilities, kept, checked, and what calibrates new ones."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK
import typer
import yaml
from rich.console import Console
from typer.testing import CliRunner

from hippo_nnunet.analysis.compare import save_measurements, save_scores_and_times
from hippo_nnunet.analysis.notebook_scores import notebook_scores, ranked_differently, score_column
from hippo_nnunet.analysis.prediction_times import prediction_times, seconds_per_image
from hippo_nnunet.analysis.printed import check_parts
from hippo_nnunet.analysis.volume_preparation import NO_CALIBRATION, prepare_volumes
from hippo_nnunet.analysis.volumes import check_volumes, ensemble_volumes
from hippo_nnunet.cli.compare import compare
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.metrics import case_metrics
from hippo_nnunet.evaluation.out_of_fold_volumes import OutOfFoldVolumes
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.evaluation.segmentation_shape import Segmentation
from hippo_nnunet.evaluation.selection import EnsembleChoice, FoldChoice
from hippo_nnunet.evaluation.tables import COLUMNS
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.nnunet.paths import folders_for

LABELS = {"Anterior": 1, "Posterior": 2}
DATASET = "Dataset004_Hippocampus"
MODELS = [f"{variant}Trainer_fast__CompactPlans__2d" for variant in ("UNet", "AttentionUNet")]
SPACING = (0.9, 1.2, 1.0)  # x, y, z
VOXEL = float(np.prod(SPACING))


def write_mask(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    SimpleITK.WriteImage(image, str(path))


def write_probabilities(path: Path, array: np.ndarray, sure: float = 0.9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    one_hot = np.moveaxis(np.eye(3, dtype=np.float32)[array], -1, 0)
    np.savez_compressed(path, probabilities=one_hot * (sure - (1 - sure) / 2) + (1 - sure) / 2)


def reference_of(number: int) -> np.ndarray:
    array = np.zeros((10, 12, 14), np.uint8)
    array[2:5, 2 : 6 + number % 4, 3:9] = 1
    array[5 : 8 + number % 2, 2:6, 3:9] = 2
    return array


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight cases in two folds; each model misses other voxels, and has a speck that postprocessing takes away."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "experiment"
    preprocessed = folder / "nnunet" / "nnUNet_preprocessed" / DATASET
    results = folder / "nnunet" / "nnUNet_results" / DATASET
    rows = []
    for number in range(8):
        case, fold, reference = f"case_{number}", number % 2, reference_of(number)
        write_mask(preprocessed / "gt_segmentations" / f"{case}.nii.gz", reference)
        masks = []
        for index, model in enumerate(MODELS):
            mask = reference.copy()
            mask[2, 2, 3 : 4 + index + number % 3] = 0
            mask[0, 0, 0] = 1
            masks.append(mask)
            write_probabilities(
                results / model / f"fold_{fold}" / "validation" / f"{case}.npz", mask, 0.9 - 0.01 * index
            )
            write_mask(results / model / f"fold_{fold}" / "validation" / f"{case}.nii.gz", mask)
        together = masks[0].copy()  # the surer one wins where they differ
        together[0, 0, 0] = 0
        write_mask(folder / "ensemble" / "out_of_fold" / f"{case}.nii.gz", together)
        for variant, mask in (("UNet", masks[0]), ("AttentionUNet", masks[1]), ("ensemble", together)):
            named = {"case": case, "fold": fold, "variant": variant, "configuration": "2d"}
            rows += [{**named, **row} for row in case_metrics(reference, mask, SPACING[::-1], LABELS)]
    labels = {"labels": {"background": 0, **LABELS}, "file_ending": ".nii.gz"}
    for place in (preprocessed, *(results / model for model in MODELS)):
        (place / "dataset.json").write_text(json.dumps(labels))
    (folder / "metrics").mkdir()
    pd.DataFrame(rows)[list(COLUMNS)].to_csv(folder / "metrics" / "per_case.csv", index=False)
    wanted = {"dataset": DATASET, "preset": "laptop", "variants": ["UNet", "AttentionUNet"], "number_of_folds": 2}
    ExperimentPaths(folder).request.write_text(
        yaml.safe_dump({**wanted, "folds": {"2d": [0, 1]}, "plans": "CompactPlans"})
    )
    by_fold = tuple(FoldChoice(fold, tuple(MODELS), "largest_per_label", 0.9, 4) for fold in (0, 1))
    EnsembleChoice(tuple(MODELS), "largest_per_label", by_fold).to_json(folder / "ensemble" / "choice.json")
    return folder


def opened(folder: Path) -> tuple[Experiment, object]:
    return Experiment.load(ExperimentPaths(folder).request), folders_for(folder / "nnunet", {})


def models_of(folder: Path) -> list[Path]:
    return [folder / "nnunet" / "nnUNet_results" / DATASET / model for model in MODELS]


def test_measured_kept_and_shown_without_masks(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment, folders = opened(made)
    save_measurements(experiment, folders, made)
    kept = pd.read_csv(ExperimentPaths(made).volumes)
    assert len(kept) == 8 * 3
    row = kept.set_index(["case", "label"]).loc[("case_4", "total")]
    expected = reference_of(4).astype(bool).sum()
    assert row["volume_ref_mm3"] == pytest.approx(expected * VOXEL)
    assert row["volume_mm3"] == pytest.approx((expected - 2) * VOXEL)
    assert row["components"] == 2  # the speck, although it was taken away
    agreed, differing = 1 - (0.9 + 0.89) / 2, 1 - (0.9 + 0.055) / 2  # of one voxel
    assert row["doubt"] == pytest.approx(agreed + (differing - agreed) / (expected - 2), abs=1e-5)
    n = expected - 1  # UNet's mask with its speck; AttentionUNet's has one voxel less
    assert row["disagreement"] == pytest.approx(1 - 2 * (n - 1) / (2 * n - 1), abs=1e-6)
    table = read_per_case(ExperimentPaths(made).per_case)
    before, _ = notebook_scores(experiment, made, folders, table, remeasure=True)
    checked = check_volumes(made, 0.5)
    for name in ("nnunet", "ensemble/out_of_fold"):
        (made / name).rename(made / name.replace("/", "_").upper())
    after, notes = notebook_scores(experiment, made, folders, table)
    pd.testing.assert_frame_equal(before, after, atol=1e-6)
    assert (len(after), notes) == (3 * 8, [])
    assert "dataset.json is missing" in notebook_scores(experiment, made, folders, table, remeasure=True)[1][0].text
    again = check_volumes(made, 0.5)
    pd.testing.assert_frame_equal(checked.coverage, again.coverage)
    assert again.cases == 8
    assert again.agreement["label"].tolist() == ["Anterior", "Posterior", "total"]
    assert again.coverage["n"].tolist() == [8, 8, 8, 8]
    assert not again.notes
    assert "takes 19 cases for intervals of 90%" in check_volumes(made, 0.9).notes[0]


def test_kept_tables_of_another_evaluation_are_measured_again(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment, folders = opened(made)
    save_measurements(experiment, folders, made)
    kept = pd.read_csv(ExperimentPaths(made).volumes)
    kept.assign(volume_mm3=kept["volume_mm3"] + 50).to_csv(ExperimentPaths(made).volumes, index=False)
    pd.testing.assert_frame_equal(ensemble_volumes(experiment, folders, made)[["volume_mm3"]], kept[["volume_mm3"]])
    assert "is not of the ensemble" in caplog.text
    scores = made / "metrics" / "notebook_dice.csv"
    table = pd.read_csv(scores)
    changed = table.assign(notebook_dice=0.5)
    changed[(table["variant"] != "UNet") | (table["case"] != "case_3")].to_csv(scores, index=False)
    per_case = read_per_case(ExperimentPaths(made).per_case)
    found = notebook_scores(experiment, made, folders, per_case)[0].groupby("variant")["notebook_dice"]
    assert found.mean()["AttentionUNet"] == 0.5
    assert found.mean()["UNet"] == pytest.approx(table.loc[table["variant"] == "UNet", "notebook_dice"].mean())
    scores.write_text("case,fold\n")
    with pytest.raises(DataError, match=r"notebook_dice\.csv cannot be read as a table"):
        notebook_scores(experiment, made, folders, per_case)


def test_scores_that_rank_differently_are_named() -> None:
    rows = [
        ("UNet", "0,1", "mean", 0.88, 0.91),
        ("AttentionUNet", "0,1", "mean", 0.87, 0.93),
        ("CLIPGuidedUNet", "0,1", "mean", 0.86, 0.90),
        ("flip", "0", "mean", 0.80, 0.99),  # on another fold
        ("UNet", "0,1", "Anterior", 0.1, np.nan),
    ]
    models = pd.DataFrame(rows, columns=["variant", "folds", "scope", "dice", "notebook_dice"])
    (note,) = ranked_differently(models.assign(configuration="2d"))
    assert "UNet 2d has the higher Dice per volume (0.8800, 0.8700)" in note.text
    assert "AttentionUNet 2d the higher notebook score (0.9300, 0.9100)" in note.text


def test_a_models_score_is_the_mean_of_its_repeats() -> None:
    scores = pd.DataFrame({"variant": ["UNet", "UNet_seed1", "UNet_seed1"], "configuration": "2d", "fold": [0, 0, 1]})
    scores["notebook_dice"] = [0.9, 0.8, 0.6]
    rows = [
        ("UNet", "0", "mean", 2),
        ("UNet", "0,1", "mean", 2),
        ("UNet", "0", "Anterior", 2),
        ("other", "0", "mean", 1),
    ]
    models = pd.DataFrame(rows, columns=["variant", "folds", "scope", "repeats"]).assign(configuration="2d")
    assert score_column(scores, models).tolist() == pytest.approx([0.85, 0.8, np.nan, np.nan], nan_ok=True)


def test_the_command(made: Path) -> None:
    app = typer.Typer()
    app.command()(compare)
    found = CliRunner().invoke(app, [str(made), "--volumes", "--coverage", "0.5", "--json"])
    assert found.exit_code == 0, found.output
    content = json.loads(found.stdout)
    assert [row["label"] for row in content["volumes"]] == ["Anterior", "Posterior"] * 3
    assert content["volume_checks"]["flags"][0]["flag"] == "any"
    written = pd.read_csv(made / "metrics" / "volumetry.csv")
    assert written["icc"].notna().all()
    assert (ExperimentPaths(made).volumes).is_file()
    console = Console(width=150, record=True, file=StringIO())
    for part in check_parts(check_volumes(made)):
        console.print(part)
    shown = console.export_text()
    for words in ("limits of agreement", "Intervals of 90%", "Flags and the 1 worst of 8 cases", "takes 19 cases"):
        assert words in shown


def test_times_are_kept(made: Path) -> None:
    write_mask(made / "predictions" / "UNet" / "t1.nii.gz", reference_of(0))
    (made / "benchmarks" / "predict").mkdir(parents=True)
    (made / "benchmarks" / "predict" / "UNet.tsv").write_text("s\th:m:s\n9.0\t0:00:09\n")
    save_scores_and_times(made)
    (made / "benchmarks").rename(made / "gone")
    seconds, notes = seconds_per_image(prediction_times(opened(made)[0], made))
    assert seconds == {("UNet", "2d"): 9}
    assert notes[0].text.startswith("Seconds per image: wall-clock time of predicting 1 test images")


def test_new_cases_of_the_ensemble_and_of_models(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    models, case = models_of(made), Segmentation("new", reference_of(5), SPACING[::-1])
    prepared = {
        "ensemble": prepare_volumes(tmp_path / "e.csv", models, made, None, 0.5),
        "model": prepare_volumes(tmp_path / "m.csv", models[:1], None, made, 0.5),
        "none": prepare_volumes(tmp_path / "n.csv", models, None, NO_CALIBRATION),
    }
    tables = {}
    for name, volumes in prepared.items():
        volumes.add(case)
        tables[name] = pd.read_csv(volumes.write()).set_index("label")
    for table in tables.values():
        assert table["volume_mm3"].tolist() == pytest.approx(
            [
                (reference_of(5) == 1).sum() * VOXEL,
                (reference_of(5) == 2).sum() * VOXEL,
                (reference_of(5) > 0).sum() * VOXEL,
            ],
            abs=1e-3,
        )
    ensemble = tables["ensemble"]
    assert (ensemble["low_mm3"] <= ensemble["high_mm3"]).all()
    assert ensemble.loc["Anterior", "low_mm3"] > ensemble.loc["Anterior", "volume_mm3"]  # they all miss something
    missed = tables["model"].loc["Anterior", "low_mm3"] - tables["model"].loc["Anterior", "volume_mm3"]
    assert missed < ensemble.loc["Anterior", "low_mm3"] - ensemble.loc["Anterior", "volume_mm3"]  # its speck counts
    assert ensemble["calibration_cases"].tolist() == [8, 8, 8]
    assert tables["none"]["low_mm3"].isna().all()
    assert "without intervals, as asked" in caplog.text
    prepare_volumes(tmp_path / "x.csv", models, made, None)
    assert "8 out-of-fold cases cannot bound intervals of 90 %, that takes 19" in caplog.text


def test_what_cannot_be_calibrated(made: Path, tmp_path: Path) -> None:
    models, target = models_of(made), tmp_path / "v.csv"
    with pytest.raises(ConfigError, match="--calibration EXPERIMENT, or give --calibration none"):
        prepare_volumes(target, models, None, None)
    with pytest.raises(ConfigError, match="--calibration is for --model"):
        prepare_volumes(target, models, made, made)
    other = models[0].with_name("UNetTrainer_flip__CompactPlans__2d")
    other.mkdir()
    (other / "dataset.json").write_text((models[0] / "dataset.json").read_text())
    with pytest.raises(ConfigError, match="UNetTrainer_flip__CompactPlans__2d is no model of"):
        prepare_volumes(target, [other], None, made)
    target.touch()
    with pytest.raises(DataError, match=r"v\.csv exists already"):
        prepare_volumes(target, models, made, None)
    with pytest.raises(DataError, match="is a folder: name a file"):
        prepare_volumes(tmp_path, models, made, None)
    (models[0] / "fold_1" / "validation" / "case_1.npz").unlink()
    with pytest.raises(DataError, match="no probabilities of case case_1 in fold 1"):
        prepare_volumes(tmp_path / "w.csv", models, None, made)
    (made / "ensemble" / "choice.json").unlink()
    with pytest.raises(ConfigError, match="this experiment has none"):
        check_volumes(made)


def test_regions_and_the_ignore_label(tmp_path: Path) -> None:
    """The whole is a region already; ignored voxels make the reference's volume unknown, and count nowhere."""
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    dataset = {"labels": labels, "regions_class_order": [1, 2], "file_ending": ".nii.gz"}
    reference = reference_of(0)
    write_mask(tmp_path / "a.nii.gz", reference)
    partly = reference.copy()
    partly[2] = 3
    write_mask(tmp_path / "b.nii.gz", partly)
    inside = np.stack([reference > 0, reference == 2]).astype(np.float32)
    np.savez_compressed(tmp_path / "p.npz", probabilities=inside * 0.8 + 0.1)
    measuring = OutOfFoldVolumes(tmp_path, dataset)
    whole = measuring.measure("a", 0, [tmp_path / "p.npz"], "none")
    assert whole["label"].tolist() == ["whole", "core"]
    assert whole["volume_mm3"].tolist() == pytest.approx(whole["volume_ref_mm3"].tolist())
    assert whole["doubt"].tolist() == pytest.approx([0.1, 0.1])
    ignored = measuring.measure("b", 0, [tmp_path / "p.npz"], "none")
    assert ignored["volume_ref_mm3"].isna().all()
    assert ignored["volume_mm3"].iloc[0] == pytest.approx(((reference > 0).sum() - (reference[2] > 0).sum()) * VOXEL)
    with pytest.raises(DataError, match="expected \\(2, 10, 12, 14\\)"):
        np.savez_compressed(tmp_path / "q.npz", probabilities=inside[:1])
        measuring.measure("a", 0, [tmp_path / "q.npz"], "none")
