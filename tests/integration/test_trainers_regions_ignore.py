"""nnU-Net's integration-test variants of a dataset (regions, ignore label, both) and a cascade, with our trainers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from tiny_dataset import TEST_CASES, TinyDataset, make_dataset

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.training.partial_labels import with_partial_labels

pytestmark = pytest.mark.slow

SHORT = "1epochs_2iters"
TRAINERS = (
    f"UNetTrainer_fast_{SHORT}",
    f"UNetTrainer_dice_{SHORT}",
    f"AttentionUNetTrainer_ce_fast_{SHORT}",
    f"AttentionUNetTrainer_diceFocal_{SHORT}",
    f"CLIPGuidedUNetTrainer_mini_fast_{SHORT}",
    f"CLIPGuidedUNetTrainer_ce_live_mini_{SHORT}",
)
"""Every network, both schedules, every loss, both kinds of guidance."""


def sparsify(ignore_label: int) -> Callable[[np.ndarray], np.ndarray]:
    """Keep one slice along each axis, as nnU-Net's Dataset996 does; the rest is to be ignored."""
    rng = np.random.default_rng(1234)

    def change(label: np.ndarray) -> np.ndarray:
        sparse = np.full_like(label, ignore_label)
        for axis, size in enumerate(label.shape):
            chosen = [slice(None)] * 3
            chosen[axis] = slice(*(int(rng.integers(size // 3, 2 * size // 3)) + np.array([0, 1])))
            sparse[tuple(chosen)] = label[tuple(chosen)]
        return sparse

    return change


REGIONS = {"background": 0, "hippocampus": (1, 2), "anterior": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "regions": {"labels": REGIONS, "regions_class_order": (2, 1)},
    # as in nnU-Net's Dataset998, what was posterior is ignored
    "ignore": {"labels": {"background": 0, "anterior": 1, "ignore": 2}},
    "regionsIgnore": {
        "labels": {**REGIONS, "ignore": 3},
        "regions_class_order": (2, 1),
        "change": sparsify(3),
        "configurations": ("2d", "3d_fullres"),
    },
}
PREDICTED = {"regions": {0, 1, 2}, "ignore": {0, 1}, "regionsIgnore": {0, 1, 2}}


@dataclass(frozen=True)
class Variant:
    name: str
    dataset: TinyDataset


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Variant]:
    number = 996 + list(VARIANTS).index(request.param)
    name = f"Dataset{number}_{request.param}"
    dataset = make_dataset(tmp_path_factory.mktemp(request.param), name, **VARIANTS[request.param])
    with pytest.MonkeyPatch.context() as patch:
        for key, value in dataset.environ.items():
            patch.setenv(key, value)
        yield Variant(request.param, dataset)


def train(dataset: TinyDataset, name: str, configuration: str = "2d", fold: int | str = 0) -> Any:
    """Train a fold and check that it learned something from finite losses; returns the trainer."""
    trainer = dataset.trainer(name, configuration, fold)
    trainer.initialize()
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    trainer.run_training()
    for key in ("train_losses", "val_losses"):
        assert np.isfinite(trainer.logger.get_value(key, step=None)).all()
    after = trainer.network.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    return trainer


def assert_predicts(dataset: TinyDataset, model: Path, allowed: set[int], output: Path) -> None:
    for path in predict(dataset.images, output, [model], PredictOptions(device="cpu", use_mirroring=False)):
        values = set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).tolist())
        assert values <= allowed
    assert {path.name for path in output.glob("*.nii.gz")} == {f"{case}.nii.gz" for case in TEST_CASES}


@pytest.mark.parametrize("name", TRAINERS)
def test_trains_and_predicts(variant: Variant, name: str, tmp_path: Path) -> None:
    trainer = train(variant.dataset, name)
    assert trainer.label_manager.has_regions == (variant.name != "ignore")
    assert trainer.label_manager.has_ignore_label == (variant.name != "regions")
    assert_predicts(variant.dataset, variant.dataset.model(name), PREDICTED[variant.name], tmp_path / "out")


@pytest.mark.parametrize("variant", ["ignore", "regionsIgnore"], indirect=True)
@pytest.mark.parametrize("name", TRAINERS[:4])
def test_ignored_voxels_do_not_count(variant: Variant, name: str) -> None:
    trainer = variant.dataset.trainer(name)
    trainer.initialize()
    manager = trainer.label_manager
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, manager.num_segmentation_heads, 16, 16, generator=generator)
    ignored = torch.rand(2, 1, 16, 16, generator=generator) < 0.5
    if manager.has_regions:
        target = torch.rand(2, manager.num_segmentation_heads + 1, 16, 16, generator=generator) < 0.3
        target[:, -1:] = ignored
    else:
        target = torch.randint(0, 2, (2, 1, 16, 16), generator=generator).masked_fill(ignored, manager.ignore_label)

    def loss(changed: torch.Tensor) -> float:
        shift = 5 * torch.randn(logits.shape, generator=generator)
        return float(trainer.loss([torch.where(changed, logits + shift, logits)], [target]))

    nothing = torch.zeros_like(ignored)
    assert loss(ignored) == pytest.approx(loss(nothing), abs=1e-6)
    assert loss(~ignored) != pytest.approx(loss(nothing), abs=1e-3)


