"""A planner for computers without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from hippo_nnunet.planners.base import PlannerWithDefaults
from hippo_nnunet.planners.pad64_planner import Pad64Planner

MAX_BATCH_SIZE = {2: 32, 3: 2}
"""Largest batch by number of patch axes. Source: ours, measured on Task04 on two CPU cores."""


class CompactPlanner(PlannerWithDefaults):
    """Plan half of nnU-Net's width (16 to 128 features) and small batches, for CPUs and laptops.

    The default memory target is half of nnU-Net's as well, so that patches do not grow in place of the width. Small
    datasets get smaller batches than ``MAX_BATCH_SIZE``, because nnU-Net lets a batch cover at most 5 % of all voxels.
    """

    defaults: ClassVar = {"plans_name": "CompactPlans", "gpu_memory_target_in_gb": 4}
    settings: ClassVar = {"UNet_base_num_features": 16, "UNet_max_features_2d": 128, "UNet_max_features_3d": 128}

    def get_plans_for_configuration(
        self, spacing: Sequence[float] | np.ndarray, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Plan one configuration as nnU-Net does, then limit its batch size."""
        plan: dict[str, Any] = super().get_plans_for_configuration(spacing, *args, **kwargs)
        plan["batch_size"] = min(plan["batch_size"], MAX_BATCH_SIZE[len(spacing)])
        return plan


class CompactPad64Planner(CompactPlanner, Pad64Planner):
    """Plan `Pad64Planner`'s patches and normalization with `CompactPlanner`'s width and batches.

    Compared with `CompactPlanner`, this shows what the padding does, at a width that a CPU can train.
    """

    defaults: ClassVar = {"plans_name": "CompactPad64Plans"}
