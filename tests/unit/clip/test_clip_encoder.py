"""The encoder: its preprocessing is the model's own, its hash is the weights', and only the right weights load."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from hippo_nnunet.clip import encoder as encoder_module
from hippo_nnunet.clip.encoder import CLIPEncoder, encoder_sha256, load_encoder
from hippo_nnunet.clip.models import MINI, MINI_FOLDER, EncoderChoice
from hippo_nnunet.clip.preprocessing import Preprocessing
from hippo_nnunet.clip.prompts import class_prompts
from hippo_nnunet.clip.text import class_embeddings, control_embeddings
from hippo_nnunet.errors import ConfigError, DependencyError

TASK04 = {"labels": {"background": 0, "Anterior": 1, "Posterior": 2}}
TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
SLICES = torch.randn(5, 1, 12, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def mini() -> CLIPEncoder:
    return load_encoder(MINI)


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names of open_clip's registry, alike but for the activation, as `ViT-B-32` and `ViT-B-32-quickgelu`."""
    configs = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(configs, "tiny", TINY)
    monkeypatch.setitem(configs, "tiny-quickgelu", {**TINY, "quick_gelu": True})
    published = {"published": dataclasses.asdict(PreprocessCfg())}
    for name in ("tiny", "tiny-quickgelu"):
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, published)


@pytest.fixture(scope="module")
def tiny_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    # Larger than the initial values, so that the activation shows.
    return {name: 3 * values for name, values in open_clip.CLIP(**TINY).state_dict().items()}


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


# --- preprocessing


@pytest.mark.parametrize(
    "values",
    [
        {"size": 24, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear"},
        {"size": 224, "interpolation": "bicubic"},
    ],
)
def test_a_square_image_becomes_what_open_clip_makes_of_it(values: dict) -> None:
    config = PreprocessCfg(**values)
    # Smooth: in noise, Pillow's bicubic filter cuts off what overshoots after each of its two passes.
    waves = np.sin(np.arange(3 * 40 * 40).reshape(3, 40, 40) / 7) * np.cos(np.arange(40) / 5)
    pixels = np.round(128 + 90 * waves).astype(np.uint8)
    expected = image_transform_v2(config, is_train=False)(Image.fromarray(pixels.transpose(1, 2, 0)))
    slices = torch.from_numpy(pixels).float()[None] / 255 * 6 - 3
    ours = Preprocessing.of(dataclasses.asdict(config))(slices)[0]
    # open_clip rounds to 8 bits after each of two passes.
    assert (ours - expected).abs().max() < 2 / 255 / min(config.std)


def test_values_come_from_the_model(mini: CLIPEncoder) -> None:
    stored = json.loads((MINI_FOLDER / "open_clip_config.json").read_text())
    ours = mini.preprocessing
    assert (ours.mean, ours.std) == (tuple(stored["preprocess_cfg"]["mean"]), tuple(stored["preprocess_cfg"]["std"]))
    assert (ours.size, ours.interpolation) == (stored["model_cfg"]["vision_cfg"]["image_size"], "bilinear")


def test_window_padding_and_channels() -> None:
    plain = Preprocessing(4, (0.0,) * 3, (1.0,) * 3, "bilinear")
    image = torch.full((1, 1, 4, 2), 9.0)
    image[0, 0, :, 1] = -1.5
    expected = torch.tensor([0, 1, 0.25, 0]).expand(3, 4, 4)
    assert torch.equal(plain(image)[0], expected)
    two = torch.cat([image, torch.full_like(image, -9)], dim=1)
    assert torch.equal(plain(two)[0], expected / 2)
    three = torch.cat([image, two], dim=1)
    assert torch.equal(plain(three)[0, 2], torch.zeros(4, 4))
    assert torch.equal(plain(three)[0, 0], expected[0])


def test_the_key_follows_every_value() -> None:
    plain = Preprocessing(4, (0.0,) * 3, (1.0,) * 3, "bilinear")
    others = [
        dataclasses.replace(plain, **change)
        for change in ({"size": 5}, {"mean": (0.1, 0, 0)}, {"std": (2.0, 1, 1)}, {"interpolation": "bicubic"})
    ] + [dataclasses.replace(plain, window=(-2.0, 2.0))]
    assert len({plain.key, *(other.key for other in others)}) == 6
    assert plain.key == dataclasses.replace(plain).key


def test_an_oblong_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="32x16"):
        Preprocessing.of({"size": (32, 16), "mean": (0,) * 3, "std": (1,) * 3, "interpolation": "bicubic"})


# --- embeddings


def test_embeddings_have_unit_length_and_no_gradient(mini: CLIPEncoder) -> None:
    for embeddings in (mini.encode_image(SLICES), mini.encode_text(["the tail", "the head"])):
        assert embeddings.dtype == torch.float32
        assert embeddings.shape[1] == mini.embed_dim
        assert torch.allclose(embeddings.norm(dim=1), torch.ones(len(embeddings)))
        assert not embeddings.requires_grad
    assert not torch.allclose(*mini.encode_text(["the tail", "the head"]))


