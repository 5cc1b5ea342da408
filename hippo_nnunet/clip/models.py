"""The known CLIP encoders, and the one that recipe and environment select. Imports no torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.errors import ConfigError

MODEL_VARIABLE = "HIPPO_CLIP_MODEL"
WEIGHTS_VARIABLE = "HIPPO_CLIP_WEIGHTS"
PREPROCESS_VARIABLE = "HIPPO_CLIP_PREPROCESS"
TRUST_VARIABLE = "HIPPO_TRUST_CLIP_WEIGHTS"

# open_clip's prefixes of models that bring configuration, weights and tokenizer.
_HUB = "hf-hub:"
_FOLDER = "local-dir:"

# The bundled encoder, in the layout of open_clip's `local-dir:` models.
MINI_FOLDER = Path(__file__).parent / "mini"
# How it was trained, with the hash of the encoder.
MINI_RECORD = MINI_FOLDER / "training.json"


@dataclass(frozen=True)
class EncoderChoice:
    """A CLIP encoder, whether its weights are on this machine or not.

    Args:
        model: open_clip's name of the architecture, such as `ViT-B-32`; `hf-hub:ORG/MODEL`; `local-dir:PATH`; or
            `mini`.
        weights: open_clip's tag of pretrained weights, such as `openai`, or the path of a checkpoint file; `bundled`
            for `mini`; empty for `hf-hub:` and `local-dir:`, which have their own.
        preprocess: What HIPPO_CLIP_PREPROCESS says: the tag or JSON file whose preprocessing weights from a file get;
            empty for the weights' own.
    """

    model: str
    weights: str = ""
    preprocess: str = ""

    @property
    def hub(self) -> str:
        """Repository of a `hf-hub:` model; empty for others."""
        return self.model.removeprefix(_HUB) if self.model.startswith(_HUB) else ""

    @property
    def folder(self) -> Path | None:
        """Folder of a `local-dir:` model and of `mini`; None for others."""
        if self == MINI:
            return MINI_FOLDER
        return Path(self.model.removeprefix(_FOLDER)) if self.model.startswith(_FOLDER) else None

    @property
    def name(self) -> str:
        """Model and tag, model and file name, repository, or the folder's name: the same on every machine."""
        if self.weights:
            return f"{self.model}/{Path(self.weights).name}"
        return f"{_FOLDER}{self.folder.name}" if self.folder else self.model

    @property
    def fetch(self) -> str:
        """The command that downloads it."""
        weights = f" --weights {self.weights}" if self.weights else ""
        return f"hippo-nnunet clip fetch --model {self.model}{weights}"


@dataclass(frozen=True)
class ClipModel:
    """A CLIP encoder that is known before open_clip is imported.

    Args:
        choice: Model and tag.
        embed_dim: Length of an embedding.
        size_mb: What is downloaded, 10^6 bytes; 0 where nothing is.
        hub: Repository of the weights on the Hugging Face hub; empty for `mini`.
        meaning: One line for a list.
    """

    choice: EncoderChoice
    embed_dim: int
    size_mb: int
    hub: str
    meaning: str


MINI = EncoderChoice("mini", "bundled")
DEFAULT = EncoderChoice("ViT-B-32", "openai")

# What `list` and `clip info` show; any other name and tag of open_clip, repository and folder works as well.
CLIP_MODELS = (
    ClipModel(MINI, 64, 0, "", "bundled, trained on phantoms: for the demo and tests, not for research claims"),
    ClipModel(DEFAULT, 512, 605, "timm/vit_base_patch32_clip_224.openai", "the default"),
    ClipModel(
        EncoderChoice("ViT-B-32", "laion2b_s34b_b79k"),
        512,
        605,
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        "the same architecture on open data",
    ),
    ClipModel(
        EncoderChoice("ViT-B-16", "openai"),
        512,
        599,
        "timm/vit_base_patch16_clip_224.openai",
        "smaller patches, about four times slower",
    ),
    ClipModel(
        EncoderChoice("ViT-L-14", "openai"),
        768,
        1711,
        "timm/vit_large_patch14_clip_224.openai",
        "large, about eighteen times slower",
    ),
    ClipModel(
        EncoderChoice("hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"),
        512,
        784,
        "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        "trained on figures of PubMed articles; needs the extra [hf]",
    ),
)


