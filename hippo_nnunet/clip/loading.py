"""Loads an open_clip model strictly: every weight from the requested file, or an error."""

from __future__ import annotations

import logging
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, cast

import torch

from hippo_nnunet.clip.models import (
    MINI,
    MODEL_VARIABLE,
    PREPROCESS_VARIABLE,
    TRUST_VARIABLE,
    EncoderChoice,
    is_file,
)
from hippo_nnunet.clip.preprocessing import Preprocessing
from hippo_nnunet.clip.weights import (
    CONFIG,
    EncoderFiles,
    encoder_files,
    import_open_clip,
    pretrained_config,
)
from hippo_nnunet.errors import ConfigError, DependencyError, HippoError, one_line
from hippo_nnunet.files import hash_file, read_object, write_json

Tokenizer = Callable[[list[str]], torch.Tensor]

# Tensors that open_clip would interpolate to the model's size instead of refusing them.
_RESIZED = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")
# Entries of OpenAI's archives that are not weights.
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
# What weights say about images; the size is the architecture's, and the resize mode does not matter to square slices.
_OF_IMAGES = ("mean", "std", "interpolation", "resize_mode")
_VALUES = ("mean", "std", "interpolation")


def load_model(choice: EncoderChoice) -> tuple[Any, Tokenizer, Preprocessing, bool]:
    """Load an open_clip model.

    Args:
        choice: Encoder. A tag brings its own activation and preprocessing, a repository and a folder their own
            configuration. A file is loaded into the named architecture with the activation that the name says
            (`ViT-B-32-quickgelu` for OpenAI's weights), except for OpenAI's own archives (`ViT-B-32.pt`, TorchScript),
            which have only one; for its preprocessing see `_of_images`. Other TorchScript archives need
            TRUST_VARIABLE, because loading one runs code.

    Returns:
        The open_clip model (CLIP, CustomTextCLIP or CoCa; float32, on the CPU), its tokenizer from prompts to tokens,
        its own preprocessing, and whether its activation is QuickGELU.

    Raises:
        ConfigError: There is no such model, tag, file or folder, the file does not fit the model in every tensor, its
            preprocessing is not known, or it could run code and is not trusted.
        DependencyError: The weights are neither on this machine nor reachable, open_clip, transformers or the image
            tower's version of timm is missing, or a downloaded file does not load.
    """
    files = encoder_files(choice)
    path = files.checkpoint
    open_clip = import_open_clip(choice)
    own = {} if files.config_file or is_file(choice.weights) else pretrained_config(choice)
    archive = zipfile.is_zipfile(path) and _is_torchscript(path)
    openai = archive and _is_openais(path, open_clip)
    images = own or _of_images(choice, files, openai)
    model_cfg = files.config["model_cfg"]
    _check_tower(choice, model_cfg["vision_cfg"].get("timm_model_name", ""))
    quick_gelu = bool(openai or own.get("quick_gelu") or model_cfg.get("quick_gelu"))
    try:
        with TemporaryDirectory(prefix="hippo-clip-") as scratch:
            readable = _weights_of_archive(path, Path(scratch)) if archive else path
            shapes = _shapes(readable)  # before a large model is built for a damaged file
            write_json(Path(scratch) / CONFIG, {"model_cfg": model_cfg})
            with _quiet(logging.WARNING):  # which warns that it finds no weights
                model = open_clip.create_model(
                    f"local-dir:{scratch}",
                    load_weights=False,
                    pretrained_text=False,
                    force_quick_gelu=quick_gelu,
                    force_preprocess_cfg={key: images[key] for key in _OF_IMAGES if key in images},
                )
            with _quiet(logging.INFO):
                open_clip.load_checkpoint(model, str(readable), strict=True)
                _refuse_resized(model, shapes)
                tokenizer = _tokenizer(open_clip, files)
    except Exception as error:  # a pickle, an archive and a state dict of others: each fails in its own way
        raise _does_not_load(choice, path, error) from error
    return model, tokenizer, Preprocessing.of(model.visual.preprocess_cfg), quick_gelu


