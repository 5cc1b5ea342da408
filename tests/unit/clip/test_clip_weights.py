"""Which encoder is asked for, where its weights are, and what is said when they are nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
import requests
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from typer.testing import CliRunner

from hippo_nnunet.clip import weights
from hippo_nnunet.clip.models import (
    CLIP_MODELS,
    DEFAULT,
    MINI,
    MINI_FOLDER,
    EncoderChoice,
    chosen_encoder,
    named_encoder,
)
from hippo_nnunet.clip.weights import cached_file, pretrained_config, weights_file
from hippo_nnunet.errors import ConfigError, DependencyError

WAYS_OUT = (
    "hippo-nnunet clip fetch --model ViT-B-32 --weights openai",
    "set HIPPO_CLIP_WEIGHTS to a checkpoint file",
    "recipe word mini",
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for variable in ("HIPPO_CLIP_MODEL", "HIPPO_CLIP_WEIGHTS"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache"


def refuse(*_: object, **__: object) -> None:
    raise requests.ConnectionError("no route")


def test_the_environment_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_encoder(mini=False) == DEFAULT == EncoderChoice("ViT-B-32", "openai")
    monkeypatch.setenv("HIPPO_CLIP_WEIGHTS", "laion2b_s34b_b79k")
    assert chosen_encoder(mini=False) == EncoderChoice("ViT-B-32", "laion2b_s34b_b79k")
    monkeypatch.setenv("HIPPO_CLIP_MODEL", "ViT-L-14")
    assert chosen_encoder(mini=False).name == "ViT-L-14/laion2b_s34b_b79k"
    assert chosen_encoder(mini=True) == MINI
    file = tmp_path / "weights.pt"
    monkeypatch.setenv("HIPPO_CLIP_WEIGHTS", str(file))
    with pytest.raises(ConfigError, match="no such file"):
        chosen_encoder(mini=False)
    file.touch()
    assert chosen_encoder(mini=False) == EncoderChoice("ViT-L-14", str(file))
    assert chosen_encoder(mini=False).name == "ViT-L-14/weights.pt"
    assert weights_file(chosen_encoder(mini=False)) == file


def test_options_win_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIPPO_CLIP_MODEL", "ViT-L-14")
    monkeypatch.setenv("HIPPO_CLIP_WEIGHTS", "laion2b_s34b_b79k")
    assert named_encoder(None, None) == EncoderChoice("ViT-L-14", "laion2b_s34b_b79k")
    assert named_encoder("ViT-B-32", None) == EncoderChoice("ViT-B-32", "laion2b_s34b_b79k")
    assert named_encoder(None, "openai") == EncoderChoice("ViT-L-14", "openai")
    assert named_encoder("mini", None) == MINI
    assert named_encoder("hf-hub:acme/tiny", None) == EncoderChoice("hf-hub:acme/tiny")
    assert named_encoder(f"local-dir:{tmp_path}", None) == EncoderChoice(f"local-dir:{tmp_path}")


def test_a_file_without_its_architecture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vit.pt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIPPO_CLIP_WEIGHTS", "vit.pt")
    with pytest.raises(ConfigError, match="HIPPO_CLIP_MODEL too, to ViT-B-32-quickgelu for OpenAI's"):
        chosen_encoder(mini=False)


def test_the_table_is_open_clips() -> None:
    import open_clip

    for model in CLIP_MODELS[1:]:
        if model.choice.hub:
            assert model.hub == model.choice.hub
            continue
        assert pretrained_config(model.choice)["hf_hub"] == f"{model.hub}/"
        assert open_clip.get_model_config(model.choice.model)["embed_dim"] == model.embed_dim
    assert CLIP_MODELS[0].choice == MINI
    stored = json.loads((MINI_FOLDER / "open_clip_config.json").read_text())
    assert stored["model_cfg"]["embed_dim"] == CLIP_MODELS[0].embed_dim


def test_offline_names_the_three_ways_out(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    monkeypatch.setattr("requests.head", refuse)
    with pytest.raises(DependencyError) as caught:
        weights_file(DEFAULT)
    message = str(caught.value)
    assert [
        way for way in ("ViT-B-32/openai", str(empty_cache), "ConnectionError", *WAYS_OUT) if way not in message
    ] == []
    assert "\n" not in message


def test_a_network_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    over, answered = threading.Event(), []
    monkeypatch.setattr("requests.head", lambda *_, **__: answered.append(over.wait(60)))
    monkeypatch.setattr("hippo_nnunet.clip.hub._PROBE_S", 0.2)
    with pytest.raises(DependencyError, match=r"no answer within 0\.2 s"):
        weights_file(DEFAULT)
    assert not answered
    over.set()


def test_a_download_that_fails_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("requests.head", lambda *_, **__: None)

    def fail(repository: str, name: str, **_: object) -> None:
        assert (repository, name) == ("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors")
        raise FileNotFoundError("disk full\nmore")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(DependencyError, match=r"the download failed \(disk full\)"):
        weights_file(DEFAULT)


def test_offline_by_request_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("requests.head", lambda *_, **__: pytest.fail("asked the network"))
    with pytest.raises(DependencyError, match="HF_HUB_OFFLINE is set"):
        weights_file(DEFAULT)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_what_is_cached_needs_no_network(empty_cache: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("requests.head", refuse)
    repository = empty_cache / "models--timm--vit_base_patch32_clip_224.openai"
    snapshot = repository / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1234")
    assert cached_file(DEFAULT) is None
    (snapshot / name).touch()
    assert weights_file(DEFAULT) == snapshot / name


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        (EncoderChoice("ViT-B-23", "openai"), "open_clip has none of that name.*ViT-B-32"),
        (EncoderChoice("ViT-B-32", "opnai"), "neither a file nor weights of ViT-B-32; open_clip has openai"),
        (EncoderChoice("ViT-B-32", "/nowhere/x.pt"), "/nowhere/x.pt: there is no such file"),
        (EncoderChoice("mini", "openai"), "mini: has no weights 'openai'"),
    ],
)
def test_names_that_cannot_be_right(choice: EncoderChoice, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        weights_file(choice)


def test_without_network_and_cache_a_new_process_says_so_before_it_imports_torch(tmp_path: Path) -> None:
    code = """
