"""A trained model as one file: exported, verified, predicted from, installed; the same voxels everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from model_forge import DESCRIPTION, members, unpacked, write
from tiny_dataset import PLANS, TEST_CASES, UNET, TinyDataset
from typer.testing import CliRunner

from hippo_nnunet.cli.model import app
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.inference.loading import load_model, load_model_file
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.models.model_file import open_model
from hippo_nnunet.models.tensors import pack, unpack
from hippo_nnunet.sharing.exporting import ExportOptions, export_model
from hippo_nnunet.sharing.installing import install_model
from hippo_nnunet.sharing.verifying import verify_model

pytestmark = pytest.mark.slow

CHECKPOINT = "checkpoint_final.pth"
GUIDED = "CLIPGuidedUNetTrainer_mini_fast_1epochs_100iters_seed1"


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def image(trained: TinyDataset) -> Path:
    return trained.images / f"{TEST_CASES[0]}_0000.nii.gz"


def output(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    labels = voxels(folder / f"{TEST_CASES[0]}.nii.gz")
    return labels, np.load(folder / f"{TEST_CASES[0]}.npz")["probabilities"]


def relabelled(trained: TinyDataset, folder: Path, trainer: str) -> Path:
    """UNET's first fold as if another trainer had made it."""
    (folder / "fold_0").mkdir(parents=True)
    for name in ("dataset.json", "plans.json"):
        (folder / name).write_bytes((trained.model(UNET) / name).read_bytes())
    checkpoint = torch.load(trained.model(UNET) / "fold_0" / CHECKPOINT, weights_only=False)
    checkpoint.pop("hippo_nnunet")
    torch.save({**checkpoint, "trainer_name": trainer}, folder / "fold_0" / CHECKPOINT)
    return folder


