"""The bundled `mini`: its texts lie as language does, its card describes it, its training is reproducible."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from hippo_nnunet.clip.encoder import CLIPEncoder, encoder_sha256, load_encoder
from hippo_nnunet.clip.models import MINI, MINI_FOLDER, MINI_RECORD
from hippo_nnunet.clip.patch_tokens import patch_tokens
from hippo_nnunet.clip.preprocessing import Preprocessing
from hippo_nnunet.clip.prompts import class_prompts
from hippo_nnunet.clip.text import class_embeddings

ROOT = Path(__file__).parents[3]
CLASSES = ("background", "anterior", "posterior")
TASK04 = {"labels": {name: value for value, name in enumerate(CLASSES)}, "channel_names": {"0": "MRI"}}
TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.2,) * 3, "bilinear")


@pytest.fixture(scope="module")
def mini() -> CLIPEncoder:
    return load_encoder(MINI)


@pytest.fixture(scope="module")
def classes(mini: CLIPEncoder) -> torch.Tensor:
    return class_embeddings(mini, TASK04)


@pytest.fixture(scope="module")
def texts() -> ModuleType:
    return _script("mini_texts")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return _script("train_mini_clip")


@pytest.fixture(scope="module")
def text_script() -> ModuleType:
    return _script("train_mini_text")


def _script(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module(name)


def tiny(seed: int) -> open_clip.CLIP:
    torch.manual_seed(seed)
    return open_clip.CLIP(**TINY).requires_grad_(False)


# --- texts


def test_other_topics_are_far_from_every_class(mini: CLIPEncoder, classes: torch.Tensor, texts: ModuleType) -> None:
    """The first `mini` gave "a photo of a dog" a cosine of 0.99 with the background."""
    dog = mini.encode_text(["a photo of a dog"]) @ classes.T
    assert dog.max() < 0.3
    other = mini.encode_text(texts.OFF_TOPIC) @ classes.T
    own = torch.cat([mini.encode_text(texts.PARAPHRASES[name]) @ classes[value] for value, name in enumerate(CLASSES)])
    assert other.mean() < 0.2 < own.mean() - 0.2


def test_paraphrases_are_nearest_to_their_own_class(
    mini: CLIPEncoder, classes: torch.Tensor, texts: ModuleType
) -> None:
    for value, name in enumerate(CLASSES):
        nearest = (mini.encode_text(texts.PARAPHRASES[name]) @ classes.T).argmax(dim=1)
        assert (nearest == value).float().mean() >= 0.6


def test_prompts_of_the_documentation_are_taken_for_their_classes(mini: CLIPEncoder, classes: torch.Tensor) -> None:
    """The first `mini` took the one of docs/explain.md for background."""
    page = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    found = re.findall(r'--prompt "(\w+)=([^"]+)"', page)
    assert found
    for name, prompt in found:
        assert CLASSES[int((mini.encode_text([prompt]) @ classes.T).argmax())] == name


def test_what_is_held_out_is_not_trained_with(texts: ModuleType) -> None:
    trained = {*texts.captions(), *(prompt for prompts in class_prompts(TASK04) for prompt in prompts)}
    held_out = {text for of_class in texts.PARAPHRASES.values() for text in of_class} | set(texts.OFF_TOPIC)
    assert not held_out & trained
    assert len(held_out) > 40


# --- card


def test_it_is_small_and_the_one_that_its_card_describes(mini: CLIPEncoder) -> None:
    assert sum(file.stat().st_size for file in MINI_FOLDER.iterdir()) <= 5e6
    stored = {name: values.dtype for name, values in load_file(MINI_FOLDER / "model.safetensors").items()}
    assert stored.pop("token_embedding.weight") == torch.float8_e4m3fn
    assert set(stored.values()) == {torch.float16}
    record = json.loads(MINI_RECORD.read_text())
    card = (MINI_FOLDER / "MODEL_CARD.md").read_text()
    assert record["sha256"] == mini.sha256
    assert mini.sha256 in card
    assert "Not for research claims" in card
    for judged in (record["phantoms"], record["task04"]):
        assert f"{judged['recall']:.1%}" in card


def test_the_card_speaks_of_phantoms_and_of_real_slices() -> None:
    record = json.loads(MINI_RECORD.read_text())
    assert record["phantoms"]["recall"] > 0.6
    assert record["phantoms"]["patch_recall"] > 0.6
    assert record["task04"]["slices"] > 7000
    assert record["task04"]["recall"] > 0.5  # of the first mini, by its own prompts
    assert record["phantoms"]["off_topic"] < 0.01
    assert record["text_tower"]["agreement_paraphrases_and_off_topic"] > 0.8


# --- training


def test_a_description_says_what_is_there(script: ModuleType) -> None:
    parts = torch.zeros(4, 2, 10, 10)
    parts[1, 0, 0, 0] = 1
    parts[2, 1, :2, :6] = 1
    parts[3, 0, :3, 0] = parts[3, 1, :2, 1] = 1
    slices = script.Slices(torch.zeros(4, 10, 10), parts)
    assert slices.shown.tolist() == [0, 1, 2, 1]
    found = [script.DESCRIPTIONS[index] for index in slices.descriptions]
    assert found == [
        ("none", ""),
        ("anterior", "a trace of"),
        ("posterior", "a large section of"),
        ("mostly anterior", "a small section of"),
    ]


def test_an_augmented_slice_keeps_its_labels_in_place(script: ModuleType) -> None:
    parts = torch.zeros(12, 2, 32, 32)
    parts[:, 0, 8:16, 10:20] = 1
    pixels = 0.2 + 0.6 * parts[:, 0]
    augmented = script.augment(script.Slices(pixels, parts), torch.Generator().manual_seed(0))
    assert augmented.pixels.min() >= 0
    assert augmented.pixels.max() <= 1
    assert not torch.equal(augmented.pixels, pixels)
    for image, part in zip(augmented.pixels, augmented.parts[:, 0], strict=True):
        shown = (image > 0) & (part < 0.1)
        assert image[part > 0.9].mean() > image[shown].mean() + 0.2


def test_both_outputs_of_training_are_those_of_use(script: ModuleType) -> None:
    model = tiny(0)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    whole, tokens = script.image_and_tokens(model.visual, images)
    torch.testing.assert_close(whole, model.encode_image(images, normalize=True))
    torch.testing.assert_close(tokens, patch_tokens(model.visual, images, "tiny").flatten(2).mT)


def test_training_is_reproducible_and_leaves_the_text_tower_alone(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "BATCH", 6)
    slices = script.phantoms(0, 0, 1, PREPROCESSING)
    hashes = []
    for seed in (0, 0, 1):
        model = tiny(seed)
        texts = script.Texts(*([F.normalize(torch.randn(2, 8), dim=1)] * count for count in (3, 17)), torch.eye(8))
        before = {name: values.clone() for name, values in model.state_dict().items()}
        model.visual.requires_grad_(True)
        model.logit_scale.requires_grad_(True)
        losses = script.train(model, slices, texts, PREPROCESSING, 2, seed)
        assert all(loss > 0 for loss in losses)
        changed = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
        assert changed
        assert all(name.startswith(("visual.", "logit_scale")) for name in changed)
        hashes.append(encoder_sha256(model.state_dict(), PREPROCESSING, False))
    assert hashes[0] == hashes[1] != hashes[2]


def test_texts_are_trained_as_open_clip_encodes_them(text_script: ModuleType) -> None:
    model = tiny(0)
    tokens = open_clip.SimpleTokenizer(context_length=48)(["a dog", "the head of the hippocampus on an MRI slice"])
    torch.testing.assert_close(text_script.encode(model, tokens), model.encode_text(tokens, normalize=True))


def test_a_text_starts_as_the_mean_of_its_words(text_script: ModuleType) -> None:
    model = tiny(0)
    with torch.no_grad():
        text_script.start_as_mean_of_words(model)
        model.positional_embedding.zero_()
        model.transformer.resblocks[0].attn.in_proj_weight[:16] = 0
    tokens = open_clip.SimpleTokenizer(context_length=48)(["dog cat", "cat dog", "cat"])
    first, turned, other = text_script.encode(model, tokens)
    torch.testing.assert_close(first, turned)
    assert not torch.allclose(first, other, atol=1e-2)