def test_neither_chunks_nor_autocast_change_an_embedding(mini: CLIPEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mini.encode_image(SLICES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mini.encode_image(SLICES), whole)
    monkeypatch.setattr(encoder_module, "_CHUNK_BYTES", 1)
    assert torch.allclose(mini.encode_image(SLICES), whole, atol=1e-6)


def test_a_class_is_the_mean_of_its_prompts(mini: CLIPEncoder) -> None:
    embeddings = class_embeddings(mini, TASK04)
    posterior = mini.encode_text(class_prompts(TASK04)[2]).mean(dim=0)
    assert embeddings.shape == (3, mini.embed_dim)
    assert torch.allclose(embeddings[2], posterior / posterior.norm(), atol=1e-6)
    changed = class_embeddings(mini, TASK04, {"posterior": ["a tail"]})
    assert torch.allclose(changed[2], mini.encode_text(["a tail"])[0], atol=1e-6)
    assert torch.allclose(changed[:2], embeddings[:2], atol=1e-6)


def test_no_prompt_is_cut_off() -> None:
    context = json.loads((MINI_FOLDER / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]["context_length"]
    tokens = open_clip.SimpleTokenizer(context_length=context)([p for part in class_prompts(TASK04) for p in part])
    assert (tokens[:, -1] == 0).all()


def test_controls() -> None:
    embeddings = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    assert control_embeddings(embeddings, None, 0) is embeddings
    assert torch.equal(control_embeddings(embeddings, "shuffledText", 0), embeddings[[2, 0, 1]])
    for word in ("rotatedText", "randomText"):
        random = control_embeddings(embeddings, word, seed=3)
        torch.testing.assert_close(random @ random.T, embeddings @ embeddings.T)  # as well conditioned
        assert torch.equal(random, control_embeddings(embeddings, word, seed=3))
        assert not torch.allclose(random, control_embeddings(embeddings, word, seed=4), atol=0.1)
        assert not torch.allclose(random, embeddings, atol=0.1)
    alone = [control_embeddings(embeddings[:1], word, seed=3) for word in ("rotatedText", "randomText")]
    torch.testing.assert_close(alone[0], control_embeddings(embeddings, "rotatedText", seed=3)[:1])  # one map for all
    assert not torch.allclose(alone[1], random[:1], atol=0.1)
    crowded = F.normalize(torch.randn(5, 2), dim=-1)  # more classes than dimensions
    drawn = control_embeddings(crowded, "randomText", 0)
    torch.testing.assert_close(drawn @ drawn.T, crowded @ crowded.T)


# --- hash


def test_the_hash_does_not_depend_on_the_file(tiny_state: dict, tmp_path: Path) -> None:
    wrapped = {"state_dict": {f"module.{name}": values for name, values in tiny_state.items()}, "epoch": 3}
    reordered = dict(reversed(tiny_state.items()))
    files = [
        saved(tiny_state, tmp_path / "a.safetensors"),
        saved(tiny_state, tmp_path / "b.pt"),
        saved(wrapped, tmp_path / "c.pt"),
        saved(reordered, tmp_path / "d.bin"),
    ]
    encoders = [load_encoder(EncoderChoice("tiny", str(path))) for path in files]
    assert len({encoder.sha256 for encoder in encoders}) == 1
    assert [encoder.name for encoder in encoders[:2]] == ["tiny/a.safetensors", "tiny/b.pt"]
    assert len(bytes.fromhex(encoders[0].sha256)) == 32


def test_the_hash_follows_all_that_decides_an_embedding(tiny_state: dict) -> None:
    plain = Preprocessing(16, (0.0,) * 3, (1.0,) * 3, "bilinear")
    changed = {**tiny_state, "ln_final.bias": tiny_state["ln_final.bias"] + 1e-6}
    renamed = {("x" if name == "ln_final.bias" else name): values for name, values in tiny_state.items()}
    reshaped = {**tiny_state, "ln_final.bias": tiny_state["ln_final.bias"][None]}
    hashes = {
        encoder_sha256(state, preprocessing, quick_gelu)
        for state, preprocessing, quick_gelu in (
            (tiny_state, plain, False),
            (changed, plain, False),
            (renamed, plain, False),
            (reshaped, plain, False),
            (tiny_state, dataclasses.replace(plain, size=8), False),
            (tiny_state, plain, True),
        )
    }
    assert len(hashes) == 6


# --- the very weights


def test_a_file_brings_its_weights(tiny_state: dict, tmp_path: Path) -> None:
    loaded = load_encoder(EncoderChoice("tiny", str(saved(tiny_state, tmp_path / "a.pt"))))
    for name, values in loaded._model.state_dict().items():
        assert torch.equal(values, tiny_state[name]), name


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["missing", "surplus", "shape", "positions", "truncated", "other"])
def test_nothing_else_loads(tiny_state: dict, tmp_path: Path, damage: str, suffix: str) -> None:
    state = dict(tiny_state)
    if damage == "missing":
        del state["visual.proj"]
    elif damage == "surplus":
        state["visual.more"] = torch.zeros(1)
    elif damage == "shape":
        state["text_projection"] = torch.zeros(8, 4)
    elif damage == "positions":  # of images of another size: open_clip would interpolate them
        state["visual.positional_embedding"] = torch.zeros(10, 16)
    elif damage == "other":
        state = {"weight": torch.zeros(3)}
    path = saved(state, tmp_path / f"weights{suffix}")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=f"{path}: do not load strictly into tiny .*HIPPO_CLIP_MODEL"):
        load_encoder(EncoderChoice("tiny", str(path)))


