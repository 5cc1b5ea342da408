"""nnU-Net's default planner for the CLIP-guided U-Net."""

from __future__ import annotations

from typing import Any, ClassVar

from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.planners.base import PlannerWithDefaults


class CLIPGuidedUNetPlanner(PlannerWithDefaults):
    """Plan as nnU-Net's default planner does, for ``CLIPGuidedUNet``; fusion and heads count in the memory estimate."""

    defaults: ClassVar = {"plans_name": "CLIPGuidedUNetPlans"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.UNet_class = CLIPGuidedUNet
