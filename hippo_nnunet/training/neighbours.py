"""Adjacent slices as channels of a 2D network: recipes with a word such as `5slices`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hippo_nnunet.errors import ConfigError


def with_neighbours(image: torch.Tensor, slices: int) -> torch.Tensor:
    """Return an image whose channels are those of adjacent slices along the first axis, 0 outside the image.

    Args:
        image: (channel, z, y, x).
        slices: An odd number.

    Returns:
        (slices * channel, z, y, x): channels of the first neighbour, then of the next; the middle ones are the own.
    """
    beside = slices // 2
    padded = nn.functional.pad(image, (0, 0, 0, 0, beside, beside))
    return torch.cat([padded[:, shift : shift + image.shape[1]] for shift in range(slices)])


def require_neighbours(network: nn.Module, slices: int, channels: int) -> None:
    """Let a network say how many slices it sees, and refuse other patches: nnU-Net's predictor passes single slices.

    Args:
        network: Its first argument is a batch of patches; gets the attribute `slices`.
        slices: An odd number.
        channels: Those of all slices.
    """
    network.slices = slices  # type: ignore[assignment]

    def check(_network: nn.Module, inputs: tuple[Any, ...]) -> None:
        found = inputs[0].shape[1]
        if found != channels:
            raise ConfigError(
                f"the network sees adjacent slices as {channels} channels, and got {found}: predict with "
                "'hippo-nnunet predict', since nnU-Net's own predictor passes single slices"
            )

    network.register_forward_pre_hook(check)


def slices_of(network: nn.Module) -> int:
    """Return how many adjacent slices a network sees."""
    return int(getattr(network, "slices", 1))
