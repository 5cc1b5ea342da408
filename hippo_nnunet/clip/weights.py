"""Finds an encoder's weights: in the package, in a file, in a cache, or by download. Imports no torch."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from hippo_nnunet.clip.models import (
    CLIP_MODELS,
    MINI,
    MINI_FOLDER,
    MODEL_VARIABLE,
    WEIGHTS_VARIABLE,
    EncoderChoice,
    is_file,
)
from hippo_nnunet.errors import ConfigError, DependencyError

logger = logging.getLogger(__name__)

# open_clip's default file name on the hub, the safer format first.
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_PROBE_S = 3.0


def weights_file(choice: EncoderChoice) -> Path:
    """Find the weights of an encoder, downloading them once where they are not on this machine.

    Returns:
        The checkpoint file. Cached files are used without network access.

    Raises:
        ConfigError: There is no such file, model or tag.
        DependencyError: Neither cached nor reachable (found within 5 seconds), or the download failed; the message
            names the remedies.
    """
    found = cached_file(choice)
    if found:
        return found
    config = _pretrained_config(choice)
    import huggingface_hub.constants

    address = str(huggingface_hub.constants.ENDPOINT if config["hf_hub"] else config["url"])  # asked first
    reason = _unreachable(address)
    if reason:
        raise DependencyError(_missing(choice, f"{address} cannot be reached ({reason})"))
    logger.info("CLIP weights %s: downloading from %s", choice.name, address)
    from open_clip import download_pretrained

    try:
        return Path(download_pretrained(dict(config)))
    except Exception as error:  # whatever the hub's client, urllib or the disk may raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DependencyError(_missing(choice, f"the download failed ({reason})")) from error


def cached_file(choice: EncoderChoice) -> Path | None:
    """Find the weights of an encoder on this machine.

    Returns:
        The checkpoint file; None for weights with a tag that have not been downloaded.

    Raises:
        ConfigError: There is no such file, model or tag.
    """
    if choice == MINI:
        return MINI_FOLDER / "model.safetensors"
    if choice.model == MINI.model:
        raise ConfigError(f"CLIP model mini: has no weights {choice.weights!r}; use the recipe word mini")
    if is_file(choice.weights):
        path = Path(os.path.expanduser(choice.weights))  # noqa: PTH111 - which never raises
        if not path.is_file():
            raise ConfigError(f"CLIP weights {choice.weights}: there is no such file; correct {WEIGHTS_VARIABLE}")
        return path
    config = _pretrained_config(choice)
    if not config["hf_hub"]:
        downloaded = Path("~/.cache/clip").expanduser() / Path(config["url"]).name
        return downloaded if downloaded.is_file() else None
    return _in_hub_cache(config["hf_hub"])


def cache_folder() -> Path:
    """Return the folder of downloaded weights; the variables HF_HOME and HF_HUB_CACHE move it."""
    import huggingface_hub.constants

    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def _in_hub_cache(address: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    # open_clip writes owner/name/ for its default file, owner/name/file for another.
    repository, _, name = address.rpartition("/")
    for file in (Path(name).with_suffix(".safetensors").name, name) if name else _HUB_FILES:
        found = try_to_load_from_cache(repository, file, cache_dir=cache_folder())
        if isinstance(found, str) and Path(found).is_file():
            return Path(found)
    return None


def _pretrained_config(choice: EncoderChoice) -> Mapping[str, Any]:
    """open_clip's entry of a tag; without open_clip, whose import takes seconds, for the models of our own table."""
    for known in CLIP_MODELS:
        if known.choice == choice:
            return {"hf_hub": f"{known.hub}/", "url": ""}
    return pretrained_config(choice)


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
    if choice != MINI and choice.model not in names:
        near = get_close_matches(choice.model, names, n=3, cutoff=0.4)
        raise ConfigError(
            f"CLIP model {choice.model}: open_clip has none of that name; correct {MODEL_VARIABLE}"
            + (f", near it are {', '.join(near)}" if near else "")
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


def _unreachable(address: str) -> str:
    """Return why an address does not answer; empty if it does.

    Runs in a separate thread, because name resolution has no time limit.
    """
    import huggingface_hub.constants

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome = [f"no answer within {_PROBE_S:g} s"]

    def ask() -> None:
        import requests

        try:
            requests.head(address, timeout=_PROBE_S)
            outcome[0] = ""
        except (requests.RequestException, OSError) as error:
            outcome[0] = type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    return outcome[0]


def _missing(choice: EncoderChoice, reason: str) -> str:
    return (
        f"CLIP weights {choice.name}: not in {cache_folder()}, and {reason}. Either connect and run once: hippo-nnunet "
        f"clip fetch --model {choice.model} --weights {choice.weights}; or set {WEIGHTS_VARIABLE} to a checkpoint file "
        f"and {MODEL_VARIABLE} to its architecture (ViT-B-32-quickgelu for OpenAI's); or use the bundled encoder by "
        "the recipe word mini"
    )
