"""nnU-Net's own data loader with the place of each patch in the batch."""

from __future__ import annotations

from typing import Any

import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader


class PositionedDataLoader(nnUNetDataLoader):
    """`nnUNetDataLoader` whose batches have `corners` as well.

    `corners` is an int64 tensor (batch, 3): the lower corner of each final patch in voxels of the preprocessed case
    (in 2D the first number is the slice), before rotation, scaling and mirroring. It may lie outside the case.
    """

    @classmethod
    def from_plain(cls, loader: nnUNetDataLoader) -> PositionedDataLoader:
        """Return a loader with the settings of a given one."""
        made = cls.__new__(cls)
        made.__dict__.update(loader.__dict__)
        return made

    def get_bbox(self, *args: Any, **kwargs: Any) -> tuple[list[int], list[int]]:
        """Draw the larger patch that is augmented, as nnU-Net does, and note the corner of the final one within."""
        lower, upper = super().get_bbox(*args, **kwargs)
        sizes = zip(lower, self.patch_size, self.final_patch_size, strict=True)
        # as batchgeneratorsv2's crop_tensor
        self._corners.append([int(low) + int(size) // 2 - int(final) // 2 for low, size, final in sizes])
        return lower, upper

    def generate_train_batch(self) -> dict[str, Any]:
        """Return nnU-Net's batch with `corners`."""
        self._corners: list[list[int]] = []
        batch: dict[str, Any] = super().generate_train_batch()
        return {**batch, "corners": torch.tensor(self._corners)}


def add_positions(loaders: tuple[Any, Any]) -> None:
    """Let loaders that nnU-Net has made add `corners`; their worker processes are started anew.

    Args:
        loaders: What `nnUNetTrainer.get_dataloaders` returns.
    """
    for loader in loaders:
        if isinstance(loader, NonDetMultiThreadedAugmenter):
            loader._finish()
            loader.generator = PositionedDataLoader.from_plain(loader.generator)
            next(loader)  # starts the workers
        else:
            loader.data_loader = PositionedDataLoader.from_plain(loader.data_loader)
