"""Training with labels that leave open which part of a structure a voxel belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from hippo_nnunet.errors import ConfigError

PARTIAL_LABELS = "partial_labels"
"""Key of dataset.json: label value to the names of the regions of which it does not tell whether they are there."""

_CERTAINLY_NOT = -1e4
# A logit whose sigmoid is exactly 0, also in half precision.


class PartialLabelLoss(nn.Module):
    """A loss of regions that does not count the voxels of a region whose label leaves it open.

    Args:
        loss: nnU-Net's loss of logits (batch, region, *spatial) against a target of that shape, 0 or 1; the target may
            have the ignore label as last channel.
        members: Whether each of the partial labels belongs to each region, bool (label, region).
        unknown: Whether it leaves the region open, bool (label, region).
    """

    members: torch.Tensor
    unknown: torch.Tensor

    def __init__(self, loss: nn.Module, members: torch.Tensor, unknown: torch.Tensor) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("unknown", unknown, persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss; a voxel is recognised as partially labelled by the regions that its target has."""
        regions = self.members.shape[1]
        target = target.bool()
        shape = (1, regions, *[1] * (target.dim() - 2))
        ignored = torch.zeros_like(target)
        for members, unknown in zip(self.members.to(target.device), self.unknown.to(target.device), strict=True):
            here = (target[:, :regions] == members.view(shape)).all(1, keepdim=True)
            ignored[:, :regions] |= here & unknown.view(shape)
        value: torch.Tensor = self.loss(
            logits.masked_fill(ignored[:, :regions], _CERTAINLY_NOT), (target & ~ignored).float()
        )
        return value


def with_partial_labels(loss: nn.Module, dataset_json: Mapping[str, Any]) -> nn.Module:
    """Let a loss leave out what the data set's labels leave open; see ``PARTIAL_LABELS``.

    Args:
        loss: nnU-Net's for regions; bare or in a `DeepSupervisionWrapper`.
        dataset_json: Content of dataset.json.

    Returns:
        The loss as it is without that key, else changed.

    Raises:
        ConfigError: A label or region does not exist, the labels do not overlap, a label belongs to a region that it
            leaves open, or another label has the same regions.
    """
    partial = dataset_json.get(PARTIAL_LABELS)
    if not partial:
        return loss
    regions = {
        name: set(values) if isinstance(values, Sequence) else {values}
        for name, values in dataset_json["labels"].items()
        if name not in ("background", "ignore")
    }
    if not any(len(values) > 1 for values in regions.values()):
        raise ConfigError(f"dataset.json: {PARTIAL_LABELS} needs labels that overlap (regions), got {regions}")
    members, unknown = [], []
    for label, names in partial.items():
        value = int(label)
        missing = [name for name in names if name not in regions]
        if missing:
            raise ConfigError(f"dataset.json: {PARTIAL_LABELS} names {missing[0]!r}; the regions are {list(regions)}")
        member = [value in values for values in regions.values()]
        if any(value in regions[name] for name in names) or not any(member):
            raise ConfigError(
                f"dataset.json: {PARTIAL_LABELS}: label {value} must belong to a region, and to none of {list(names)}"
            )
        others = {other for values in regions.values() for other in values} - {value}
        same = [other for other in others if [other in values for values in regions.values()] == member]
        if same:
            raise ConfigError(
                f"dataset.json: {PARTIAL_LABELS}: labels {value} and {same[0]} belong to the same regions, so they "
                "cannot be told apart; give each label its own regions"
            )
        members.append(member)
        unknown.append([name in names for name in regions])
    flags = torch.tensor(members), torch.tensor(unknown)
    if isinstance(loss, DeepSupervisionWrapper):
        loss.loss = PartialLabelLoss(loss.loss, *flags)
        return loss
    return PartialLabelLoss(loss, *flags)
