"""Every layout that open_clip knows loads with the model's own tokenizer and preprocessing, without a network."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from tiny_clip import BIOMED, COCA, MOBILE, PREPROCESS, SIGLIP, TINY, to_cache, write_model, write_tokenizer

from hippo_nnunet.clip import loading, weights
from hippo_nnunet.clip.encoder import CLIPEncoder, load_encoder
from hippo_nnunet.clip.models import EncoderChoice, chosen_encoder, encoder_choice
from hippo_nnunet.clip.preprocessing import Preprocessing
from hippo_nnunet.clip.weights import cached_file, encoder_files, weights_file
from hippo_nnunet.errors import ConfigError, DependencyError

OWN = (tuple(PREPROCESS["mean"]), tuple(PREPROCESS["std"]), "bilinear")
LAYOUTS = {"clip": TINY, "biomed": BIOMED, "siglip": SIGLIP, "coca": COCA, "mobile": MOBILE}
OF_TRANSFORMERS = ("biomed", "siglip")
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
needs_transformers = pytest.mark.skipif(not HAS_TRANSFORMERS, reason="needs transformers: the extra [hf]")
each_layout = pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=needs_transformers if name in OF_TRANSFORMERS else ()) for name in LAYOUTS]
)
SLICES = torch.randn(2, 1, 12, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and an empty cache."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for variable in ("HIPPO_CLIP_MODEL", "HIPPO_CLIP_WEIGHTS", "HIPPO_CLIP_PREPROCESS"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each layout."""
    root = tmp_path_factory.mktemp("layouts")
    possible = [name for name in LAYOUTS if HAS_TRANSFORMERS or name not in OF_TRANSFORMERS]
    return {name: write_model(root / name, LAYOUTS[name]) for name in possible}


def same(one: CLIPEncoder, other: CLIPEncoder) -> bool:
    return (
        one.sha256 == other.sha256
        and torch.equal(one.encode_image(SLICES), other.encode_image(SLICES))
        and torch.equal(one.encode_text(["the head"]), other.encode_text(["the head"]))
    )


def preprocessing_of(encoder: CLIPEncoder) -> tuple[Any, ...]:
    return encoder.preprocessing.mean, encoder.preprocessing.std, encoder.preprocessing.interpolation


@each_layout
def test_a_folder_and_a_repository_bring_everything(layout: str, made: dict[str, Path], offline: Path) -> None:
    from_folder = load_encoder(encoder_choice(f"local-dir:{made[layout]}", ""))
    assert from_folder.name == f"local-dir:{layout}"
    assert preprocessing_of(from_folder) == OWN
    assert from_folder.embed_dim == LAYOUTS[layout]["embed_dim"]
    near, far = from_folder.encode_text(["the head", "the tail"])
    assert not torch.allclose(near, far, atol=1e-5)

    choice = encoder_choice(f"hf-hub:acme/{layout}", "")
    assert cached_file(choice) is None
    to_cache(offline, f"acme/{layout}", made[layout], "open_clip_config.json", "open_clip_model.safetensors")
    text = LAYOUTS[layout]["text_cfg"]
    if "hf_tokenizer_name" in text:  # lies in a repository of its own, as BiomedCLIP's
        assert cached_file(choice) is None
        with pytest.raises(
            DependencyError, match=f"{text['hf_tokenizer_name']} is not in .*clip fetch --model hf-hub:"
        ):
            weights_file(choice)
        names = [
            name for name in ("vocab.txt", "tokenizer_config.json", "config.json") if (made[layout] / name).exists()
        ]
        to_cache(offline, text["hf_tokenizer_name"], made[layout], *names)
    assert cached_file(choice) == weights_file(choice)
    from_hub = load_encoder(choice)
    assert from_hub.name == f"hf-hub:acme/{layout}"
    assert same(from_hub, from_folder)


@each_layout
def test_every_layout_has_tokens_of_patches(made: dict[str, Path], layout: str) -> None:
    encoder = load_encoder(encoder_choice(f"local-dir:{made[layout]}", ""))
    tokens = encoder.encode_patches(SLICES)
    assert tokens.shape[:2] == encoder.encode_image(SLICES).shape
    torch.testing.assert_close(tokens.norm(dim=1), torch.ones_like(tokens[:, 0]))


@needs_transformers
def test_the_tokenizer_is_the_models_own(made: dict[str, Path]) -> None:
    """`hippocampus` is one word to it, where CLIP's own tokenizer has five pieces and other numbers."""
    files = encoder_files(encoder_choice(f"local-dir:{made['biomed']}", ""))
    tokens = loading._tokenizer(open_clip, files)(["The head of the hippocampus"])
    assert tokens.tolist() == [[2, 5, 6, 9, 5, 10, 3, *[0] * 9]]


