"""Checkpoints: nnU-Net's are read without running code; one that could run code needs the user's word."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_forge import DATASET, PLANS, members, weights
from model_forge import write as write_model

from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.members import find_members, load_member
from hippo_nnunet.nnunet import api
from hippo_nnunet.nnunet.paths import FOLDER_VARIABLES
from hippo_nnunet.nnunet.train_job import TrainJob
from hippo_nnunet.nnunet.trust import read_checkpoint


class Evil:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


class Reducing:
    """Pickles as a call of one's choice."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def checkpoint(**more: Any) -> dict[str, Any]:
    """What nnU-Net's trainer writes: numpy's numbers are in its log and its best score."""
    return {
        "network_weights": weights(),
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": {"scale": 65536.0, "_growth_tracker": 3},
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "train_losses": [-0.5], "n": [np.int64(3)]},
        "_best_ema": np.float32(0.75),
        "current_epoch": 3,
        "init_args": {"plans": PLANS, "configuration": "2d", "fold": 0, "dataset_json": DATASET, "device": "cpu"},
        "trainer_name": "UNetTrainer_fast",
        "inference_allowed_mirroring_axes": (0, 1),
        **more,
    }


def saved(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def model_folder(folder: Path, content: Any, plans: Any = PLANS) -> Path:
    saved(folder / "fold_0" / "checkpoint_final.pth", content)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder


def load(folder: Path, trust: bool = False) -> Any:
    (member,) = find_members([folder], None, "checkpoint_final.pth", trust)
    return load_member(member, torch.device("cpu"), use_mirroring=True, backend="torch")


def test_nnunets_checkpoint_needs_no_trust(tmp_path: Path) -> None:
    read = read_checkpoint(saved(tmp_path / "c.pth", checkpoint()))
    assert read["logging"] == checkpoint()["logging"]
    assert [type(v) for v in read["logging"]["mean_fg_dice"]] == [np.float64, np.float32]
    assert type(read["_best_ema"]) is np.float32
    assert read["_best_ema"] == 0.75
    assert read["inference_allowed_mirroring_axes"] == (0, 1)
    assert all(torch.equal(read["network_weights"][name], tensor) for name, tensor in weights().items())


def test_numpy_1_wrote_other_names(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"value": np.float64(0.1), "big": np.array(7, ">i4")[()]}, buffer)
    old = tmp_path / "old.pth"
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    read = read_checkpoint(old)
    assert read["value"] == 0.1
    assert read["big"] == 7


