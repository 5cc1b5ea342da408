"""A frozen CLIP encoder: slices and prompts in, embeddings of unit length out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from hippo_nnunet.clip.loading import load_model
from hippo_nnunet.clip.models import CLIP_MODELS, DEFAULT, MINI, EncoderChoice, chosen_encoder
from hippo_nnunet.clip.preprocessing import Preprocessing

# What belongs to choosing is importable from here too.
__all__ = ["CLIP_MODELS", "DEFAULT", "MINI", "CLIPEncoder", "EncoderChoice", "chosen_encoder", "load_encoder"]

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 2**20
# Of activations, for each byte of a prepared image: twice what the widest layers of ViT-B-32 and ViT-B-16 hold.
_ACTIVATIONS_PER_BYTE = 8


class CLIPEncoder:
    """A CLIP model that is never trained: no module, so that it enters no state dict and no optimiser.

    Args:
        name: Model and weights, for records.
        model: open_clip model; put into evaluation mode, its gradients switched off.
        tokenizer: From prompts to tokens, int64, shape (n, context).
        preprocessing: The model's own.
        quick_gelu: Whether its activation is OpenAI's QuickGELU.

    Attributes:
        name: As given.
        sha256: 64 hexadecimal digits over all that decides an embedding: see `encoder_sha256`.
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
            slices: Shape (n, c, y, x), any float type, normalised by nnU-Net (z-scores), in voxels of any size.

        Returns:
            float32, shape (n, embed_dim), unit length, on the device of the slices, without gradient; in float32 also
            under autocast. A slice with a NaN gives NaNs.
        """
        if slices.device != self._image_device:
            self._model.visual.to(slices.device)
            self._image_device = slices.device
        image_bytes = 4 * 3 * self.preprocessing.size**2
        chunk = max(1, _CHUNK_BYTES // (_ACTIVATIONS_PER_BYTE * image_bytes))
        with torch.autocast(slices.device.type, enabled=False):
            embeddings = [self._model.encode_image(self.preprocessing(part)) for part in slices.split(chunk)]
            return F.normalize(torch.cat(embeddings).float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embed prompts; the text tower stays on the CPU, so that the same prompt gives the same numbers everywhere.

        Args:
            prompts: At least one. What does not fit the model's context (77 tokens, `mini` 48) is cut off.

        Returns:
            float32, shape (n, embed_dim), unit length, on the CPU.
        """
        with torch.autocast("cpu", enabled=False):
            embeddings = self._model.encode_text(self._tokenizer(list(prompts)))
            return F.normalize(embeddings.float(), dim=-1)


def encoder_sha256(state: Mapping[str, torch.Tensor], preprocessing: Preprocessing, quick_gelu: bool) -> str:
    """Hash all that decides an embedding.

    Args:
        state: The model's whole state dict.
        preprocessing: Of the images.
        quick_gelu: The activation, which the weights do not tell.

    Returns:
        64 hexadecimal digits over names (sorted), shapes and values as little-endian float32, then activation and
        preprocessing: the same for a pickle, a safetensors file and a download of the same weights.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().astype("<f4", copy=False).tobytes())
    digest.update(f"quick_gelu={quick_gelu} preprocessing={preprocessing.key}".encode())
    return digest.hexdigest()


@lru_cache(maxsize=2)
def load_encoder(choice: EncoderChoice) -> CLIPEncoder:
    """Load an encoder; the same object for the same choice.

    Args:
        choice: Encoder.

    Returns:
        The encoder, its weights loaded strictly; its image tower is on the CPU until it meets other slices.

    Raises:
        ConfigError: There is no such model, tag or file, or the file holds other weights than the model's.
        DependencyError: The weights are neither at hand nor reachable (within 5 seconds), open_clip is missing, or a
            downloaded file is damaged. Never are other or random weights taken instead.
    """
    loaded = load_model(choice)
    encoder = CLIPEncoder(choice.name, loaded.model, loaded.tokenizer, loaded.preprocessing, loaded.quick_gelu)
    logger.info("CLIP encoder %s: sha256 %s", encoder.name, encoder.sha256[:12])
    return encoder
