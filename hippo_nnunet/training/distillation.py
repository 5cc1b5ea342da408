"""Distillation: a network learns what other networks predict for its patches, besides the labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

SHARE = 0.5
"""Share of the teachers in the loss; the rest is the labels'. Source: ours; other shares were not tried."""


class Teachers(nn.Module):
    """The mean probabilities of frozen networks.

    Args:
        networks: With softmax outputs, such as those of nnU-Net without regions; changed to evaluation mode.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of patches (batch, channels, *patch): float32, (batch, classes, *patch)."""
        found = [torch.softmax(full_resolution(network(patches)).float(), 1) for network in self.networks]
        return torch.stack(found).mean(0)


def full_resolution(outputs: Any) -> torch.Tensor:
    """Return a network's logits at full resolution, with deep supervision or without."""
    logits: torch.Tensor = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    return logits


def taught_loss(loss: torch.Tensor, outputs: Any, probabilities: torch.Tensor) -> torch.Tensor:
    """Return the labels' loss and the cross-entropy with the teachers' probabilities, weighted by `SHARE`.

    Args:
        loss: Of the outputs and the labels.
        outputs: Logits of the student, (batch, classes, *patch), or a list of them, highest resolution first.
        probabilities: Of `Teachers`, for the same augmented patches.

    Source: Hinton et al. 2015, arXiv:1503.02531 (without a temperature); Beyer et al. 2022, arXiv:2106.05237, for
    showing teachers and student the same augmented image.
    """
    taught = F.cross_entropy(full_resolution(outputs).float(), probabilities)
    return (1 - SHARE) * loss + SHARE * taught
