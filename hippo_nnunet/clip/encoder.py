"""A frozen CLIP encoder: slices and prompts in, embeddings of unit length out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from hippo_nnunet.clip.loading import load_model
from hippo_nnunet.clip.models import CLIP_MODELS, EncoderChoice, chosen_encoder, named_encoder
from hippo_nnunet.clip.orientation import CONVENTION
from hippo_nnunet.clip.patch_tokens import patch_tokens
from hippo_nnunet.clip.preprocessing import Preprocessing
from hippo_nnunet.clip.weights import cached_file, weights_file

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 2**20
# Bytes of activations for each byte of a prepared image: twice what the widest layers of ViT-B-32 and ViT-B-16 hold.
_ACTIVATIONS_PER_BYTE = 8


class CLIPEncoder:
    """A frozen CLIP model; not a module, so that it is in no state dict and no optimiser.

    Args:
        name: Model and weights, for records.
        model: open_clip model; put into evaluation mode, its gradients switched off.
        tokenizer: From prompts to tokens, int64, shape (n, context).
        preprocessing: The model's own.
        quick_gelu: Whether its activation is OpenAI's QuickGELU.

    Attributes:
        name: As given.
        sha256: 64 hexadecimal digits of everything that determines an embedding: see `encoder_sha256`.
        embed_dim: Length of an embedding.
        logit_scale: CLIP's own inverse temperature, already exponentiated; 100 for OpenAI's.
        preprocessing: As given.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Callable[[list[str]], torch.Tensor],
        preprocessing: Preprocessing,
        quick_gelu: bool,
    ) -> None:
        self.name = name
        self.preprocessing = preprocessing
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._image_device = torch.device("cpu")
        self.sha256 = encoder_sha256(model.state_dict(), preprocessing, quick_gelu)
        self.logit_scale = float(model.logit_scale.exp())
        self.embed_dim = self.encode_text(["a"]).shape[1]

    @torch.no_grad()
    def encode_image(self, slices: torch.Tensor) -> torch.Tensor:
        """Embed slices; the image tower moves to their device and stays there.

        Args:
            slices: Shape (n, c, y, x), any float type, normalised by nnU-Net (z-scores), in voxels of any size, shown
                as `hippo_nnunet.clip.orientation` says.

        Returns:
            float32, shape (n, embed_dim), unit length, on the device of the slices, without gradient; in float32 also
            under autocast. A slice with a NaN gives NaNs.
        """
        return F.normalize(self._in_chunks(self._model.encode_image, slices).float(), dim=-1)

    @torch.no_grad()
    def encode_patches(self, slices: torch.Tensor) -> torch.Tensor:
        """Embed the patches of slices: see `patch_tokens`.

        Args:
            slices: As for `encode_image`.

        Returns:
            float32, shape (n, embed_dim, rows, columns), unit length along the second axis; the map covers the slice,
            padded to a square around its middle. Otherwise as `encode_image`.

        Raises:
            ConfigError: The image tower has no tokens of patches.
        """
        return self._in_chunks(lambda images: patch_tokens(self._model.visual, images, self.name), slices)

    def _in_chunks(self, tower: Callable[[torch.Tensor], torch.Tensor], slices: torch.Tensor) -> torch.Tensor:
        if slices.device != self._image_device:
            self._model.visual.to(slices.device)
            self._image_device = slices.device
        image_bytes = 4 * 3 * self.preprocessing.size**2
        chunk = max(1, _CHUNK_BYTES // (_ACTIVATIONS_PER_BYTE * image_bytes))
        with torch.autocast(slices.device.type, enabled=False):
            return torch.cat([tower(self.preprocessing(part)) for part in slices.split(chunk)])

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embed prompts; the text tower stays on the CPU, so that the same prompt gives the same numbers everywhere.

        Args:
            prompts: At least one. Prompts longer than the model's context (77 tokens, `mini` 48) are truncated.

        Returns:
            float32, shape (n, embed_dim), unit length, on the CPU.
        """
        with torch.autocast("cpu", enabled=False):
            embeddings = self._model.encode_text(self._tokenizer(list(prompts)))
            return F.normalize(embeddings.float(), dim=-1)


def encoder_sha256(state: Mapping[str, torch.Tensor], preprocessing: Preprocessing, quick_gelu: bool) -> str:
    """Hash everything that determines an embedding.

    Args:
        state: The model's whole state dict.
        preprocessing: Of the images.
        quick_gelu: The activation, which the weights do not record.

    Returns:
        64 hexadecimal digits over names (sorted), shapes and values as little-endian float32, then activation,
        preprocessing and the orientation in which slices are shown: the same for a pickle, a safetensors file and a
        download of the same weights.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().astype("<f4", copy=False).tobytes())
    digest.update(f"quick_gelu={quick_gelu} preprocessing={preprocessing.key} slices={CONVENTION}".encode())
    return digest.hexdigest()


