"""From a slice as nnU-Net normalises it to the input that a CLIP model was trained with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from hippo_nnunet.errors import ConfigError

# nnU-Net's z-scores: about 99.7 % of a normal distribution.
INTENSITY_WINDOW = (-3.0, 3.0)


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of one CLIP model.

    Args:
        size: Side of the square input, pixels.
        mean: Mean of each of three channels, after scaling to [0, 1].
        std: Standard deviation of each of them.
        interpolation: `bicubic` or `bilinear`; both antialiased.
        window: Intensities that become 0 and 1; what lies outside is clamped.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    window: tuple[float, float] = INTENSITY_WINDOW

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Take the values over from `visual.preprocess_cfg` of an open_clip model.

        Args:
            config: open_clip's values: `size`, `mean`, `std`, `interpolation` and `resize_mode`; the last is ignored,
                since a slice is padded to a square first.

        Returns:
            The preprocessing.

        Raises:
            ConfigError: The model takes images that are not square.
        """
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        if height != width:
            raise ConfigError(f"CLIP model: takes images of {height}x{width}, expected a square; choose another model")
        # open_clip itself takes "random" for bicubic outside training.
        interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        return cls(int(height), tuple(config["mean"]), tuple(config["std"]), interpolation)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that change with any of the values."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def __call__(self, slices: torch.Tensor) -> torch.Tensor:
        """Prepare slices.

        Args:
            slices: Shape (n, c, y, x), any float type, normalised by nnU-Net (z-scores). One channel is repeated,
                three are used as they are, any other number is averaged.

        Returns:
            float32, shape (n, 3, size, size), on the same device: windowed to [0, 1], padded to a square with 0
            around the middle, resized, clamped to [0, 1] as 8-bit images are, normalised. A NaN stays a NaN.

        Source: open_clip's `image_transform`, without cropping; the window is ours, since CLIP saw 8-bit images.
        """
        low, high = self.window
        image = ((slices.float() - low) / (high - low)).clamp(0, 1)
        if image.shape[1] not in (1, 3):
            image = image.mean(dim=1, keepdim=True)
        image = F.interpolate(_square(image), (self.size, self.size), mode=self.interpolation, antialias=True)
        image = image.clamp(0, 1).expand(-1, 3, -1, -1)
        mean, std = (image.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (image - mean) / std


def _square(image: torch.Tensor) -> torch.Tensor:
    height, width = image.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(image, (left, side - width - left, top, side - height - top))
