"""Encoders with random weights, from disk to explained predictions: a ViT-B-32 of real size, a small BiomedCLIP."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from tiny_clip import BIOMED, write_model
from tiny_dataset import PLANS, TinyDataset

from hippo_nnunet.analysis.clip_probe import probe
from hippo_nnunet.clip.encoder import CLIPEncoder, load_encoder
from hippo_nnunet.clip.models import EncoderChoice, chosen_encoder
from hippo_nnunet.clip.text import class_embeddings
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.nnunet.paths import folders_for
from hippo_nnunet.pages.explanation.explain import Settings, explain_images

pytestmark = pytest.mark.slow

NAME = "CLIPGuidedUNetTrainer_fast_1epochs_1iters"
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


def follow_the_whole_path(dataset: TinyDataset, encoder: CLIPEncoder, out: Path) -> None:
    """Probe, cache, train a step, save, predict, explain; the environment names the encoder."""
    choice = chosen_encoder(mini=False)
    probed = probe(choice, dataset.name, PLANS, "2d", folders_for(dataset.root), 0, "cpu")
    assert (probed.encoder, probed.sha256) == (encoder.name, encoder.sha256)
    kept = list((dataset.preprocessed / f"{PLANS}_2d_clip").glob(f"{encoder.sha256[:12]}_*_axis0of102.safetensors"))
    assert len(kept) == 1
    encoded = kept[0].stat().st_mtime_ns
    trainer = dataset.trainer(NAME)
    trainer.run_training()
    assert kept[0].stat().st_mtime_ns == encoded  # the training takes the probe's embeddings
    model = dataset.model(NAME)
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    weights = torch.load(checkpoint, weights_only=False)["network_weights"]
    assert bytes(weights["encoder_sha256"].tolist()).hex() == encoder.sha256
    assert torch.equal(weights["text_embeddings"], class_embeddings(encoder, trainer.dataset_json))
    assert checkpoint.stat().st_size < 5e6  # without the encoder
    assert len(predict(dataset.images, out / "predicted", [model], PredictOptions(device="cpu"))) == 2
    explained = explain_images(model, [dataset.images], out / "explained", settings=Settings(device="cpu"))
    assert any(path.name.endswith("_similarity_anterior.nii.gz") for path in explained)


def test_the_whole_path_with_a_file(
    in_tiny: TinyDataset, vit: CLIPEncoder, vit_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HIPPO_CLIP_MODEL", "ViT-B-32")
    monkeypatch.setenv("HIPPO_CLIP_WEIGHTS", str(vit_file))
    follow_the_whole_path(in_tiny, vit, tmp_path)
    monkeypatch.delenv("HIPPO_CLIP_MODEL")
    with pytest.raises(ConfigError, match="HIPPO_CLIP_MODEL"):
        predict(in_tiny.images, tmp_path / "other", [in_tiny.model(NAME)], PredictOptions(device="cpu"))


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers: the extra [hf]")
def test_the_whole_path_with_a_folder_in_biomedclips_layout(
    in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "biomed", BIOMED)
    monkeypatch.setenv("HIPPO_CLIP_MODEL", f"local-dir:{folder}")
    follow_the_whole_path(in_tiny, load_encoder(chosen_encoder(mini=False)), tmp_path)