@lru_cache(maxsize=2)
def load_encoder(choice: EncoderChoice) -> CLIPEncoder:
    """Load an encoder; the same object for the same choice.

    Returns:
        The encoder, its weights loaded strictly; its image tower is on the CPU until it meets other slices.

    Raises:
        ConfigError: There is no such model, tag or file, or the file holds weights of another model.
        DependencyError: The weights are neither on this machine nor reachable within 3 seconds, open_clip is missing,
            or a downloaded file is damaged. Other or random weights are never used instead.
    """
    encoder = CLIPEncoder(choice.name, *load_model(choice))
    logger.info("CLIP encoder %s: sha256 %s", encoder.name, encoder.sha256[:12])
    return encoder


@dataclass(frozen=True)
class InventoryRow:
    """One encoder.

    Args:
        model: Architecture.
        weights: Tag or file.
        chosen: Whether a recipe without `mini` would take it now.
        file: Its checkpoint; None if it has not been downloaded.
        size_bytes: Size of the checkpoint; None if it has not been downloaded.
        sha256: Hash of the encoder, as checkpoints record it; None if it has not been downloaded.
        embed_dim: Length of an embedding; None if neither the table nor a checkpoint has it.
    """

    model: str
    weights: str
    chosen: bool
    file: str | None
    size_bytes: int | None
    sha256: str | None
    embed_dim: int | None


def fetch_encoder(model: str | None = None, weights: str | None = None) -> Path:
    """Get the weights of an encoder, and check that they load.

    Args:
        model: open_clip's model name; None for what the environment says.
        weights: open_clip's tag, or a file; None for what the environment says.

    Returns:
        The checkpoint file.

    Raises:
        ConfigError: There is no such model, tag or file, or the file does not fit the model.
        DependencyError: The weights cannot be downloaded or do not load, or open_clip is missing.
    """
    choice = named_encoder(model, weights)
    path = weights_file(choice)
    load_encoder(choice)
    return path


def inventory() -> list[InventoryRow]:
    """Look up the known encoders and the one that the environment selects.

    Returns:
        One row each. Encoders on this machine are loaded strictly and hashed, which takes seconds for each.

    Raises:
        ConfigError: The environment names a model, tag or file that does not exist or does not load.
        DependencyError: A downloaded file does not load, or open_clip is missing.
    """
    chosen = chosen_encoder(mini=False)
    known = [model.choice for model in CLIP_MODELS]
    return [_row(choice, chosen) for choice in (known if chosen in known else [*known, chosen])]


def _row(choice: EncoderChoice, chosen: EncoderChoice) -> InventoryRow:
    file, named = cached_file(choice), (choice.model, choice.weights, choice == chosen)
    if file is None:
        embed_dim = next((model.embed_dim for model in CLIP_MODELS if model.choice == choice), None)
        return InventoryRow(*named, None, None, None, embed_dim)
    encoder = load_encoder(choice)
    return InventoryRow(*named, str(file), file.stat().st_size, encoder.sha256, encoder.embed_dim)