@needs_transformers
def test_a_folder_takes_a_missing_tokenizer_from_the_cache(
    made: dict[str, Path], tmp_path: Path, offline: Path
) -> None:
    folder = tmp_path / "biomed"
    folder.mkdir()
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / name).symlink_to(made["biomed"] / name)
    choice = encoder_choice(f"local-dir:{folder}", "")
    with pytest.raises(
        DependencyError, match=r"acme/tiny-bert is not in .*clip fetch --model local-dir:.*biomed; or set"
    ):
        load_encoder(choice)
    to_cache(offline, "acme/tiny-bert", write_tokenizer(tmp_path / "bert"))
    assert same(load_encoder(choice), load_encoder(encoder_choice(f"local-dir:{made['biomed']}", "")))


@needs_transformers
def test_an_architecture_with_a_tokenizer_of_transformers_loads_from_a_file(
    made: dict[str, Path], offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-siglip", SIGLIP)
    to_cache(offline, "acme/tiny-tokenizer", made["siglip"], "vocab.txt", "tokenizer_config.json")
    choice = encoder_choice("tiny-siglip", str(made["siglip"] / "open_clip_model.safetensors"))
    assert same(load_encoder(choice), load_encoder(encoder_choice(f"local-dir:{made['siglip']}", "")))


@needs_transformers  # to write such a folder
@pytest.mark.parametrize("layout", OF_TRANSFORMERS)
def test_without_transformers_the_extra_is_named(
    layout: str, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = encoder_choice(f"local-dir:{made[layout]}", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"needs transformers, .*pip install 'hippo-nnunet\[hf\]'"):
        weights_file(choice)
    assert cached_file(choice) is None
    assert cached_file(encoder_choice(f"local-dir:{made['coca']}", "")) is not None


def test_a_tower_that_timm_does_not_have_names_timm(made: dict[str, Path], tmp_path: Path) -> None:
    content = json.loads((made["mobile"] / "open_clip_config.json").read_text())
    content["model_cfg"]["vision_cfg"]["timm_model_name"] = "vit_of_tomorrow"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").symlink_to(made["mobile"] / "open_clip_model.safetensors")
    with pytest.raises(DependencyError, match="has no image tower vit_of_tomorrow; pip install -U timm"):
        load_encoder(encoder_choice(f"local-dir:{tmp_path}", ""))


# --- names


@pytest.mark.parametrize(
    ("model", "given", "match"),
    [
        ("hf-hub:acme/tiny", "openai", "hf-hub:acme/tiny has weights of its own; unset HIPPO_CLIP_WEIGHTS"),
        ("hf-hub:", "", "expected hf-hub:ORG/MODEL"),
        ("hf-hub:acme", "", "expected hf-hub:ORG/MODEL"),
        ("hf-hub:../x/y", "", "expected hf-hub:ORG/MODEL"),
        ("local-dir:", "", "there is no such folder"),
        ("local-dir:/nowhere", "", "local-dir:/nowhere: there is no such folder; correct HIPPO_CLIP_MODEL"),
    ],
)
def test_wrong_names(model: str, given: str, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIPPO_CLIP_MODEL", model)
    monkeypatch.setenv("HIPPO_CLIP_WEIGHTS", given)
    with pytest.raises(ConfigError, match=match):
        chosen_encoder(mini=False)


def test_a_repository_without_its_prefix_is_recognised() -> None:
    with pytest.raises(ConfigError, match="a model of the hub is hf-hub:acme/tiny"):
        weights_file(EncoderChoice("acme/tiny", "openai"))


def test_a_folder_is_the_same_from_everywhere(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made["clip"].parent)
    assert encoder_choice("local-dir:clip", "") == encoder_choice(f"local-dir:{made['clip']}", "")


def test_offline_a_repository_says_how_to_fetch_it() -> None:
    with pytest.raises(DependencyError) as caught:
        weights_file(encoder_choice("hf-hub:acme/tiny", ""))
    message = str(caught.value)
    ways = ("hippo-nnunet clip fetch --model hf-hub:acme/tiny;", "HIPPO_CLIP_MODEL to local-dir:", "recipe word mini")
    assert [way for way in ways if way not in message] == []


# --- folders with faults


def test_a_folder_with_faults(made: dict[str, Path], tmp_path: Path) -> None:
    choice = EncoderChoice(f"local-dir:{tmp_path}")
    with pytest.raises(ConfigError, match=r"the folder has no open_clip_config\.json; copy all files"):
        weights_file(choice)
    config = tmp_path / "open_clip_config.json"
    config.write_bytes((made["clip"] / config.name).read_bytes())
    with pytest.raises(ConfigError, match="the folder has no checkpoint"):
        weights_file(choice)
    for name in ("one.pth", "two.pth"):
        torch.save({}, tmp_path / name)
    with pytest.raises(ConfigError, match=r"several checkpoints \(one\.pth, two\.pth\); name the right one"):
        weights_file(choice)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    assert weights_file(choice) == tmp_path / "model.safetensors"
    with pytest.raises(ConfigError, match=r"does not load .*copy the model's repository again"):
        load_encoder(choice)
    config.write_text('{"embed_dim": 8}')
    with pytest.raises(ConfigError, match="has no model_cfg with vision_cfg and text_cfg"):
        weights_file(choice)


# --- preprocessing of weights from a file

OPENAI = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic"}
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}


@pytest.fixture
def file(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint of an architecture whose published weights have different means."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    published = {"first": {**OPENAI, "hf_hub": "acme/first/"}, "second": {**HALF, "hf_hub": "acme/second/"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", published)
    (tmp_path / "tiny.safetensors").write_bytes((made["clip"] / "open_clip_model.safetensors").read_bytes())
    return str(tmp_path / "tiny.safetensors")


def of_file(file: str) -> Preprocessing:
    load_encoder.cache_clear()
    return load_encoder(encoder_choice("tiny", file)).preprocessing


def test_nothing_is_guessed(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"published weights differ.* set HIPPO_CLIP_PREPROCESS to .*\(first, second\)"
    ):
        of_file(file)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {})
    with pytest.raises(ConfigError, match=r"open_clip_config\.json does not say them; set HIPPO_CLIP_PREPROCESS"):
        of_file(file)


def test_what_all_published_weights_have_in_common_is_taken(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    squashed = {**HALF, "resize_mode": "squash"}  # which makes no difference to a square slice
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"first": HALF, "second": squashed})
    assert of_file(file).mean == (0.5,) * 3


