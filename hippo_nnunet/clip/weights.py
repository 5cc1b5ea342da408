"""Finds an encoder's files: in the package, a folder, a file or a cache, or by download. Imports no torch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from hippo_nnunet.clip.hub import has_vocabulary, hub_file, hub_tokenizer
from hippo_nnunet.clip.models import (
    CLIP_MODELS,
    MINI,
    MODEL_VARIABLE,
    WEIGHTS_VARIABLE,
    EncoderChoice,
    is_file,
)
from hippo_nnunet.errors import ConfigError, DependencyError
from hippo_nnunet.files import read_object

CONFIG = "open_clip_config.json"

# open_clip's order of preference.
_CHECKPOINTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
# open_clip's default file name on the hub, the safer format first.
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class EncoderFiles:
    """What an encoder is loaded from; all of it is on this machine.

    Args:
        checkpoint: Its weights.
        config: Content of open_clip_config.json: `model_cfg` and, unless the weights are a tag or a file,
            `preprocess_cfg`.
        config_file: Where `preprocess_cfg` stands, for messages; None for open_clip's own names.
        tokenizer: Folder of its tokenizer for transformers; None for CLIP's own.
    """

    checkpoint: Path
    config: dict[str, Any]
    config_file: Path | None
    tokenizer: Path | None


def weights_file(choice: EncoderChoice) -> Path:
    """Find the weights of an encoder, downloading once whatever of the encoder is not on this machine.

    Returns:
        The checkpoint file. Cached files are used without network access.

    Raises:
        ConfigError: There is no such file, folder, model or tag.
        DependencyError: Neither cached nor reachable (found within 3 seconds), the download failed or was damaged, or
            a package is missing; the message names the remedies.
    """
    if _in_table(choice) and not choice.hub:  # saves open_clip's import; these need nothing but their weights
        checkpoint = _checkpoint(choice, fetch=True)
        assert checkpoint is not None
        return checkpoint
    return encoder_files(choice).checkpoint


def cached_file(choice: EncoderChoice) -> Path | None:
    """Find the weights of an encoder on this machine.

    Returns:
        The checkpoint file; None if something of the encoder has not been downloaded, or transformers is missing.

    Raises:
        ConfigError: There is no such file, folder, model or tag.
    """
    if _in_table(choice) and not choice.hub:
        return _checkpoint(choice, fetch=False)
    files = _find(choice, fetch=False)
    return files.checkpoint if files else None


def encoder_files(choice: EncoderChoice) -> EncoderFiles:
    """Find what an encoder is loaded from, downloading once what is not on this machine; raises as `weights_file`."""
    files = _find(choice, fetch=True)
    assert files is not None
    return files


def _find(choice: EncoderChoice, fetch: bool) -> EncoderFiles | None:
    """Find everything; None if something is missing and is not to be fetched."""
    checkpoint = _checkpoint(choice, fetch)
    config_file = choice.folder / CONFIG if choice.folder else None
    if choice.hub:
        config_file = hub_file(choice, choice.hub, (CONFIG,), fetch)
    if checkpoint is None or (choice.hub and config_file is None):
        return None
    config = _config(choice, config_file)
    text = config["model_cfg"]["text_cfg"]
    if not ("hf_tokenizer_name" in text or "hf_model_name" in text):
        return EncoderFiles(checkpoint, config, config_file, None)
    if importlib.util.find_spec("transformers") is None:
        if not fetch:
            return None
        raise DependencyError(
            f"CLIP model {choice.model}: its text tower needs transformers, which is not installed; "
            "pip install 'hippo-nnunet[hf]'"
        )
    tower = text.get("hf_model_name")
    if tower:  # only its configuration: the weights are in the checkpoint
        own = choice.folder is not None and (choice.folder / "config.json").is_file()
        found = choice.folder if own else _parent(hub_file(choice, tower, ("config.json",), fetch))
        text["hf_model_name"] = str(found)
        if found is None:
            return None
    tokenizer = choice.folder if choice.folder and has_vocabulary(choice.folder) else None
    tokenizer = tokenizer or hub_tokenizer(choice, text.get("hf_tokenizer_name") or tower, fetch)
    return EncoderFiles(checkpoint, config, config_file, tokenizer) if tokenizer else None


def _checkpoint(choice: EncoderChoice, fetch: bool) -> Path | None:
    if choice.folder:
        return _in_folder(choice, choice.folder)
    if choice.hub:
        return hub_file(choice, choice.hub, _HUB_FILES, fetch)
    if choice.model == MINI.model:
        raise ConfigError(f"CLIP model mini: has no weights {choice.weights!r}; use the recipe word mini")
    if is_file(choice.weights):
        path = Path(choice.weights)
        if not path.is_file():
            raise ConfigError(f"CLIP weights {choice.weights}: there is no such file; correct {WEIGHTS_VARIABLE}")
        return path
    # open_clip writes owner/name/ for its default file, owner/name/file for another.
    known = next((f"{model.hub}/" for model in CLIP_MODELS if model.choice == choice), "")
    repository, _, name = (known or str(pretrained_config(choice)["hf_hub"])).rpartition("/")
    if not repository:
        raise ConfigError(
            f"CLIP weights {choice.name}: are not on the Hugging Face hub; download them from "
            f"{pretrained_config(choice)['url']}, and set {WEIGHTS_VARIABLE} to the file"
        )
    names = (Path(name).with_suffix(".safetensors").name, name) if name else _HUB_FILES
    return hub_file(choice, repository, names, fetch)


def _in_folder(choice: EncoderChoice, folder: Path) -> Path:
    """Return a folder's checkpoint as open_clip chooses it, but never one of several of unknown names."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"CLIP model {choice.model}: the folder has no {CONFIG}; copy all files of the model's repository into it, "
            f"or correct {MODEL_VARIABLE}"
        )
    found = sorted(file for file in folder.glob("*") if file.suffix in (".safetensors", ".bin", ".pth"))
    known = [folder / name for name in _CHECKPOINTS if folder / name in found]
    if known or len(found) == 1:
        return (known or found)[0]
    several = f"several checkpoints ({', '.join(file.name for file in found)})" if found else "no checkpoint"
    raise ConfigError(f"CLIP model {choice.model}: the folder has {several}; name the right one {_CHECKPOINTS[0]}")