@pytest.fixture(scope="module")
def shared(trained: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UNET in 2d, folds 0 and 1, as one file."""
    options = ExportOptions(licence="CC0-1.0", citation="Doe 2020")
    return export_model(trained.model(UNET), tmp_path_factory.mktemp("shared") / "unet.hippo", options)


def test_what_is_in_the_file(shared: Path) -> None:
    content = unpacked(shared)
    assert set(content) == {
        "README.md", "model.json", "plans.json", "dataset.json", "example/input_0000.nii", "example/labels.nii",
        "example/expected.json", "weights/fold_0.safetensors", "weights/fold_1.safetensors",
    }  # fmt: skip
    description = open_model(shared).description
    assert description["licence"] == "CC0-1.0"
    assert description["schedule"]["iterations"] == 100
    assert description["metrics"]["1"]["cases"] == 2
    assert 0 <= description["metrics"]["1"]["dice"]["anterior"] <= 1
    card = content["README.md"].decode()
    assert "Doe 2020" in card
    assert "| 1 | 2 |" in card
    assert str(shared.parent) not in card + str(description)


def test_the_same_model_gives_the_same_bytes(trained: TinyDataset, shared: Path, tmp_path: Path) -> None:
    options = ExportOptions(licence="CC0-1.0", citation="Doe 2020")
    again = export_model(trained.model(UNET), tmp_path / "again.hippo", options)
    assert again.read_bytes() == shared.read_bytes()


def test_the_file_predicts_as_the_folder(trained: TinyDataset, shared: Path, tmp_path: Path) -> None:
    for name, model in (("folder", trained.model(UNET)), ("file", shared)):
        predict(
            image(trained),
            tmp_path / name,
            [model],
            PredictOptions(device="cpu", save_probabilities=True, backend="torch"),
        )
    (labels, probabilities), (expected, of_folder) = output(tmp_path / "file"), output(tmp_path / "folder")
    assert labels.any()
    assert (labels == expected).all()
    assert (probabilities == of_folder).all()
    with pytest.raises(ConfigError, match="folds that have it: 0, 1"):
        predict(image(trained), tmp_path / "none", [shared], PredictOptions(folds=[2], device="cpu"))


def test_verified_without_nnunets_folders_and_without_network(shared: Path, tmp_path: Path) -> None:
    """A process with an empty environment, in which every socket is an error."""
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from hippo_nnunet.cli.model import app\n"
        "app(['verify', sys.argv[1]])\n"
    )
    environment = {"HOME": str(tmp_path), "PATH": os.defpath}
    command = [sys.executable, "-c", code, str(shared)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100.0000%" in done.stdout
    assert "every SHA-256 as listed" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_model_with_other_output_is_refused(shared: Path, tmp_path: Path) -> None:
    """Its manifest is right; its weights are not those that made the expected output."""
    content = unpacked(shared)
    for fold in (0, 1):
        name = f"weights/fold_{fold}.safetensors"
        weights = unpack(content[name])
        heads = {key: tensor.flip(0) for key, tensor in weights.items() if "seg_layers" in key}
        content[name] = pack({**weights, **heads})
    path = write(tmp_path / "other.hippo", content)
    found = verify_model(path)
    assert found.difference > 1e-3
    with pytest.raises(DataError, match="does not reproduce the expected output"):
        found.check()
    result = CliRunner().invoke(app, ["verify", str(path)])
    assert isinstance(result.exception, DataError)
    assert "largest difference of a probability" in result.stdout


@pytest.mark.parametrize("name", ["example/labels.nii", "example/expected.json", "example/input_0000.nii"])
def test_a_wrong_example_is_refused(name: str, shared: Path, tmp_path: Path) -> None:
    content = unpacked(shared)
    content[name] = content[name][: len(content[name]) // 2] if name.endswith(".nii") else b'{"voxels": [-1]}'
    with pytest.raises(DataError, match=r"other.hippo: .*ask for it again"):
        verify_model(write(tmp_path / "other.hippo", content))


def test_installed_for_nnunet(trained: TinyDataset, shared: Path, tmp_path: Path) -> None:
    """nnUNetv2_predict finds the model by dataset, trainer, plans and configuration, and gives the same voxels."""
    root = tmp_path / "root"
    folder = install_model(shared, root)
    assert folder == root / "nnUNet_results" / trained.name / f"{UNET}__{PLANS}__2d"
    predict(
        image(trained),
        tmp_path / "file",
        [shared],
        PredictOptions(device="cpu", save_probabilities=True, backend="torch"),
    )
    predict(
        image(trained),
        tmp_path / "ours",
        [folder],
        PredictOptions(device="cpu", save_probabilities=True, backend="torch"),
    )
    assert (output(tmp_path / "file")[1] == output(tmp_path / "ours")[1]).all()
    there = TinyDataset(root, trained.name)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / image(trained).name).symlink_to(image(trained))
    there.command(
        "nnUNetv2_predict", "-i", tmp_path / "images", "-o", tmp_path / "theirs", "-d", trained.number, "-tr", UNET,
        "-p", PLANS, "-c", "2d", "-f", 0, 1, "-device", "cpu", "-npp", 0, "-nps", 0, "--save_probabilities",
    )  # fmt: skip
    (labels, probabilities), (ours, our_probabilities) = output(tmp_path / "theirs"), output(tmp_path / "file")
    assert (np.abs(probabilities - our_probabilities) < 1e-3).mean() > 0.97
    second, first = np.sort(our_probabilities, axis=0)[-2:]
    tied = first - second < 0.01  # a model of a hundred steps is unsure, and nnU-Net sums in half precision
    assert tied.mean() < 0.1
    assert (labels == ours)[~tied].all()


def test_installing_replaces_nothing_unasked(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = install_model(shared, tmp_path)
    card = folder / "README.md"
    card.write_text("earlier")
    with pytest.raises(DataError, match="exists already"):
        install_model(shared, tmp_path)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DataError, match="nothing was changed there"):
        patch.setattr(torch, "save", full)
        install_model(shared, tmp_path, overwrite=True)
    assert card.read_text() == "earlier"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    install_model(shared, tmp_path, overwrite=True)
    assert card.read_text() != "earlier"
    log = folder / "fold_0" / "training_log_2026_1_1_00_00_00.txt"
    log.write_text("epochs")
    with pytest.raises(DataError, match="was trained, not imported, and is not replaced"):
        install_model(shared, tmp_path, overwrite=True)
    assert log.is_file()
    monkeypatch.delenv("nnUNet_results", raising=False)
    with pytest.raises(ConfigError, match="--root"):
        install_model(shared)


def test_a_model_of_nnunets_own_trainer(trained: TinyDataset, shared: Path, tmp_path: Path) -> None:
    model = relabelled(trained, tmp_path / "nnUNetTrainer__TinyPlans__2d", "nnUNetTrainer")
    file = export_model(model, tmp_path / "stock.hippo")
    assert open_model(file).description["schedule"] is None
    ours, theirs = load_model(shared, [0], ""), load_model(file, [0], "")
    assert str(ours["network"]) == str(theirs["network"])
    assert all(torch.equal(ours["parameters"][0][name], t) for name, t in theirs["parameters"][0].items())


def test_a_trainer_of_ones_own_cannot_be_shared(trained: TinyDataset, tmp_path: Path, monkeypatch) -> None:
    """Its code would be missing elsewhere; and a reader's own folder of trainers is never searched for a file."""
    trainers = tmp_path / "trainers"
    trainers.mkdir()
    source = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
    (trainers / "mine.py").write_text(f"{source}class MineTrainer(nnUNetTrainer): pass\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers))
    for name in ("MineTrainer", "torch"):
        forged = members(model=json.dumps({**DESCRIPTION, "trainer": name}).encode())
        model = open_model(write(tmp_path / "m.hippo", forged))
        with pytest.raises(DataError, match="neither ours nor one of nnU-Net's own"):
            load_model_file(model, model.folds)
    monkeypatch.setattr("nnunetv2.utilities.find_objects.nnUNet_extTrainer", FakePath(trainers))
    folder = relabelled(trained, tmp_path / "MineTrainer__TinyPlans__2d", "MineTrainer")
    with pytest.raises(DataError, match=r"not written.*neither ours nor one of nnU-Net's own"):
        export_model(folder, tmp_path / "mine.hippo")
    assert not (tmp_path / "mine.hippo").exists()


class FakePath:
    """nnU-Net reads its variable once, at its import."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def is_set(self) -> bool:
        return True

    def get(self) -> str:
        return str(self.folder)


def test_a_clip_guided_model_takes_its_text_along(in_tiny: TinyDataset, tmp_path: Path) -> None:
    trainer = in_tiny.trainer(GUIDED, "2d", 0)
    trainer.initialize()
    model = tmp_path / f"{GUIDED}__{PLANS}__2d"
    (model / "fold_0").mkdir(parents=True)
    for name, source in (("dataset.json", "dataset.json"), ("plans.json", f"{PLANS}.json")):
        (model / name).write_bytes((in_tiny.preprocessed / source).read_bytes())
    trainer.save_checkpoint(str(model / "fold_0" / CHECKPOINT))
    file = export_model(model, tmp_path / "guided.hippo")
    assert verify_model(file).difference == 0
    shared = open_model(file)
    weights = shared.weights(0)
    assert torch.equal(weights["text_embeddings"], trainer.network.text_embeddings)
    assert bytes(weights["encoder_sha256"].tolist()).hex() == shared.description["clip"]["sha256"]
    assert shared.description["clip"]["name"] == "mini/bundled"
    content = unpacked(file)
    weights["encoder_sha256"] = weights["encoder_sha256"].flip(0)
    content["weights/fold_0.safetensors"] = pack(weights)
    with pytest.raises((DataError, ConfigError), match="use the encoder of the training"):
        verify_model(write(tmp_path / "other.hippo", content))


def test_what_cannot_be_exported(trained: TinyDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        export_model(tmp_path / "none", tmp_path / "m.hippo")
    with pytest.raises(ConfigError, match=r"\.hippo file"):
        export_model(trained.model(UNET), tmp_path / "m.zip")
    with pytest.raises(ConfigError, match="no such checkpoint"):
        export_model(trained.model(UNET), tmp_path / "m.hippo", ExportOptions(folds=[3]))
    assert list(tmp_path.iterdir()) == []
