"""Loads an open_clip model strictly: every weight from the requested file, or an error."""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch

from hippo_nnunet.clip.models import MINI, MINI_FOLDER, MODEL_VARIABLE, TRUST_VARIABLE, EncoderChoice, is_file
from hippo_nnunet.clip.preprocessing import Preprocessing
from hippo_nnunet.clip.weights import import_open_clip, pretrained_config, weights_file
from hippo_nnunet.errors import ConfigError, DependencyError, HippoError

# Tensors that open_clip would interpolate to the model's size instead of refusing them.
_RESIZED = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")
# Entries of OpenAI's archives that are not weights.
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
# What the weights of a tag say about images; the size is the architecture's.
_OF_IMAGES = ("mean", "std", "interpolation", "resize_mode")


def load_model(choice: EncoderChoice) -> tuple[Any, Callable[[list[str]], torch.Tensor], Preprocessing, bool]:
    """Load an open_clip model.

    Args:
        choice: Encoder. A tag brings its own activation and preprocessing. A file is loaded into the named
            architecture with the activation that the name says (`ViT-B-32-quickgelu` for OpenAI's weights), except
            for OpenAI's own archives (`ViT-B-32.pt`, TorchScript), which have only one. Other TorchScript archives
            need TRUST_VARIABLE, because loading one runs code.

    Returns:
        The open_clip model (CLIP, CustomTextCLIP or CoCa; float32, on the CPU), its tokenizer from prompts to tokens,
        its own preprocessing, and whether its activation is QuickGELU.

    Raises:
        ConfigError: There is no such model, tag or file, the file does not fit the model in every tensor, or it could
            run code and is not trusted.
        DependencyError: The weights are neither on this machine nor reachable, open_clip is missing, or a downloaded
            file does not load.
    """
    path = weights_file(choice)
    open_clip = import_open_clip(choice)
    name = f"local-dir:{MINI_FOLDER}" if choice == MINI else choice.model
    own = {} if choice == MINI or is_file(choice.weights) else pretrained_config(choice)
    archive = zipfile.is_zipfile(path) and _is_torchscript(path)
    if archive:
        _check_trusted(path, open_clip)
    quick_gelu = bool(archive or own.get("quick_gelu") or open_clip.get_model_config(name).get("quick_gelu"))
    try:
        with _quiet(), TemporaryDirectory(prefix="hippo-clip-") as scratch:
            readable = _weights_of_archive(path, Path(scratch)) if archive else path
            shapes = _shapes(readable)  # before a large model is built for a damaged file
            model = open_clip.create_model(
                name,
                pretrained=None if choice == MINI else str(readable),
                require_pretrained=True,
                force_quick_gelu=quick_gelu,
                force_preprocess_cfg={key: own[key] for key in _OF_IMAGES if key in own},
            )
            _refuse_resized(model, shapes)
            tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # a pickle, an archive and a state dict of others: each fails in its own way
        raise _does_not_load(choice, path, error) from error
    return model, tokenizer, Preprocessing.of(model.visual.preprocess_cfg), quick_gelu


def _does_not_load(choice: EncoderChoice, path: Path, error: Exception) -> HippoError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if is_file(choice.weights):
        return ConfigError(
            f"CLIP weights {path}: do not load strictly into {choice.model} ({reason}); "
            f"set {MODEL_VARIABLE} to the architecture that they belong to"
        )
    remedy = "reinstall hippo_nnunet" if choice == MINI else "delete it and run: hippo-nnunet clip fetch"
    return DependencyError(f"CLIP weights {choice.name}: {path} does not load ({reason}); {remedy}")


def _refuse_resized(model: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    own = {name: tuple(values.shape) for name, values in model.state_dict().items()}
    for name, shape in shapes.items():
        if name in _RESIZED and shape != own.get(name, shape):
            raise ValueError(f"{name} has shape {shape}, expected {own[name]}")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a checkpoint, by name as open_clip reads it."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    content = torch.load(path, map_location="meta", weights_only=True)
    state = content.get("state_dict", content)
    return {name.removeprefix("module."): tuple(value.shape) for name, value in state.items()}


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _check_trusted(path: Path, open_clip: ModuleType) -> None:
    """Refuse an archive that is none of OpenAI's, whose SHA-256 is in its address, unless the user trusts it."""
    if os.environ.get(TRUST_VARIABLE) == "1":
        return
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    models = [model for model, tag in open_clip.list_pretrained() if tag == "openai"]
    if not any(f"/{digest.hexdigest()}/" in open_clip.get_pretrained_url(model, "openai") for model in models):
        raise ConfigError(
            f"CLIP weights {path}: loading this TorchScript archive can run code, and it is none of OpenAI's: give "
            f"safetensors or a state dict, or set {TRUST_VARIABLE}=1 if you trust its author"
        )


def _weights_of_archive(path: Path, scratch: Path) -> Path:
    """Write the weights of a TorchScript archive as a plain checkpoint, which open_clip can read safely."""
    state = torch.jit.load(str(path), map_location="cpu").state_dict()
    plain = scratch / "weights.pt"
    torch.save({name: values for name, values in state.items() if name not in _NO_WEIGHTS}, plain)
    return plain


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the progress messages that open_clip writes to the root logger, but not its warnings."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)
