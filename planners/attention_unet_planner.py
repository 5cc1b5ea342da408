"""nnU-Net's default planner for the Attention U-Net."""

from __future__ import annotations

from typing import ClassVar

from hippo_nnunet.networks.attention_unet import AttentionUNet
from hippo_nnunet.planners.base import PlannerWithDefaults


class AttentionUNetPlanner(PlannerWithDefaults):
    """Plan as nnU-Net's default planner does, for ``AttentionUNet``; the gates count in the memory estimate."""

    defaults: ClassVar = {"plans_name": "AttentionUNetPlans"}
    settings: ClassVar = {"UNet_class": AttentionUNet}
