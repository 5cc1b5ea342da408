"""A real-sized ViT-B-32 with random weights, from a file on disk to embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from tiny_dataset import TinyDataset

from hippo_nnunet.clip.encoder import CLIPEncoder, load_encoder
from hippo_nnunet.clip.models import EncoderChoice, chosen_encoder
from hippo_nnunet.clip.text import class_embeddings
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.inference.predict import PredictOptions, predict

pytestmark = pytest.mark.slow

TASK04 = {"labels": {"background": 0, "Anterior": 1, "Posterior": 2}}


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a ViT-B-32 with random weights, 605 MB."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "vit_b_32.pt"
    torch.save(open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def vit(vit_file: Path) -> Iterator[CLIPEncoder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIPPO_CLIP_MODEL", "ViT-B-32")
        patch.setenv("HIPPO_CLIP_WEIGHTS", str(vit_file))
        choice = chosen_encoder(mini=False)
    assert choice == EncoderChoice("ViT-B-32", str(vit_file))
    yield load_encoder(choice)
    load_encoder.cache_clear()


def test_load_and_hash(vit: CLIPEncoder, vit_file: Path) -> None:
    assert vit.name == "ViT-B-32/vit_b_32.pt"
    assert vit.embed_dim == 512
    assert vit.logit_scale == pytest.approx(1 / 0.07)
    stored = torch.load(vit_file, mmap=True, weights_only=True)
    assert all(torch.equal(values, stored[name]) for name, values in vit._model.state_dict().items())
    assert vit.preprocessing.size == 224
    assert vit.preprocessing.interpolation == "bicubic"
    assert vit.preprocessing.mean == open_clip.constants.OPENAI_DATASET_MEAN
    assert len(bytes.fromhex(vit.sha256)) == 32


def test_text_and_image(vit: CLIPEncoder) -> None:
    text = class_embeddings(vit, TASK04)
    slices = torch.randn(3, 1, 56, 40, generator=torch.Generator().manual_seed(0))
    image = vit.encode_image(slices)
    assert text.shape == image.shape == (3, 512)
    for embeddings in (text, image):
        assert torch.allclose(embeddings.norm(dim=1), torch.ones(3))
    assert torch.allclose(image[1:2], vit.encode_image(slices[1:2]), atol=1e-5)
    assert not torch.allclose(image[0], image[1], atol=1e-4)


def test_another_architecture_is_refused(vit_file: Path) -> None:
    with pytest.raises(ConfigError, match="do not load strictly into ViT-B-16"):
        load_encoder(EncoderChoice("ViT-B-16", str(vit_file)))


def test_training_from_the_file_to_a_prediction(
    in_tiny: TinyDataset, vit: CLIPEncoder, vit_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole path: cache, training step, checkpoint, prediction; the same file is named in each."""
    monkeypatch.setenv("HIPPO_CLIP_MODEL", "ViT-B-32")
    monkeypatch.setenv("HIPPO_CLIP_WEIGHTS", str(vit_file))
    name = "CLIPGuidedUNetTrainer_fast_1epochs_1iters"
    trainer = in_tiny.trainer(name)
    trainer.run_training()
    kept = list((in_tiny.preprocessed / "TinyPlans_2d_clip").glob(f"{vit.sha256[:12]}_*_axis0.safetensors"))
    assert len(kept) == 1
    fold = in_tiny.model(name) / "fold_0"
    weights = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert bytes(weights["encoder_sha256"].tolist()).hex() == vit.sha256
    assert torch.equal(weights["text_embeddings"], class_embeddings(vit, trainer.dataset_json))
    assert (fold / "checkpoint_final.pth").stat().st_size < 5e6  # the encoder has 605 MB
    assert len(predict(in_tiny.images, tmp_path / "out", [in_tiny.model(name)], PredictOptions(device="cpu"))) == 2
    monkeypatch.delenv("HIPPO_CLIP_MODEL")
    with pytest.raises(ConfigError, match="HIPPO_CLIP_MODEL"):
        predict(in_tiny.images, tmp_path / "other", [in_tiny.model(name)], PredictOptions(device="cpu"))