def test_the_activation_is_that_of_the_name(tiny_state: dict, tmp_path: Path) -> None:
    path = str(saved(tiny_state, tmp_path / "a.pt"))
    exact, quick = (load_encoder(EncoderChoice(name, path)) for name in ("tiny", "tiny-quickgelu"))
    assert exact.sha256 != quick.sha256
    assert (exact.encode_image(SLICES) - quick.encode_image(SLICES)).abs().max() > 1e-4


def torchscript(state: dict, archive: Path) -> Path:
    """Write weights as OpenAI did."""
    holder: torch.nn.Module = torch.nn.Identity()
    holder.register_buffer("input_resolution", torch.tensor(16))  # among OpenAI's weights too
    for name, values in state.items():
        *path, last = name.split(".")
        owner = holder
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Identity())
            owner = owner._modules[part]
        owner.register_parameter(last, torch.nn.Parameter(values))
    torch.jit.trace(holder, torch.zeros(1)).save(str(archive))
    return archive


@pytest.mark.filterwarnings("ignore")  # torch's, about TorchScript itself
def test_an_archive_of_openai_has_openais_activation(
    tiny_state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = torchscript(tiny_state, tmp_path / "tiny.pt")
    address = f"https://openai/clip/models/{hashlib.sha256(archive.read_bytes()).hexdigest()}/tiny.pt"
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": {"url": address, "hf_hub": ""}})
    plain = saved(tiny_state, tmp_path / "plain.pt")
    from_archive = load_encoder(EncoderChoice("tiny", str(archive)))
    assert from_archive.sha256 == load_encoder(EncoderChoice("tiny-quickgelu", str(plain))).sha256


@pytest.mark.filterwarnings("ignore")  # torch's, about TorchScript itself
def test_another_archive_needs_the_users_word(
    tiny_state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = torchscript(tiny_state, tmp_path / "tiny.pt")
    with monkeypatch.context() as untrusted:
        untrusted.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("an archive that may run code was loaded"))
        with pytest.raises(ConfigError, match=r"tiny\.pt: .*can run code.*HIPPO_TRUST_CLIP_WEIGHTS=1"):
            load_encoder(EncoderChoice("tiny", str(archive)))
    monkeypatch.setenv("HIPPO_TRUST_CLIP_WEIGHTS", "1")
    plain = saved(tiny_state, tmp_path / "plain.pt")
    trusted, usual = (load_encoder(EncoderChoice("tiny", str(path))) for path in (archive, plain))
    assert trusted.sha256 == usual.sha256, "the activation that the name says"


def test_a_tag_brings_its_own_activation_and_preprocessing(
    tiny_state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    tag = {"url": "", "hf_hub": "acme/tiny/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    tag |= {"interpolation": "bilinear", "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": tag})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1234")
    (repository / "snapshots" / "1234").mkdir(parents=True)
    file = saved(tiny_state, repository / "snapshots" / "1234" / "open_clip_model.safetensors")
    choice = EncoderChoice("tiny", "openai")
    encoder = load_encoder(choice)
    assert encoder.preprocessing == Preprocessing(16, tag["mean"], tag["std"], "bilinear")
    exact = load_encoder(EncoderChoice("tiny", str(file)))
    assert (exact.encode_text(["a"]) - encoder.encode_text(["a"])).abs().max() > 1e-4
    load_encoder.cache_clear()
    file.write_bytes(b"cut off")
    with pytest.raises(DependencyError, match=r"does not load .* delete it and run: hippo-nnunet clip fetch"):
        load_encoder(choice)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def test_open_clips_notes_stay_off_the_log_and_its_level_comes_back(
    tiny_state: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        load_encoder(EncoderChoice("tiny", str(saved(tiny_state, tmp_path / "noted.pt"))))
    assert [record.name for record in caplog.records] == ["hippo_nnunet.clip.encoder"]
    assert logging.root.manager.disable == logging.NOTSET
