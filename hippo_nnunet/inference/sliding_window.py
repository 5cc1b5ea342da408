"""An image's logits from those of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image

from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.windows import Window, windows
from hippo_nnunet.networks.guidance import SliceView


@dataclass(frozen=True)
class PreprocessedImage:
    """A preprocessed image; `BatchedPredictor.seen` adds the adjacent slices that a network may see.

    Attributes:
        voxels: float32 (channel, z, y, x), neither padded nor mirrored.
        embeddings: Filled by the CLIP-guided models that predict it, and shared between them: encoder's hash, axis and
            view to the embedding of each slice, (slices, embed_dim).
        directions: Direction in which each axis grows; see `hippo_nnunet.clip.orientation.axis_directions`.
    """

    voxels: torch.Tensor
    embeddings: dict[tuple[str, int, SliceView], torch.Tensor] = field(default_factory=dict)
    directions: str = ""


class OpenImage:
    """An image under prediction; its sums are float32, where nnU-Net's are float16.

    Args:
        image: float32 (channel, z, y, x), preprocessed; padded with zeros to the patch where it is smaller.
        patch_size: See `windows`.
        heads: Number of segmentation heads.
        weight: Weight of a patch's logits, float32 (*patch), on the device that holds image and sums.

    Attributes:
        windows: Its patches.
        padding: Voxels padded before it along z, y and x.
        waiting: Number of patches whose logits are missing.
    """

    def __init__(self, image: torch.Tensor, patch_size: Sequence[int], heads: int, weight: torch.Tensor) -> None:
        padded, inner = pad_nd_image(image, tuple(patch_size), "constant", {"value": 0}, True, None)
        where = weight.device
        self._image = padded.to(where)
        self._weight = weight
        self._inner = (slice(None), *inner[1:])
        self.windows = windows(padded.shape[1:], patch_size)
        self.padding = [int(part.start or 0) for part in inner[1:]]
        self.waiting = len(self.windows)
        self._sum = torch.zeros((heads, *padded.shape[1:]), device=where)
        self._weights = torch.zeros(padded.shape[1:], device=where)

    def patch(self, window: Window) -> torch.Tensor:
        """Return a patch (channel, *patch)."""
        return self._image[window]

    def add(self, window: Window, logits: torch.Tensor) -> None:
        """Add a patch's logits (head, *patch)."""
        self._sum[window] += logits.to(self._weight.device) * self._weight
        self._weights[window[1:]] += self._weight
        self.waiting -= 1

    def logits(self) -> torch.Tensor:
        """Return the image's logits, float32 (head, z, y, x), on the CPU, without the padding; see `check_finite`."""
        return (self._sum / self._weights)[self._inner].cpu()


def check_finite(logits: torch.Tensor) -> torch.Tensor:
    """Return logits unchanged.

    Raises:
        DataError: They hold infinity or NaN.
    """
    if torch.isfinite(logits).all():
        return logits
    raise DataError(
        "the network returned infinite numbers or NaN: the image holds such numbers, or the training diverged; "
        "check the image, else train again for longer or in float32"
    )