def test_what_torch_may_load_is_not_widened_for_others(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(saved(tmp_path / "c.pth", checkpoint()))
    assert set(torch.serialization.get_safe_globals()) == before


def test_code_is_not_run_without_trust(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    canary = tmp_path / "canary"
    folder = model_folder(tmp_path / "m", checkpoint(evil=Evil(canary)))
    with pytest.raises(DataError, match=r"can run code \(it names posix.mkdir\).*--trust-checkpoint.*model export"):
        load(folder)
    assert not canary.exists()
    with caplog.at_level(logging.WARNING):
        load(folder, trust=True)
    assert canary.is_dir(), "the trap must work, or its silence proves nothing"
    assert "can run code" in caplog.text


@pytest.mark.parametrize(
    "call",
    [
        (eval, ("1",)),
        (getattr, (1, "real")),
        (np.dtype, ("O",)),
        (np.dtype, ("V8",)),
        (np.dtype, ([("a", "f8")],)),
        (np.load, ("x",)),
        (np.dtype("f8").newbyteorder, ("<",)),
        (torch.load, ("x",)),
        (np._core.multiarray.scalar, (np.dtype("f8"), b"short")),
        (np._core.multiarray.scalar, (1, b"12345678")),
    ],
    ids=lambda call: f"{getattr(call[0], '__name__', call[0])}-{call[1][0]}",
)
def test_nothing_else_is_called(call: tuple[Any, ...], tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pth", {"network_weights": {}, "evil": Reducing(*call)})
    with pytest.raises(DataError, match="can run code"):
        read_checkpoint(path)


def test_a_checkpoint_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an nnU-Net checkpoint but a list"):
        read_checkpoint(saved(tmp_path / "c.pth", [1]))
    with pytest.raises(DataError, match="cannot be loaded"):
        folder = model_folder(tmp_path / "m", checkpoint())
        (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"PK\x03\x04 damaged")
        load(folder)


def test_a_torchscript_archive_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("c/data.pkl", b"")
        archive.writestr("c/constants.pkl", b"")
    with pytest.raises(ValueError, match="is a TorchScript archive"):
        read_checkpoint(tmp_path / "c.pth", trust=True)


@pytest.mark.parametrize(("present", "loaded"), [("final", "final"), ("latest best", "latest"), ("best", "best")])
def test_a_training_resumes_from_a_checkpoint_that_runs_code_with_the_users_word_only(
    present: str, loaded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nnU-Net would load it; a fold that somebody else has trained is validated, or trained on."""
    plans = {**PLANS, "plans_name": "TinyPlans", "dataset_name": "Dataset902_Forged"}
    data = tmp_path / "nnUNet_preprocessed" / "Dataset902_Forged"
    (data / "TinyPlans_2d").mkdir(parents=True)
    for name in FOLDER_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / name))
    (data / "TinyPlans.json").write_text(json.dumps(plans))
    (data / "dataset.json").write_text(json.dumps(DATASET))
    cases = [f"case_{number}" for number in range(5)]
    for case in cases:
        (data / "TinyPlans_2d" / f"{case}.pkl").write_bytes(pickle.dumps({"spacing": (1.0, 1.0, 1.0)}))
    splits = [{"train": [c for c in cases if c != case], "val": [case]} for case in cases]
    (data / "splits_final.json").write_text(json.dumps(splits))
    model = tmp_path / "nnUNet_results" / "Dataset902_Forged" / "UNetTrainer_fast__TinyPlans__2d"
    for which in present.split():
        evil = which == loaded
        content = checkpoint(extra=Evil(tmp_path / "canary") if evil else None)
        saved(model / "fold_0" / f"checkpoint_{which}.pth", content)
    started = []
    monkeypatch.setattr(api, "_train", lambda *given: started.append(given))
    job = TrainJob("902", "2d", 0, "UNetTrainer_fast", "TinyPlans", "cpu")
    with pytest.raises(DataError, match=rf"checkpoint_{loaded}\.pth: .*run code.*--trust-checkpoint"):
        api.train_fold(job)
    assert not started
    api.train_fold(replace(job, trust_checkpoint=True))
    assert started
    assert not (tmp_path / "canary").exists()
    (data / "TinyPlans_2d" / "case_3.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "canary")))
    with pytest.raises(DataError, match=r"case_3\.pkl: it could run code"):
        api.train_fold(job)
    assert not (tmp_path / "canary").exists()


def test_plans_beside_a_checkpoint_can_run_code_too(tmp_path: Path) -> None:
    plans = json.loads(json.dumps(PLANS))
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "os.system"
    folder = model_folder(tmp_path / "m", checkpoint(), plans)
    with pytest.raises(DataError, match=r"plans.json: .*'os.system'.*--trust-checkpoint"):
        load(folder)
    assert load(model_folder(tmp_path / "right", checkpoint())).trainer_name == "UNetTrainer_fast"


def test_weights_to_start_from_need_the_users_word_where_they_could_run_code(tmp_path: Path) -> None:
    def job(path: Path, trust: bool = False) -> TrainJob:
        return TrainJob("4", "2d", 0, pretrained_weights=path, trust_checkpoint=trust)

    job(saved(tmp_path / "good.pth", checkpoint())).check()
    evil = saved(tmp_path / "evil.pth", checkpoint(extra=Evil(tmp_path / "canary")))
    with pytest.raises(DataError, match=r"evil\.pth.*run code.*--trust-checkpoint"):
        job(evil).check()
    job(evil, trust=True).check()
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: write_model(path, members()), r"is a shared model; import it \(hippo-nnunet model import "),
        (lambda path: zipped(path, {"a/b.txt": b"x"}), "is no checkpoint"),
        (lambda path: zipped(path, {"c/constants.pkl": b"x"}), "is a TorchScript archive"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "cannot be read"),
        (lambda path: path.write_bytes(pickle.dumps({"network_weights": {}})), "cannot be read"),
        (lambda path: torch.save({"state_dict": weights()}, path), "holds no network_weights"),
        (lambda path: torch.save({"network_weights": 3}, path), "holds no network_weights"),
    ],
)
def test_weights_to_start_from_have_to_be_a_checkpoint(
    write: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.hippo"
    write(path)
    with pytest.raises(DataError, match=rf"--pretrained-weights .*w\.hippo: .*{says}"):
        TrainJob("4", "2d", 0, pretrained_weights=path).check()


def zipped(path: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_weights_of_another_network_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By nnU-Net's own loader, which asserts, in a training that is otherwise left out."""
    from nnunetv2.run import run_training
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    path = saved(tmp_path / "w.pth", checkpoint())

    def train(*_: Any, pretrained_weights: str, **__: Any) -> None:
        load_pretrained_weights(torch.nn.Conv2d(1, 2, 3), pretrained_weights)

    monkeypatch.setattr(run_training, "run_training", train)
    job = TrainJob("4", "2d", 0, "AttentionUNetTrainer", device="cpu", pretrained_weights=path)
    with pytest.raises(
        DataError, match=r"w\.pth: are not of the network of AttentionUNetTrainer .*Key weight is missing"
    ):
        api._train(job, "Dataset004_X", tmp_path / "fold_0", "cpu")
    with pytest.raises(TypeError):  # nothing else is taken for it
        monkeypatch.setattr(run_training, "run_training", lambda *_, **__: int([]))
        api._train(job, "Dataset004_X", tmp_path / "fold_0", "cpu")
