"""nnU-Net's default planner for the CLIP-guided U-Net."""

from __future__ import annotations

from typing import ClassVar

from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.planners.base import PlannerWithDefaults


class CLIPGuidedUNetPlanner(PlannerWithDefaults):
    """Plan as nnU-Net's default planner does, for ``CLIPGuidedUNet``; fusion and heads count in the memory estimate."""

    defaults: ClassVar = {"plans_name": "CLIPGuidedUNetPlans"}
    settings: ClassVar = {"UNet_class": CLIPGuidedUNet}
