"""A 2D network that sees adjacent slices: trained, validated, predicted, explained and shared; refused elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny_dataset import TEST_CASES, TinyDataset

from hippo_nnunet import trainers
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.inference.batched_predictor import BatchedPredictor
from hippo_nnunet.inference.loading import load_model
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.inference.sliding_window import PreprocessedImage
from hippo_nnunet.nnunet import memory_cases
from hippo_nnunet.pages.explanation.explain import Settings, explain_images
from hippo_nnunet.sharing.exporting import export_model
from hippo_nnunet.sharing.onnx_exporting import export_onnx

pytestmark = pytest.mark.slow

NAME = "AttentionUNetTrainer_3slices_fast_1epochs_2iters_seed1"
CPU = torch.device("cpu")


@pytest.fixture
def model(in_tiny: TinyDataset) -> Path:
    trainer = in_tiny.trainer(NAME)
    trainer.run_training()
    trainer.perform_actual_validation()
    return in_tiny.model(NAME)


def masks(folder: Path) -> list[np.ndarray]:
    return [sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz"))) for case in TEST_CASES]


def test_the_way_from_training_to_a_shared_model(model: Path, in_tiny: TinyDataset, tmp_path: Path) -> None:
    assert (model / "fold_0" / "validation" / "summary.json").is_file()
    options = PredictOptions(device="cpu", backend="torch")
    predict(in_tiny.images, tmp_path / "masks", [model], options)
    shared = export_model(model, tmp_path / "model.hippo")
    predict(in_tiny.images, tmp_path / "shared", [shared], options)
    for one, other in zip(masks(tmp_path / "masks"), masks(tmp_path / "shared"), strict=True):
        np.testing.assert_array_equal(one, other)
    written = explain_images(model, [in_tiny.images], tmp_path / "explained", settings=Settings(device="cpu"))
    assert any("attention" in path.name for path in written)
    with pytest.raises(DataError, match="sees adjacent slices, which prediction without torch does not pass"):
        export_onnx(model, tmp_path / "model.onnx")


def test_a_slice_is_predicted_from_its_neighbours(model: Path) -> None:
    predictor = BatchedPredictor(CPU, use_mirroring=False, backend="torch")
    predictor.manual_initialization(**load_model(model, (0,), "checkpoint_final.pth"))
    voxels = torch.randn(1, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = voxels.clone()
    changed[:, 4] += 1
    first, second = (predictor.predict_image(PreprocessedImage(image)) for image in (voxels, changed))
    differs = [not torch.equal(first[:, z], second[:, z]) for z in range(6)]
    assert differs == [False, False, False, True, True, True]
    own = torch.cat([torch.zeros(1, 16, 16), voxels[0, :2]])[None]
    with torch.inference_mode():
        torch.testing.assert_close(predictor.networks[0](own)[0], first[:, 0])


def test_a_subclass_of_another_name_predicts_from_neighbours(in_tiny: TinyDataset) -> None:
    known = in_tiny.trainer(NAME)
    mine = type("MyTrainer", (getattr(trainers, NAME),), {})
    plans = {**known.plans_manager.plans, "continue_training": False}
    trainer = mine(plans, "2d", 0, known.dataset_json, CPU)
    trainer.initialize()
    predictor = BatchedPredictor.of_trainer(trainer)
    assert predictor.seen(PreprocessedImage(torch.zeros(1, 4, 16, 16))).shape == (3, 4, 16, 16)


def test_openvino_computes_the_same(model: Path) -> None:
    pytest.importorskip("openvino")
    image = PreprocessedImage(torch.randn(1, 6, 16, 16, generator=torch.Generator().manual_seed(0)))
    logits = []
    for backend in ("torch", "openvino"):
        predictor = BatchedPredictor(CPU, backend=backend)
        predictor.manual_initialization(**load_model(model, (0,), "checkpoint_final.pth"))
        logits.append(predictor.predict_image(image))
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)


def test_nnunets_own_predictor_is_refused_with_the_remedy(model: Path) -> None:
    stock = nnUNetPredictor(device=CPU, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
    with pytest.raises(ConfigError, match="3 channels, and got 1: predict with 'hippo-nnunet predict'"):
        stock.predict_logits_from_preprocessed_data(torch.zeros(1, 6, 16, 16))


def test_what_it_does_not_go_with(in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'5slices' goes with 2d, not 3d_fullres: train 2d, or leave the word out"):
        in_tiny.trainer("UNetTrainer_5slices_fast", "3d_fullres")
    with monkeypatch.context() as several:
        several.setattr(torch.distributed, "is_initialized", lambda: True)
        with pytest.raises(ConfigError, match="trains and validates on one device: leave out -num_gpus"):
            in_tiny.trainer("UNetTrainer_5slices_fast")
    monkeypatch.setattr(memory_cases, "free_memory", lambda: 1000)
    trainer = in_tiny.trainer("UNetTrainer_5slices_fast")
    trainer.initialize()
    with pytest.raises(ConfigError, match="adjacent slices need the data in memory"):
        trainer.get_dataloaders()
