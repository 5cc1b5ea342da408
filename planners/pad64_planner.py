"""A planner that reproduces the published padding to 64 voxels per axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from hippo_nnunet.planners.base import PlannerWithDefaults

PATCH_EDGE = 64
"""Edge of every patch in voxels."""

_UNLIMITED_POOLING = 999999  # as nnU-Net's planner


class Pad64Planner(PlannerWithDefaults):
    """Plan patches of 64x64x64 (64x64 in 2d) and z-score normalization.

    nnU-Net pads an image that is smaller than the patch, with zeros after normalization, and samples patches from a
    larger one. Topology follows from patch and spacing, the batch size from nnU-Net's memory rule.

    Source:
        The published Task04_Hippocampus notebooks, which pad each volume to 64x64x64 and normalize it by its z-score.
    """

    defaults: ClassVar = {"plans_name": "Pad64Plans"}

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(self) -> tuple[list[str], list[bool]]:
        """Use the z-score for every channel, within the nonzero region only if nnU-Net would do so."""
        channels = self._n_channels()
        masked = self.dataset_fingerprint["median_relative_size_after_cropping"] < 3 / 4  # nnU-Net's threshold
        return ["ZScoreNormalization"] * channels, [masked] * channels

    def get_plans_for_configuration(
        self,
        spacing: Sequence[float] | np.ndarray,
        median_shape: Sequence[int] | np.ndarray,
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict[str, Any],
    ) -> dict[str, Any]:
        """Plan one configuration as nnU-Net does, then replace patch size, topology and batch size."""
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
        )
        _, strides, kernel_sizes, patch_size, _ = get_pool_and_conv_props(
            spacing, [PATCH_EDGE] * len(spacing), self.UNet_featuremap_min_edge_length, _UNLIMITED_POOLING
        )
        n_stages = len(strides)
        max_features = self.UNet_max_features_2d if len(spacing) == 2 else self.UNet_max_features_3d
        architecture = plan["architecture"]
        architecture["arch_kwargs"].update(
            n_stages=n_stages,
            features_per_stage=tuple(min(max_features, self.UNet_base_num_features * 2**i) for i in range(n_stages)),
            kernel_sizes=kernel_sizes,
            strides=strides,
            n_conv_per_stage=self.UNet_blocks_per_stage_encoder[:n_stages],
            n_conv_per_stage_decoder=self.UNet_blocks_per_stage_decoder[: n_stages - 1],
        )
        plan["patch_size"] = patch_size
        key = f"{patch_size}_{strides}"
        if key not in _cache:
            _cache[key] = self.static_estimate_VRAM_usage(
                patch_size,
                self._n_channels(),
                len(self.dataset_json["labels"]),
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
            )
        plan["batch_size"] = self._batch_size(patch_size, _cache[key], approximate_n_voxels_dataset)
        return plan

    def _n_channels(self) -> int:
        return len(self.dataset_json["channel_names" if "channel_names" in self.dataset_json else "modality"])

    def _batch_size(self, patch_size: Sequence[int], estimate: int, n_voxels_dataset: float) -> int:
        """nnU-Net's rule: what fits the memory target, at most 5 % of the dataset's voxels, at least two."""
        reference, reference_batch = (
            (self.UNet_reference_val_2d, self.UNet_reference_val_corresp_bs_2d)
            if len(patch_size) == 2
            else (self.UNet_reference_val_3d, self.UNet_reference_val_corresp_bs_3d)
        )
        budget = reference * self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB
        fits = round(budget / estimate * reference_batch)
        covers = round(n_voxels_dataset * self.max_dataset_covered / float(np.prod(patch_size)))
        return max(min(fits, covers), self.UNet_min_batch_size)
