"""What `benchmark predict` runs, in which order, and what it makes of the results; no network predicts here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from model_forge import DATASET, PLANS, weights

from benchmarks import prediction
from benchmarks.document import OURS, STOCK
from benchmarks.prediction import PredictJob, benchmark_predict
from benchmarks.processes import Run
from hippo_nnunet.errors import ConfigError, DataError

MODEL = "UNetTrainer_fast__CompactPlans__2d"


def write(path: Path, values: Sequence[int]) -> None:
    nib.save(nib.Nifti1Image(np.array(values, np.uint8).reshape(2, 2, 1), np.eye(4)), path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "anywhere" / MODEL
    for fold in (0, 1):
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.save(checkpoint(), folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    (folder / "plans.json").write_text(json.dumps({**PLANS, "plans_name": "CompactPlans"}))
    return folder


def checkpoint(**more: Any) -> dict[str, Any]:
    """The entries of a checkpoint that prediction reads."""
    named = {"trainer_name": "UNetTrainer_fast", "init_args": {"configuration": "2d"}}
    return {"network_weights": weights(), "inference_allowed_mirroring_axes": (0, 1), **named, **more}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for case in ("h_1.nii.gz", "h_2.nii.gz", "h_3.nii.gz"):  # the MSD's names, which nnU-Net does not take
        write(tmp_path / "images" / case, [1, 2, 3, 4])
    return tmp_path / "images"


class Programs:
    """Stands for both programs: notes what is asked, and writes labels; ours errs in one voxel of its second run."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __call__(self, command: Sequence[str], environ: Mapping[str, str], output: Path) -> Run:
        name = Path(command[0]).name
        options = dict(pairwise(command))
        source, target = (
            Path(options.get(short) or options[long]) for short, long in (("-i", "--input"), ("-o", "--output"))
        )
        self.asked.append((f"{name} {target.name}", {**options, "results": environ["nnUNet_results"]}))
        target.mkdir()
        if name == "nnUNetv2_predict":
            found = Path(environ["nnUNet_results"]) / options["-d"]
            assert (found / MODEL / "fold_0" / "checkpoint_final.pth").is_file(), "stock finds the model by its name"
        for image in source.iterdir():
            wrong = target.name == "ours-1" and image.name.startswith("h_1")
            write(target / f"{image.name.removesuffix('_0000.nii.gz')}.nii.gz", [0, 1, 1, int(wrong)])
        return Run(2.0 if name == "nnUNetv2_predict" else 1.0, 100.0, None)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    made = Programs()
    monkeypatch.setattr(prediction, "run_measured", made)
    return made


def test_both_predict_the_same_images_in_turns_and_the_worst_agreement_counts(
    model: Path, images: Path, programs: Programs
) -> None:
    result = benchmark_predict(PredictJob(model, images, device="cpu", limit=2, repeats=2))
    assert [name for name, _ in programs.asked] == [
        "nnUNetv2_predict warm-up-stock",
        "hippo-nnunet warm-up-ours",
        "nnUNetv2_predict stock-0",
        "hippo-nnunet ours-0",
        "hippo-nnunet ours-1",
        "nnUNetv2_predict stock-1",
    ]
    assert result.checks["cases"] == 2
    assert result.checks["equal_share"] == 7 / 8
    assert result.sides[STOCK]["seconds"] == [2.0, 2.0]
    found = result.relative(OURS, "seconds")
    assert found is not None
    assert found.median == 0.5
    assert (result.settings["folds"], result.settings["cases"], result.settings["backend"]) == ([0, 1], 2, None)
    assert "peak_pss_mib" not in result.sides[OURS], "what the system does not tell is left out"
    assert str(images.parent) not in json.dumps(result.as_dict())


def test_the_options_reach_both_programs(model: Path, images: Path, programs: Programs) -> None:
    job = PredictJob(
        model, images, (1,), "cpu", repeats=1, mirroring=False, backend="torch", checkpoint="checkpoint_final.pth"
    )
    benchmark_predict(job)
    asked = dict(programs.asked)
    stock, ours = asked["nnUNetv2_predict stock-0"], asked["hippo-nnunet ours-0"]
    assert (stock["-f"], stock["-device"], stock["-tr"], stock["-c"]) == ("1", "cpu", "UNetTrainer_fast", "2d")
    assert "--disable_tta" in [*stock, *stock.values()]
    assert (ours["--folds"], ours["--device"], ours["--backend"]) == ("1", "cpu", "torch")
    assert "--no-mirroring" in [*ours, *ours.values()]
    assert stock["-i"] == ours["--input"]


def test_an_onnx_file_of_the_folds_is_exported_first(
    model: Path, images: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: dict[str, Any] = {}
    monkeypatch.setattr(prediction, "export_onnx", lambda folder, file, options: exported.update({str(file): options}))
    result = benchmark_predict(PredictJob(model, images, (1,), "cpu", repeats=1, backend="onnxruntime", onnx=True))
    ours = dict(programs.asked)["hippo-nnunet ours-0"]
    assert exported[ours["--model"]].folds == (1,)
    assert ours["--backend"] == "onnxruntime"
    assert not {"--folds", "--device", "--checkpoint"} & ours.keys()
    assert result.settings["onnx"]
    with pytest.raises(ConfigError, match="the device is cuda: give --device cpu"):
        monkeypatch.setattr(prediction, "resolve_device", lambda device: device)
        benchmark_predict(PredictJob(model, images, device="cuda", onnx=True))


def test_a_folder_that_nnunet_cannot_find_by_name_is_refused(model: Path, images: Path, programs: Programs) -> None:
    with pytest.raises(ConfigError, match="rename the folder"):
        benchmark_predict(PredictJob(model.rename(model.with_name("exported")), images, device="cpu"))
    assert programs.asked == []


class Evil:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def test_a_model_that_could_run_code_is_refused_before_either_side_starts(
    model: Path, images: Path, programs: Programs, tmp_path: Path
) -> None:
    job = PredictJob(model, images, device="cpu", limit=1, repeats=1, warm_up=False)
    torch.save(checkpoint(more=Evil(tmp_path / "canary")), model / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(DataError, match=r"fold_1/checkpoint_final\.pth: .*run code.*--trust-checkpoint"):
        benchmark_predict(job)
    assert not (tmp_path / "canary").exists()
    assert programs.asked == []
    benchmark_predict(replace(job, trust=True))
    assert (tmp_path / "canary").exists()
    trusted = ["--trust-checkpoint" in [*asked, *asked.values()] for _, asked in programs.asked]
    assert trusted == [False, True]
    (tmp_path / "canary").rmdir()
    torch.save(checkpoint(), model / "fold_1" / "checkpoint_final.pth")
    plans = (model / "plans.json").read_text().replace("torch.nn.LeakyReLU", "subprocess.Popen")
    (model / "plans.json").write_text(plans)
    with pytest.raises(DataError, match=r"plans\.json: .*'subprocess\.Popen'.*--trust-checkpoint"):
        benchmark_predict(job)
