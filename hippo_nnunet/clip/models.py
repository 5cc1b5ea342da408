"""The known CLIP encoders, and the one that recipe and environment select. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.errors import ConfigError

MODEL_VARIABLE = "HIPPO_CLIP_MODEL"
WEIGHTS_VARIABLE = "HIPPO_CLIP_WEIGHTS"
TRUST_VARIABLE = "HIPPO_TRUST_CLIP_WEIGHTS"

# The bundled encoder, in the layout of open_clip's `local-dir:` models.
MINI_FOLDER = Path(__file__).parent / "mini"
# How it was trained, with the hash of the encoder.
MINI_RECORD = MINI_FOLDER / "training.json"


@dataclass(frozen=True)
class EncoderChoice:
    """A CLIP encoder, whether its weights are on this machine or not.

    Args:
        model: open_clip's name of the architecture, such as `ViT-B-32`, or `mini`.
        weights: open_clip's tag of pretrained weights, such as `openai`, or the path of a checkpoint file; `bundled`
            for `mini`.
    """

    model: str
    weights: str

    @property
    def name(self) -> str:
        """Model and tag, or model and file name: the same on every machine."""
        return f"{self.model}/{Path(self.weights).name}"


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

# What `list` and `clip info` show; any other name and tag of open_clip works as well.
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
)


def chosen_encoder(mini: bool) -> EncoderChoice:
    """Return the encoder that a recipe and the environment select.

    Args:
        mini: Whether the recipe has the word `mini`; it wins over the environment.

    Returns:
        `MINI`, or what HIPPO_CLIP_MODEL (default: ViT-B-32) and HIPPO_CLIP_WEIGHTS (default: openai; a tag or a
        checkpoint file) name; a file as an absolute path.

    Raises:
        ConfigError: HIPPO_CLIP_WEIGHTS is a path without a file, or it is a file and HIPPO_CLIP_MODEL is not
            set: a file does not tell which activation its weights were trained with, since OpenAI's belong to
            `ViT-B-32-quickgelu`, LAION's to `ViT-B-32`.
    """
    if mini:
        return MINI
    model = os.environ.get(MODEL_VARIABLE, "")
    weights = os.environ.get(WEIGHTS_VARIABLE, "") or DEFAULT.weights
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
    return EncoderChoice(model, str(path))


def is_file(weights: str) -> bool:
    """Whether the weights are a path rather than a tag: an existing file, or anything with a separator in it."""
    return "/" in weights or os.sep in weights or _path(weights).is_file()


def _path(weights: str) -> Path:
    """Expand a leading `~`, where there is such a user."""
    try:
        return Path(weights).expanduser()
    except RuntimeError:
        return Path(weights)