@pytest.mark.parametrize("variant", ["regions"], indirect=True)
@pytest.mark.parametrize("name", TRAINERS[:4])
def test_partial_labels_reach_the_loss(variant: Variant, name: str) -> None:
    file = variant.dataset.preprocessed / "dataset.json"
    content = file.read_text()
    described = {**json.loads(content), "partial_labels": {"2": ["anterior"]}}
    plain = variant.dataset.trainer(name)
    plain.initialize()
    try:
        file.write_text(json.dumps(described))
        trainer = variant.dataset.trainer(name)
        trainer.initialize()
    finally:
        file.write_text(content)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 2, 16, 16, generator=generator)]
    labels = torch.randint(0, 3, (2, 1, 16, 16), generator=generator)
    target = [torch.cat([labels > 0, labels == 1], 1)]
    unchanged = plain.loss(logits, target)
    expected = with_partial_labels(plain.loss, described)(logits, target)
    torch.testing.assert_close(trainer.loss(logits, target), expected)
    assert float(expected) != pytest.approx(float(unchanged), abs=1e-3)


@pytest.mark.parametrize("variant", ["regionsIgnore"], indirect=True)
@pytest.mark.parametrize("recipe", ["AttentionUNetTrainer_diceFocal_fast", "CLIPGuidedUNetTrainer_diceFocal_mini_fast"])
def test_3d_and_final_validation(variant: Variant, recipe: str, tmp_path: Path) -> None:
    name = f"{recipe}_{SHORT}"
    trainer = train(variant.dataset, name, "3d_fullres")
    trainer.perform_actual_validation(save_probabilities=True)
    validation = variant.dataset.model(name, "3d_fullres") / "fold_0" / "validation"
    assert set(json.loads((validation / "summary.json").read_text())["mean"]) == {"(1, 2)", "1"}
    assert_predicts(variant.dataset, variant.dataset.model(name, "3d_fullres"), {0, 1, 2}, tmp_path / "out")


@pytest.mark.parametrize("recipe", ["AttentionUNetTrainer_fast", "CLIPGuidedUNetTrainer_mini_fast"])
def test_cascade(in_tiny: TinyDataset, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3d_lowres writes what 3d_cascade_fullres reads, by nnU-Net's own validation; threads need not import torch."""
    monkeypatch.setattr(SpawnContext, "Pool", lambda _, processes: ThreadPool(processes))
    name = f"{recipe}_{SHORT}"
    train(in_tiny, name, "3d_lowres", "all").perform_actual_validation()
    second = train(in_tiny, name, "3d_cascade_fullres")
    assert second.is_cascaded and second.network.encoder.stages[0][0].convs[0].conv.in_channels == 1 + 2
    second.perform_actual_validation()
    model = in_tiny.model(name, "3d_cascade_fullres")
    assert (model / "fold_0" / "validation" / "summary.json").is_file()
    with pytest.raises(ConfigError, match=r"second stage of a cascade.*-prev_stage_predictions"):
        predict(in_tiny.images, tmp_path / "out", [model], PredictOptions(device="cpu"))