import socket, sys
import huggingface_hub.file_download, requests  # not within the time that the probe has
def refuse(*_, **__): raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from hippo_nnunet.clip.models import chosen_encoder
from hippo_nnunet.clip.weights import weights_file
try: weights_file(chosen_encoder(mini=False))
except Exception as error: print(type(error).__name__, error)
assert not {"torch", "open_clip"} & set(sys.modules)
"""
    hidden = ("HF_", "HIPPO_", "HUGGINGFACE_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environ, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (message,) = done.stdout.splitlines()
    assert message.startswith(
        "DependencyError CLIP weights ViT-B-32/openai: timm/vit_base_patch32_clip_224.openai is not in"
    )
    assert [way for way in WAYS_OUT if way not in message] == []


# --- the command line


def test_info_lists_what_is_here(empty_cache: Path) -> None:
    from hippo_nnunet.cli.clip import app
    from hippo_nnunet.clip.encoder import load_encoder

    result = CliRunner().invoke(app, ["info", "--json"])
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    mini, default, *rest = found["encoders"]
    assert found["cache"] == str(empty_cache)
    assert (mini["sha256"], mini["embed_dim"]) == (load_encoder(MINI).sha256, 64)
    assert mini["size_bytes"] == Path(mini["file"]).stat().st_size
    assert (default["chosen"], default["file"], default["embed_dim"]) == (True, None, 512)
    assert [row["chosen"] for row in (mini, *rest)] == [False] * (len(CLIP_MODELS) - 1)
    text = CliRunner().invoke(app, ["info"]).stdout
    assert mini["sha256"] in text
    assert "not here; hippo-nnunet clip fetch --model ViT-B-32 --weights openai" in text


def test_fetch_prints_where_the_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hippo_nnunet.cli.clip import app

    fetched = CliRunner().invoke(app, ["fetch", "--model", "mini", "--weights", "bundled"])
    assert fetched.stdout.strip() == str(MINI_FOLDER / "model.safetensors")
    monkeypatch.setattr("requests.head", refuse)
    assert isinstance(CliRunner().invoke(app, ["fetch"]).exception, DependencyError)
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    monkeypatch.setenv("HIPPO_CLIP_WEIGHTS", str(tmp_path / "broken.pt"))
    monkeypatch.setenv("HIPPO_CLIP_MODEL", "ViT-B-32")
    refused = CliRunner().invoke(app, ["fetch"])
    assert isinstance(refused.exception, ConfigError)
    assert "do not load strictly" in str(refused.exception)


def test_nnunet_finds_trainers_after_open_clip_has_imported_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Alias(ModuleType):  # as transformers' aliases of its image processors: any question imports another module
        def __getattr__(self, name: str) -> object:
            monkeypatch.setitem(sys.modules, f"transformers.imported_for_{name}", ModuleType("imported"))
            raise AttributeError(name)

    package = ModuleType("transformers")
    package.__file__ = str(tmp_path / "transformers" / "__init__.py")
    monkeypatch.setitem(sys.modules, "transformers", package)
    alias = Alias("transformers.alias")
    alias.__file__ = None
    monkeypatch.setitem(sys.modules, "transformers.alias", alias)
    with pytest.raises(RuntimeError, match="changed size"):
        recursive_find_python_class(str(tmp_path), "NoTrainer", None, cleanup_imports_from_base_folder=True)
    weights.import_open_clip(MINI)
    assert recursive_find_python_class(str(tmp_path), "NoTrainer", None, cleanup_imports_from_base_folder=True) is None