def _config(choice: EncoderChoice, file: Path | None) -> dict[str, Any]:
    """Return the content of open_clip_config.json, of open_clip itself for its own names."""
    if file is None:
        return {"model_cfg": import_open_clip(choice).get_model_config(choice.model)}
    config = read_object(file, f"copy it again from the model's repository, or run: {choice.fetch}")
    model = config.get("model_cfg")
    wanted = ("vision_cfg", "text_cfg")
    if not isinstance(model, dict) or not all(isinstance(model.get(name), dict) for name in wanted):
        raise ConfigError(f"{file}: has no model_cfg with vision_cfg and text_cfg; it is no configuration of open_clip")
    return config


def _parent(file: Path | None) -> Path | None:
    return file.parent if file else None


def _in_table(choice: EncoderChoice) -> bool:
    return any(model.choice == choice for model in CLIP_MODELS)


def pretrained_config(choice: EncoderChoice) -> Mapping[str, Any]:
    """open_clip's entry of pretrained weights.

    Args:
        choice: Encoder whose weights are a tag.

    Returns:
        `url`, `hf_hub`, `quick_gelu`, and the preprocessing of the weights.

    Raises:
        ConfigError: open_clip knows no such model or tag.
        DependencyError: open_clip is not installed.
    """
    open_clip = import_open_clip(choice)
    config: dict[str, Any] = open_clip.get_pretrained_cfg(choice.model, choice.weights)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(choice.model)
        raise ConfigError(
            f"{WEIGHTS_VARIABLE}={choice.weights}: neither a file nor weights of {choice.model}; "
            f"open_clip has {', '.join(tags) or 'none for it'}"
        )
    return config


def import_open_clip(choice: EncoderChoice) -> ModuleType:
    """Import open_clip, which takes seconds, and check that it has the model.

    Raises:
        ConfigError: open_clip knows no such model.
        DependencyError: open_clip is not installed.
    """
    try:
        import open_clip
    except ImportError as error:
        raise DependencyError(
            f"CLIP model {choice.model}: open_clip cannot be imported ({error}); "
            'install it with: pip install "open_clip_torch>=3.3,<4"'
        ) from error
    _name_files(sys.modules)
    names = open_clip.list_models()
    if not (choice.folder or choice.hub) and choice.model not in names:
        near = get_close_matches(choice.model, names, n=3, cutoff=0.4)
        raise ConfigError(
            f"CLIP model {choice.model}: open_clip has none of that name; correct {MODEL_VARIABLE}"
            + (f", near it are {', '.join(near)}" if near else "")
            + (f"; a model of the hub is hf-hub:{choice.model}" if "/" in choice.model else "")
        )
    return open_clip


def _name_files(modules: Mapping[str, ModuleType]) -> None:
    """Give transformers' lazy modules a file, so that they import nothing when they are asked for it.

    open_clip imports transformers if it is installed. To find a trainer, nnU-Net asks every imported module for its
    file, and ends with "dictionary changed size during iteration" if one of them imports another on that occasion.
    """
    for name, module in list(modules.items()):
        if name.startswith("transformers.") and vars(module).get("__file__") is None:
            module.__file__ = modules["transformers"].__file__
