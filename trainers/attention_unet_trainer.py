"""Attention U-Net for nnU-Net: another network class, nothing else."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from hippo_nnunet.nnunet.network import build_network
from hippo_nnunet.trainers.recipe_trainer import UNetTrainer
from hippo_nnunet.training.recipes import Recipe


class AttentionUNetTrainer(UNetTrainer):
    """Trains `hippo_nnunet.networks.attention_unet.AttentionUNet` with the plan's own network arguments."""

    recipe: ClassVar[Recipe] = Recipe("AttentionUNetTrainer")

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network; called for training and, with deep supervision off, for inference."""
        return build_network(
            "hippo_nnunet.networks.attention_unet.AttentionUNet",
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
