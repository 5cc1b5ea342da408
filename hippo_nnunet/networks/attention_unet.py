"""Attention U-Net, configured by the same plan kwargs as nnU-Net's own U-Net."""

from __future__ import annotations

from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from hippo_nnunet.networks.attention_gate import AttentionGate
from hippo_nnunet.networks.gated_decoder import GatedUNetDecoder
from hippo_nnunet.networks.plan_arguments import bind_plan_arguments


class AttentionUNet(PlainConvUNet):
    """nnU-Net's ``PlainConvUNet`` with an additive attention gate on every skip connection, in 2D or 3D.

    The arguments are ``PlainConvUNet``'s, so the architecture kwargs of every plans file for ``PlainConvUNet`` fit. A
    gate has half the channels of its skip, at least 1. Weights of a ``PlainConvUNet`` load with ``strict=False``; only
    ``decoder.gates.*`` is then missing. With every coefficient at 1 it computes exactly what ``PlainConvUNet``
    computes.

    Args:
        *args: As ``PlainConvUNet``.
        **kwargs: As ``PlainConvUNet``.

    Raises:
        ValueError: An argument that ``PlainConvUNet`` does not know, or one that is missing or has the wrong length.

    Source:
        Oktay et al. 2018, Attention U-Net, arXiv:1804.03999.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        arguments = bind_plan_arguments("AttentionUNet", args, kwargs)
        super().__init__(**arguments)
        self.decoder = GatedUNetDecoder(
            self.encoder,
            arguments["num_classes"],
            arguments["n_conv_per_stage_decoder"],
            arguments["deep_supervision"],
            [max(1, features // 2) for features in self.encoder.output_channels[:-1]],
            arguments["nonlin_first"],
        )

    def attention_maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the attention coefficients of every gate for an input.

        Args:
            x: Shape (batch, input_channels, *spatial).

        Returns:
            One map per gate, values in [0, 1], shape (batch, 1, *spatial of that skip), highest resolution first.
            Gradients are kept unless the caller disables them.
        """
        return self.decoder.attention_maps(self.encoder(x))

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialise as ``PlainConvUNet`` does, with the gates mostly open; for ``network.apply``."""
        PlainConvUNet.initialize(module)
        if isinstance(module, AttentionGate):  # apply() visits a module after its children, so this comes last
            module.reset_psi()
