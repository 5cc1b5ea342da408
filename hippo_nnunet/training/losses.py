"""The loss words: what they change in nnU-Net's compound loss, for labels, regions and the ignore label alike."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn
from torch.nn import functional

GAMMA = 2.0
"""Focusing exponent. Source: Lin et al. 2017 (arXiv:1708.02002), equation 4 and section 4.1."""


class FocalLoss(nn.Module):
    """Focal loss of softmax logits; replaces the cross-entropy in nnU-Net's compound loss.

    Args:
        gamma: Focusing exponent; 0 gives cross-entropy.
        ignore_index: Label whose voxels do not count; None where every voxel does.
    """

    def __init__(self, gamma: float = GAMMA, ignore_index: int | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.ignore_index = -100 if ignore_index is None else ignore_index

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean over voxels that count; 0 where none does.

        Args:
            logits: (batch, class, *spatial).
            target: (batch, *spatial), label numbers of any numeric type.
        """
        target = target.long()
        entropy = functional.cross_entropy(logits, target, ignore_index=self.ignore_index, reduction="none")
        focal = (1 - torch.exp(-entropy)) ** self.gamma * entropy
        return focal.sum() / (target != self.ignore_index).sum().clamp(min=1)


class BinaryFocalLoss(nn.Module):
    """Focal loss of sigmoid logits; replaces the binary cross-entropy in nnU-Net's region loss.

    Args:
        reduction: `mean`, or `none` for one value per voxel and region (nnU-Net masks those itself).
    """

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (batch, region, *spatial) against a target of the same shape, 0 or 1."""
        entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        focal = (1 - torch.exp(-entropy)) ** GAMMA * entropy
        return focal.mean() if self.reduction == "mean" else focal


class LabelCrossEntropy(FocalLoss):
    """Cross-entropy that replaces nnU-Net's whole compound loss.

    nnU-Net's own, with the weight of Dice at 0, returns a plain number without gradient where every voxel is ignored.

    Args:
        ignore_index: Label whose voxels do not count; None where every voxel does.
    """

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__(gamma=0.0, ignore_index=ignore_index)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean over voxels that count, for logits (batch, class, *spatial), target (batch, 1, *spatial)."""
        return super().forward(logits, target[:, 0])


def apply_loss_word(loss: nn.Module, word: str | None, has_regions: bool, ignore_label: int | None) -> nn.Module:
    """Turn nnU-Net's loss into the one that a recipe word names.

    Args:
        loss: `DC_and_CE_loss` or, with regions, `DC_and_BCE_loss`; bare or in a `DeepSupervisionWrapper`.
        word: `dice`, `ce`, `diceFocal`, or None to leave the loss as it is.
        has_regions: Whether labels overlap, so that outputs are sigmoids.
        ignore_label: Label whose voxels do not count, or None.

    Returns:
        The loss, changed in place, or its replacement.
    """
    wrapped = isinstance(loss, DeepSupervisionWrapper)
    compound: Any = loss.loss if wrapped else loss
    if word == "dice":
        compound.weight_ce = 0
    elif word == "ce" and has_regions:
        compound.weight_dice = 0
    elif word == "ce":
        entropy = LabelCrossEntropy(ignore_label)
        if not wrapped:
            return entropy
        loss.loss = entropy
    elif word == "diceFocal" and has_regions:
        compound.ce = BinaryFocalLoss("mean" if ignore_label is None else "none")
    elif word == "diceFocal":
        compound.ce = FocalLoss(ignore_index=ignore_label)
    return loss
