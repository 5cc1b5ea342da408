"""nnU-Net's own commands work on what we write. `nnUNetv2_predict` and `_ensemble`: test_predict_equals_nnunet."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from tiny_dataset import ATTENTION, CASES, PLANS, TEST_CASES, UNET, TinyDataset
from torch.multiprocessing import ProcessRaisedException

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.nnunet.api import train_fold
from hippo_nnunet.nnunet.train_job import TrainJob

pytestmark = pytest.mark.slow

TRAINER = "AttentionUNetTrainer_fast_1epochs_2iters"
COMMAND = ("2d", 0, "-p", PLANS, "-device", "cpu")


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=False)["network_weights"]


@pytest.fixture(scope="module")
def by_command(trained: TinyDataset) -> Path:
    """Fold trained by the plain command from given weights, with probabilities."""
    pretrained = ("-pretrained_weights", trained.model(ATTENTION) / "fold_0" / "checkpoint_final.pth")
    trained.command("nnUNetv2_train", trained.number, *COMMAND, "-tr", TRAINER, "--npz", *pretrained)
    return trained.model(TRAINER) / "fold_0"


def test_train(by_command: Path) -> None:
    validation = by_command / "validation"
    assert {path.stem for path in validation.glob("*.npz")} == set(CASES[:2])
    assert set(json.loads((validation / "summary.json").read_text())["mean"]) == {"1", "2"}
    probabilities = np.load(validation / f"{CASES[0]}.npz")["probabilities"]
    assert probabilities.shape == (3, 20, 26, 22)
    assert json.loads((by_command / "hippo_training.json").read_text())["iterations"] == 2


def test_train_and_predict_with_clip(tiny: TinyDataset, tmp_path: Path) -> None:
    name = "CLIPGuidedUNetTrainer_mini_fast_1epochs_2iters"
    tiny.command("nnUNetv2_train", tiny.number, *COMMAND, "-tr", name, "--npz")
    fold = tiny.model(name) / "fold_0"
    assert {path.stem for path in (fold / "validation").glob("*.npz")} == set(CASES[:2])
    assert set(json.loads((fold / "validation" / "summary.json").read_text())["mean"]) == {"1", "2"}
    model = ("-d", tiny.number, "-c", "2d", "-p", PLANS, "-tr", name, "-f", 0, "-device", "cpu", "-npp", 0, "-nps", 0)
    tiny.command("nnUNetv2_predict", "-i", tiny.images, "-o", tmp_path, *model)
    assert {path.name for path in tmp_path.glob("*.nii.gz")} == {f"{case}.nii.gz" for case in TEST_CASES}


def test_val_writes_the_validation_again(tiny: TinyDataset, by_command: Path) -> None:
    before = {path.name: path.read_bytes() for path in (by_command / "validation").glob("*.nii.gz")}
    shutil.rmtree(by_command / "validation")
    tiny.command("nnUNetv2_train", tiny.number, *COMMAND, "-tr", TRAINER, "--val", "--npz")
    assert {path.name: path.read_bytes() for path in (by_command / "validation").glob("*.nii.gz")} == before
    assert len(list((by_command / "validation").glob("*.npz"))) == 2


def test_c_goes_on_after_the_last_epoch(in_tiny: TinyDataset) -> None:
    name = "UNetTrainer_fast_2epochs_2iters"
    begun = in_tiny.trainer(name)
    begun.num_epochs = 1
    begun.run_training()
    fold = in_tiny.model(name) / "fold_0"
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    (fold / "hippo_training.json").unlink()
    in_tiny.command("nnUNetv2_train", in_tiny.number, *COMMAND, "-tr", name, "--c")
    logs = "".join(path.read_text() for path in sorted(fold.glob("training_log*.txt")))
    assert len(re.findall(r"Epoch 0 *\n", logs)) == 1
    assert len(re.findall(r"Epoch 1 *\n", logs)) == 1
    assert json.loads((fold / "hippo_training.json").read_text())["resumed"] == 1
    assert (fold / "validation" / "summary.json").is_file()


def test_pretrained_weights(trained: TinyDataset, by_command: Path) -> None:
    """Two steps away from the weights given is near them; a start of its own would not be."""
    given = weights(trained.model(ATTENTION) / "fold_0" / "checkpoint_final.pth")
    other = weights(trained.model(ATTENTION) / "fold_1" / "checkpoint_final.pth")
    got = weights(by_command / "checkpoint_final.pth")
    key = "encoder.stages.1.0.convs.0.conv.weight"
    assert 0 < (given[key] - got[key]).norm() < 0.5 * (given[key] - other[key]).norm()


def test_pretrained_weights_by_our_command(
    trained: TinyDataset, in_tiny: TinyDataset, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trained.model(ATTENTION) / "fold_0" / "checkpoint_final.pth"
    name = "AttentionUNetTrainer_fast_1epochs_1iters"
    job = TrainJob(str(in_tiny.number), "2d", 0, name, PLANS, "cpu", pretrained_weights=path)

    def in_another_process(*_: object, **__: object) -> None:
        text = (
            "\n-- Process 1 terminated with the following error:\n...\nhippo_nnunet.errors.ConfigError: leave it out\n"
        )
        raise ProcessRaisedException(text, 1, 1)

    with monkeypatch.context() as patch:
        patch.setattr("nnunetv2.run.run_training.run_training", in_another_process)
        with pytest.raises(ConfigError, match=r"^leave it out$"):
            train_fold(job)
    fold = train_fold(job)
    key = "encoder.stages.1.0.convs.0.conv.weight"
    given, got = weights(path)[key], weights(fold / "checkpoint_final.pth")[key]
    other = weights(trained.model(ATTENTION) / "fold_1" / "checkpoint_final.pth")[key]
    assert 0 < (given - got).norm() < 0.5 * (given - other).norm()
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    train_fold(job)
    assert "it goes on from its checkpoint, not from --pretrained-weights" in caplog.text


def test_find_best_configuration(trained: TinyDataset) -> None:
    trainers = ("-tr", UNET, ATTENTION)
    trained.command(
        "nnUNetv2_find_best_configuration",
        trained.number, "-p", PLANS, "-c", "2d", *trainers, "-f", 0, 1, "-np", 1,
    )  # fmt: skip
    results = trained.model(UNET).parent
    information = json.loads((results / "inference_information.json").read_text())
    scores = information["all_results"]
    ensemble = f"ensemble___{trained.model(UNET).name}___{trained.model(ATTENTION).name}___0_1"
    assert set(scores) == {trained.model(UNET).name, trained.model(ATTENTION).name, ensemble}
    assert all(0 < score <= 1 for score in scores.values())
    assert "nnUNetv2_predict" in (results / "inference_instructions.txt").read_text()


def test_evaluate_folder_on_our_predictions(trained: TinyDataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(trained.raw / "imagesTr", out, [trained.model(UNET)], PredictOptions(device="cpu"))
    options = ("-djfile", out / "dataset.json", "-pfile", out / "plans.json", "-np", 1)
    trained.command("nnUNetv2_evaluate_folder", trained.raw / "labelsTr", out, *options)
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == len(CASES)
    assert summary["foreground_mean"]["Dice"] > 0.5


def test_export_and_install(trained: TinyDataset, tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    model = ("-c", "2d", "-tr", ATTENTION, "-p", PLANS, "-f", 0, 1)
    trained.command("nnUNetv2_export_model_to_zip", "-d", trained.name, "-o", archive, *model)
    elsewhere = TinyDataset(tmp_path / "elsewhere", trained.name)
    elsewhere.command("nnUNetv2_install_pretrained_model_from_zip", archive)
    for name, models in (("original", trained.model(ATTENTION)), ("installed", elsewhere.model(ATTENTION))):
        predict(trained.images, tmp_path / name, [models], PredictOptions(device="cpu", use_mirroring=False))
    for case in TEST_CASES:
        a, b = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / f"{case}.nii.gz")))
            for name in ("original", "installed")
        )
        assert np.array_equal(a, b)