def _tokenizer(open_clip: ModuleType, files: EncoderFiles) -> Tokenizer:
    """Return the model's tokenizer; made as in `open_clip.get_tokenizer`, from files of this machine alone."""
    text = files.config["model_cfg"]["text_cfg"]
    length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    options = text.get("tokenizer_kwargs", {})
    if files.tokenizer is None:
        return cast("Tokenizer", open_clip.SimpleTokenizer(context_length=length, **options))
    mode = text.get("tokenizer_mode")
    made = open_clip.tokenizer.HFTokenizer(str(files.tokenizer), length, tokenizer_mode=mode, **options)
    return cast("Tokenizer", made)


def _of_images(choice: EncoderChoice, files: EncoderFiles, openai: bool) -> Mapping[str, Any]:
    """Return mean, standard deviation and interpolation that the weights of a file or folder were trained with.

    In this order: what PREPROCESS_VARIABLE names, OpenAI's for its own archives, `preprocess_cfg` of the folder's or
    repository's configuration or of an open_clip_config.json beside the file, and what all published weights of the
    architecture have in common.

    Raises:
        ConfigError: None of these says it.
    """
    import open_clip

    published = {
        tag: open_clip.get_pretrained_cfg(model, tag)
        for model, tag in open_clip.list_pretrained()
        if model == choice.model
    }
    named = choice.preprocess or ("openai" if openai else "")
    if named in published:
        return published[named]
    beside = Path(choice.preprocess) if choice.preprocess else files.config_file or files.checkpoint.with_name(CONFIG)
    if choice.preprocess and not beside.is_file():
        raise ConfigError(
            f"{PREPROCESS_VARIABLE}={choice.preprocess}: is neither a file nor a tag of {choice.model} "
            f"({', '.join(published) or 'it has none'})"
        )
    if beside.is_file():
        content = read_object(beside)
        found = content.get("preprocess_cfg", content if choice.preprocess else {})
        if _is_complete(found):
            return found
    kinds = {tuple(str(of_tag.get(key)) for key in _VALUES): of_tag for of_tag in published.values()}
    if len(kinds) == 1 and not choice.preprocess and not files.config_file:
        return kinds.popitem()[1]
    reason = "its published weights differ in them" if len(kinds) > 1 else f"{beside} does not say them"
    raise ConfigError(
        f"CLIP weights {files.checkpoint}: mean and standard deviation of its images are not known, since {reason}; "
        f"set {PREPROCESS_VARIABLE} to the JSON file that has them as preprocess_cfg (mean, std, interpolation)"
        + (f", or to the tag of {choice.model} that has the same ({', '.join(published)})" if published else "")
    )


def _is_complete(found: Any) -> bool:
    """Whether mean and deviation are three numbers each, and no deviation is zero."""
    if not isinstance(found, dict):
        return False
    triples = [found.get("mean"), found.get("std")]
    numbers = all(
        isinstance(triple, list)
        and len(triple) == 3
        and all(isinstance(n, (int, float)) and math.isfinite(n) for n in triple)
        for triple in triples
    )
    return numbers and min(found["std"]) > 0


def _check_tower(choice: EncoderChoice, name: str) -> None:
    import timm

    if name and not timm.is_model(name):
        raise DependencyError(
            f"CLIP model {choice.model}: timm {timm.__version__} has no image tower {name}; pip install -U timm"
        )


def _does_not_load(choice: EncoderChoice, path: Path, error: Exception) -> HippoError:
    reason = one_line(error)
    if is_file(choice.weights):
        return ConfigError(
            f"CLIP weights {path}: do not load strictly into {choice.model} ({reason}); "
            f"set {MODEL_VARIABLE} to the architecture that they belong to"
        )
    if choice.folder and choice != MINI:
        return ConfigError(f"CLIP model {choice.model}: does not load ({reason}); copy the model's repository again")
    remedy = "reinstall hippo_nnunet" if choice == MINI else f"delete it and run: {choice.fetch}"
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


def _is_openais(path: Path, open_clip: ModuleType) -> bool:
    """Tell whether an archive is OpenAI's, whose SHA-256 is in its address; refuse others unless they are trusted."""
    digest = hash_file(path)
    models = [model for model, tag in open_clip.list_pretrained() if tag == "openai"]
    if any(f"/{digest}/" in open_clip.get_pretrained_url(model, "openai") for model in models):
        return True
    if os.environ.get(TRUST_VARIABLE) == "1":
        return False
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
def _quiet(level: int) -> Iterator[None]:
    """Suppress what open_clip writes to the root logger up to a level."""
    before = logging.root.manager.disable
    logging.disable(max(before, level))
    try:
        yield
    finally:
        logging.disable(before)
