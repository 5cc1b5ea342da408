"""Data loaders of our trainers: in memory, or nnU-Net's own with a seed, a recipe's transforms or patch positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from hippo_nnunet.errors import UpstreamError
from hippo_nnunet.nnunet.memory_cases import load_bank, memory_shortfall
from hippo_nnunet.training.augmentation_spec import PUBLISHED, AugmentationSpec, stock_spec
from hippo_nnunet.training.memory_data import MemoryLoader, Sampling


def recipe_transforms(stock: Any, spec: AugmentationSpec, patch_size: Any, in_plane: bool) -> ComposeTransforms:
    """Replace nnU-Net's augmentation by a recipe's, and keep what nnU-Net does after it.

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


def build_transforms(spec: AugmentationSpec, patch_size: Sequence[int], in_plane: bool = False) -> list:
    """Return batchgeneratorsv2 transforms for one of the published recipes.

    Args:
        spec: One of PUBLISHED.
        patch_size: Final patch in voxels.
        in_plane: Whether a 3D patch is rotated within its slices only.

    Returns:
        Transforms in the order in which they run; the first one cuts the patch to its final size.
    """
    assert spec in PUBLISHED.values(), "others have more than mirroring, rotation and noise"
    transforms: list = [
        SpatialTransform(
            tuple(patch_size[1:]) if in_plane else tuple(patch_size),
            patch_center_dist_from_border=0,
            random_crop=False,
            p_elastic_deform=0,
            p_rotation=spec.rotation.p,
            rotation=spec.rotation.bounds if spec.rotation.p else (0, 0),
            p_scaling=0,
            border_mode_seg="constant",
            padding_value_seg=-1,
        )
    ]
    if in_plane:
        transforms = [Convert3DTo2DTransform(), *transforms, Convert2DTo3DTransform()]
    if spec.noise.p:
        # despite its name, batchgeneratorsv2 uses the number drawn from noise_variance as a standard deviation
        noise = GaussianNoiseTransform(noise_variance=spec.noise.bounds, p_per_channel=1, synchronize_channels=True)
        transforms.append(RandomTransform(noise, apply_probability=spec.noise.p))
    if spec.axes(len(patch_size)):
        transforms.append(MirrorTransform(allowed_axes=spec.axes(len(patch_size))))
    return transforms


def memory_loaders(trainer: Any) -> tuple[MemoryLoader, MemoryLoader] | None:
    """Return training and validation loaders that hold every case in memory: on the GPU that trains, else in RAM.

    Args:
        trainer: An initialised trainer of ours; its `augmentation` is what is done to the training patches, None for
            nnU-Net's own.

    Returns:
        Both loaders, or None, with a line in the training log, if nnU-Net's loader has to be used: in a cascade's
        second stage, and if the data does not fit.

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
    sampling = _sampling(trainer, in_plane)
    used = trainer.configuration_manager.use_mask_for_norm
    # the region is that of the slice itself, whose channels are the middle ones
    masked = tuple(i + sampling.slices // 2 * len(used) for i, uses in enumerate(used) if uses)
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
    # without a seed word, every training draws other batches, as in nnU-Net
    seed = trainer.fold_seed if trainer.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    return Sampling(
        batch_size=trainer.batch_size,
        patch_size=tuple(int(p) for p in trainer.configuration_manager.patch_size),
        foreground_share=trainer.oversample_foreground_percent,
        probabilistic=trainer.probabilistic_oversampling,
        annotated_key=(-1, *labels.all_labels),
        regions=tuple(regions) if regions is not None else None,
        target_scales=tuple(tuple(float(s) for s in scale) for scale in scales) if scales is not None else None,
        slices=trainer.recipe.slices,
        in_plane=in_plane,
        seed=(seed, trainer.local_rank),
    )


def seed_workers(loaders: tuple[Any, Any], seed: list[int]) -> None:
    """Seed nnU-Net's own loaders, and restart their worker processes with these seeds.

    The order in which several workers deliver is not deterministic, as in nnU-Net.

    Args:
        loaders: What `nnUNetTrainer.get_dataloaders` returns.
        seed: The fold's seed, the process's rank, and the epoch about to start, so that neither two processes nor a
            resumed training draw the same batches again.
    """
    np.random.seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    for stream, loader in enumerate(loaders):
        if isinstance(loader, NonDetMultiThreadedAugmenter):
            loader._finish()
            states = np.random.SeedSequence([*seed, stream]).generate_state(loader.num_processes)
            loader.seeds = [int(s) for s in states]
            next(loader)  # starts the workers


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
    """Let loaders that nnU-Net has made add `corners`; their worker processes are restarted.

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
