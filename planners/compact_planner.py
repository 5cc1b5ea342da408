"""A planner for computers without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

MAX_BATCH_SIZE = {2: 32, 3: 2}
"""Largest batch by number of patch axes. Source: ours, measured on Task04 on two CPU cores."""


class CompactPlanner(ExperimentPlanner):
    """Plan half of nnU-Net's width (16 to 128 features) and small batches, for CPUs and laptops.

    The default memory target is half of nnU-Net's as well, so that patches do not grow in place of the width. Small
    datasets get smaller batches than ``MAX_BATCH_SIZE``, because nnU-Net lets a batch cover at most 5 % of all voxels.

    Args:
        dataset_name_or_id: As nnU-Net's planner.
        gpu_memory_target_in_gb: As nnU-Net's planner, in GB.
        preprocessor_name: As nnU-Net's planner.
        plans_name: Name of the plans file.
        overwrite_target_spacing: As nnU-Net's planner, in mm.
        suppress_transpose: As nnU-Net's planner.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 4,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = "CompactPlans",
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.UNet_base_num_features = 16
        self.UNet_max_features_2d = 128
        self.UNet_max_features_3d = 128

    def get_plans_for_configuration(
        self,
        spacing: Sequence[float] | np.ndarray,
        median_shape: Sequence[int] | np.ndarray,
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict[str, Any],
    ) -> dict[str, Any]:
        """Plan one configuration as nnU-Net does, then limit its batch size.

        Args:
            spacing: Target spacing in mm, two or three axes.
            median_shape: Median image shape at that spacing, in voxels.
            data_identifier: Folder name of the preprocessed data.
            approximate_n_voxels_dataset: Voxels of the whole dataset at that spacing.
            _cache: Memory estimates by patch size and strides.

        Returns:
            The configuration's part of the plans.
        """
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
        )
        plan["batch_size"] = min(plan["batch_size"], MAX_BATCH_SIZE[len(spacing)])
        return plan