def test_the_configuration_beside_the_file_is_taken(file: str, made: dict[str, Path]) -> None:
    Path(file).with_name("open_clip_config.json").write_bytes((made["clip"] / "open_clip_config.json").read_bytes())
    assert of_file(file) == Preprocessing(16, *OWN)


def test_the_variable_names_a_tag_or_a_file(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    own = tmp_path / "own.json"
    for content in (PREPROCESS, {"preprocess_cfg": PREPROCESS}):
        own.write_text(json.dumps(content))
        for value in ("first", "second", str(own)):
            monkeypatch.setenv("HIPPO_CLIP_PREPROCESS", value)
            found.append(of_file(file))
    assert found[:3] == found[3:]
    assert [each.mean for each in found[:3]] == [OPENAI["mean"], HALF["mean"], OWN[0]]
    assert len({each.key for each in found}) == 3
    shas = {load_encoder(EncoderChoice("tiny", file, tag)).sha256 for tag in ("first", "second")}
    assert len(shas) == 2  # so neither a cache nor a checkpoint of one is taken for the other's


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"HIPPO_CLIP_PREPROCESS=.*own\.json: is neither a file nor a tag of tiny \(first, second\)"),
        ({"mean": [0.5] * 3}, "not known"),
        ({"mean": [0.5] * 3, "std": [0.5, 0.5, 0]}, "not known"),
        ({"mean": [0.5] * 2, "std": [0.5] * 3}, "not known"),
        ({"mean": "half", "std": [0.5] * 3}, "not known"),
    ],
)
def test_a_wrong_variable(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any] | None, match: str
) -> None:
    if content is not None:
        (tmp_path / "own.json").write_text(json.dumps(content))
    monkeypatch.setenv("HIPPO_CLIP_PREPROCESS", str(tmp_path / "own.json"))
    with pytest.raises(ConfigError, match=match):
        of_file(file)


def test_a_folder_whose_configuration_does_not_say_them_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    (tmp_path / "model.safetensors").symlink_to(made["clip"] / "open_clip_model.safetensors")
    with pytest.raises(ConfigError, match=r"open_clip_config\.json does not say them; set HIPPO_CLIP_PREPROCESS"):
        load_encoder(encoder_choice(f"local-dir:{tmp_path}", ""))


def test_open_clips_own_architectures_need_the_variable_only_where_weights_differ() -> None:
    differ = set()
    for model in open_clip.list_models():
        tags = open_clip.list_pretrained_tags_by_model(model)
        kinds = {str([open_clip.get_pretrained_cfg(model, tag)[key] for key in loading._VALUES]) for tag in tags}
        if len(kinds) > 1:
            differ.add(model)
    assert differ == {"ViT-L-14"}


def test_every_tag_is_on_the_hub() -> None:
    assert all(open_clip.get_pretrained_cfg(*each)["hf_hub"] for each in open_clip.list_pretrained())
    assert weights._HUB_FILES[0].endswith(".safetensors")
