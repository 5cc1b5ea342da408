"""Builds a network from the plan's arguments, of the plan's class or another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.training.neighbours import require_neighbours
from hippo_nnunet.training.recipes import Recipe

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
"""nnU-Net's default network."""
ATTENTION = "hippo_nnunet.networks.attention_unet.AttentionUNet"
CLIP_GUIDED = "hippo_nnunet.networks.clip_guided_unet.CLIPGuidedUNet"
DENSE_CLIP_GUIDED = "hippo_nnunet.networks.dense_guidance.DenseCLIPGuidedUNet"
TEXT_HEAD_CLIP_GUIDED = "hippo_nnunet.networks.text_head.TextHeadCLIPGuidedUNet"
CLIP_NETWORKS = (CLIP_GUIDED, DENSE_CLIP_GUIDED, TEXT_HEAD_CLIP_GUIDED)

_STAND_INS = {"otherImage": 8, "positionImage": 1}


def clip_network(recipe: Recipe) -> str:
    """Return the dotted path of the network class that a recipe of `CLIPGuidedUNetTrainer` trains."""
    return {"dense": DENSE_CLIP_GUIDED, "textHead": TEXT_HEAD_CLIP_GUIDED}.get(recipe.design or "", CLIP_GUIDED)


def recipe_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of `CLIPGuidedUNet` that follow from a recipe's words alone."""
    return {"plain_head": recipe.plain_head, "stand_ins": _STAND_INS.get(recipe.image_control or "", 0)}


def build_network(
    class_path: str,
    configuration_manager: Any,
    num_input_channels: int,
    num_output_channels: int,
    deep_supervision: bool,
    arguments: Mapping[str, Any],
    slices: int,
) -> nn.Module:
    """Build a network as nnU-Net would, with `class_path` in place of the plan's class.

    Args:
        class_path: Dotted path of the network class; it takes the plan's keyword arguments.
        configuration_manager: nnU-Net's view of one configuration.
        num_input_channels: Channels of the image.
        num_output_channels: Segmentation heads.
        deep_supervision: Whether forward returns every resolution.
        arguments: Further keyword arguments, which override the plan's.
        slices: Adjacent slices that a 2D network sees, each with the image's channels.

    Returns:
        The initialised network.

    Raises:
        ConfigError: The class cannot take the plan's arguments.
    """
    channels = slices * num_input_channels
    try:
        network: nn.Module = get_network_from_plans(
            class_path,
            {**configuration_manager.network_arch_init_kwargs, **arguments},
            configuration_manager.network_arch_init_kwargs_req_import,
            channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=deep_supervision,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{class_path.rpartition('.')[2]} cannot be built from the plans: {error}") from error
    if slices > 1:
        require_neighbours(network, slices, channels)
    return network


def baseline_class(configuration_manager: Any) -> str:
    """Return the dotted path of nnU-Net's own network for a plan: the plan's class unless that is one of ours."""
    planned = str(configuration_manager.network_arch_class_name)
    return PLAIN if planned.startswith("hippo_nnunet.") else planned
