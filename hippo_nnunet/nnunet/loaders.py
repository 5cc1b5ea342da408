"""Data loaders for our trainers, out of nnU-Net's parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

from hippo_nnunet.errors import UpstreamError
from hippo_nnunet.nnunet.memory_cases import load_bank, memory_shortfall
from hippo_nnunet.training.augmentation import AugmentationSpec, build_transforms, stock_spec
from hippo_nnunet.training.memory_data import MemoryLoader, Sampling


def recipe_transforms(stock: Any, spec: AugmentationSpec, patch_size: Any, in_plane: bool) -> ComposeTransforms:
    """Put a recipe's augmentation in the place of nnU-Net's, and keep what nnU-Net does after it.

    Args:
        stock: nnU-Net's training transforms.
        spec: The recipe.
        patch_size: Final patch in voxels.
        in_plane: Whether a 3D patch is augmented slice by slice.

    Raises:
        UpstreamError: nnU-Net's list no longer has the transform that ends its augmentation.
    """
    ends = [i for i, t in enumerate(stock.transforms) if isinstance(t, (MaskImageTransform, RemoveLabelTansform))]
    if not ends:
        raise UpstreamError("nnU-Net's training transforms hold no RemoveLabelTansform: use a tested nnU-Net, 2.8.x")
    return ComposeTransforms([*build_transforms(spec, patch_size, in_plane), *stock.transforms[ends[0] :]])


def memory_loaders(trainer: Any) -> tuple[MemoryLoader, MemoryLoader] | None:
    """Return training and validation loaders that hold every case in memory: on the GPU that trains, else in RAM.

    Args:
        trainer: An initialised trainer of ours; its `augmentation` is what is done to the training patches, None for
            nnU-Net's own.

    Returns:
        Both loaders, or None, with a line in the training log, where the ordinary loader must serve: in a cascade's
        second stage, and where the data does not fit.

    Raises:
        DataError: A preprocessed file is missing or cannot be read; names the case.
    """
    device = trainer.device if trainer.device.type == "cuda" else torch.device("cpu")
    labels = trainer.label_manager
    label_dtype = torch.int8 if max([*labels.all_labels, labels.ignore_label or 0]) <= 127 else torch.int16
    train, validation = trainer.get_tr_and_val_datasets()
    reason = (
        "a cascade's second stage needs the first stage's segmentations"
        if trainer.is_cascaded
        else memory_shortfall([train, validation], device, label_dtype.itemsize)
    )
    if reason is not None:
        trainer.print_to_log_file(f"Using nnU-Net's own data loader, not the one in memory: {reason}")
        return None
    # sets the axes mirrored at inference, too, which nnU-Net stores in the checkpoint
    rotation, in_plane, initial_patch_size, mirror_axes = (
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    )
    augmentation = trainer.augmentation or stock_spec(rotation, initial_patch_size, mirror_axes)
    masked = tuple(i for i, used in enumerate(trainer.configuration_manager.use_mask_for_norm) if used)
    sampling = _sampling(trainer, in_plane)
    return (
        MemoryLoader(
            load_bank(train, device, label_dtype),
            replace(sampling, seed=(*sampling.seed, 0), masked_channels=masked),
            augmentation,
        ),
        MemoryLoader(
            load_bank(validation, device, label_dtype), replace(sampling, seed=(*sampling.seed, 1)), AugmentationSpec()
        ),
    )


def _sampling(trainer: Any, in_plane: bool) -> Sampling:
    labels = trainer.label_manager
    regions = None
    if labels.has_regions:
        regions = [r if isinstance(r, tuple) else (int(r),) for r in labels.foreground_regions]
        if labels.has_ignore_label:
            regions.append((labels.ignore_label,))
    scales = trainer._get_deep_supervision_scales()
    # without a seed of its own, a training draws what no other has drawn, as nnU-Net's does
    seed = trainer.seed if trainer.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    return Sampling(
        batch_size=trainer.batch_size,
        patch_size=tuple(int(p) for p in trainer.configuration_manager.patch_size),
        foreground_share=trainer.oversample_foreground_percent,
        probabilistic=trainer.probabilistic_oversampling,
        annotated_key=(-1, *labels.all_labels),
        regions=tuple(regions) if regions is not None else None,
        target_scales=tuple(tuple(float(s) for s in scale) for scale in scales) if scales is not None else None,
        in_plane=in_plane,
        seed=(seed, trainer.local_rank),
    )


def seed_workers(loaders: tuple[Any, Any], seed: list[int]) -> None:
    """Seed nnU-Net's own loaders, and start their worker processes anew with these seeds.

    The order in which several workers deliver is left to the machine, as nnU-Net leaves it.

    Args:
        loaders: What `nnUNetTrainer.get_dataloaders` returns.
        seed: The repeat's seed, the process's rank, and the epoch about to start, so that neither two processes nor a
            resumed training draw the same batches again.
    """
    np.random.seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    for stream, loader in enumerate(loaders):
        if isinstance(loader, NonDetMultiThreadedAugmenter):
            loader._finish()
            states = np.random.SeedSequence([*seed, stream]).generate_state(loader.num_processes)
            loader.seeds = [int(s) for s in states]
            next(loader)  # starts the workers
