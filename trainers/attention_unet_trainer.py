"""Attention U-Net for nnU-Net: only the network class differs."""

from __future__ import annotations

from typing import ClassVar

from hippo_nnunet.nnunet.network import ATTENTION
from hippo_nnunet.trainers.recipe_trainer import UNetTrainer
from hippo_nnunet.training.recipes import Recipe


class AttentionUNetTrainer(UNetTrainer):
    """Trains `hippo_nnunet.networks.attention_unet.AttentionUNet` with the plan's own network arguments."""

    recipe: ClassVar[Recipe] = Recipe("AttentionUNetTrainer")
    network_class: ClassVar[str | None] = ATTENTION