def chosen_encoder(mini: bool) -> EncoderChoice:
    """Return the encoder that a recipe and the environment select.

    Args:
        mini: Whether the recipe has the word `mini`; it wins over the environment.

    Returns:
        `MINI`, or what HIPPO_CLIP_MODEL (default: ViT-B-32), HIPPO_CLIP_WEIGHTS (default: openai; a tag or a
        checkpoint file; none for `hf-hub:` and `local-dir:`) and HIPPO_CLIP_PREPROCESS name; files and folders as
        absolute paths.

    Raises:
        ConfigError: HIPPO_CLIP_WEIGHTS is a path without a file, or is set although the model has its own weights; or
            it is a file and HIPPO_CLIP_MODEL is not set: a file does not tell which activation its weights were
            trained with, since OpenAI's belong to `ViT-B-32-quickgelu`, LAION's to `ViT-B-32`.
    """
    return MINI if mini else named_encoder(None, None)


def named_encoder(model: str | None, weights: str | None) -> EncoderChoice:
    """Return the encoder of two options, where None means what the environment says; see `chosen_encoder`."""
    if model == MINI.model:
        return EncoderChoice(model, weights or MINI.weights)
    if weights is None:
        own = model is not None and model.startswith((_HUB, _FOLDER))
        weights = "" if own else os.environ.get(WEIGHTS_VARIABLE, "")
    return encoder_choice(os.environ.get(MODEL_VARIABLE, "") if model is None else model, weights)


def encoder_choice(model: str, weights: str) -> EncoderChoice:
    """Return the encoder of a model's name and weights, each empty for the default; see `chosen_encoder`."""
    preprocess = os.environ.get(PREPROCESS_VARIABLE, "")
    if model.startswith((_HUB, _FOLDER)):
        return _self_contained(model, weights, preprocess)
    weights = weights or DEFAULT.weights
    if not is_file(weights):
        return EncoderChoice(model or DEFAULT.model, weights)
    path = _path(weights).absolute()
    if not path.is_file():
        raise ConfigError(f"{WEIGHTS_VARIABLE}={weights}: there is no such file; correct or unset it")
    if not model:
        raise ConfigError(
            f"{WEIGHTS_VARIABLE}={weights}: is a file, which does not say what architecture it belongs to: set "
            f"{MODEL_VARIABLE} too, to ViT-B-32-quickgelu for OpenAI's weights or ViT-B-32 for LAION's"
        )
    return EncoderChoice(model, str(path), preprocess)


def _self_contained(model: str, weights: str, preprocess: str) -> EncoderChoice:
    """Check the name of a model that brings its own weights."""
    if weights:
        raise ConfigError(f"{WEIGHTS_VARIABLE}={weights}: {model} has weights of its own; unset {WEIGHTS_VARIABLE}")
    choice = EncoderChoice(model, "", preprocess)
    if choice.folder is None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", choice.hub):
            raise ConfigError(f"CLIP model {model}: expected hf-hub:ORG/MODEL; correct {MODEL_VARIABLE}")
        return choice
    folder = _path(str(choice.folder)).absolute()
    if not folder.is_dir() or model == _FOLDER:
        raise ConfigError(f"CLIP model {model}: there is no such folder; correct {MODEL_VARIABLE}")
    return EncoderChoice(f"{_FOLDER}{folder}", "", preprocess)


def is_file(weights: str) -> bool:
    """Whether the weights are a path rather than a tag: an existing file, or anything with a separator in it."""
    return "/" in weights or os.sep in weights or _path(weights).is_file()


def _path(weights: str) -> Path:
    """Expand a leading `~`, where there is such a user."""
    try:
        return Path(weights).expanduser()
    except RuntimeError:
        return Path(weights)
