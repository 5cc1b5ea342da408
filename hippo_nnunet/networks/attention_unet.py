"""Attention U-Net, configured by the same plan kwargs as nnU-Net's own U-Net."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from hippo_nnunet.networks.attention_gate import AttentionGate
from hippo_nnunet.networks.gated_decoder import GatedUNetDecoder
from hippo_nnunet.networks.plan_arguments import bind_plan_arguments, check_length


class AttentionUNet(PlainConvUNet):
    """nnU-Net's ``PlainConvUNet`` with an additive attention gate on every skip connection, in 2D or 3D.

    All arguments but ``gate_features`` are ``PlainConvUNet``'s, so the architecture kwargs of every plans file for
    ``PlainConvUNet`` fit. Weights of a ``PlainConvUNet`` load with ``strict=False``; only ``decoder.gates.*`` is then
    missing. With every gate open (``open_gates``) it computes exactly what ``PlainConvUNet`` computes.

    Args:
        *args: As ``PlainConvUNet``.
        gate_features: Inner channels of the gates: one number for all, or one per gate, highest resolution first.
            Default: half the skip's channels, at least 1.
        **kwargs: As ``PlainConvUNet``.

    Raises:
        ValueError: An argument that ``PlainConvUNet`` does not know, or one that is missing or has the wrong length.

    Source:
        Oktay et al. 2018, Attention U-Net, arXiv:1804.03999.
    """

    def __init__(self, *args: Any, gate_features: int | Sequence[int] | None = None, **kwargs: Any) -> None:
        arguments = bind_plan_arguments("AttentionUNet", args, kwargs)
        super().__init__(**arguments)
        self.decoder = GatedUNetDecoder(
            self.encoder,
            arguments["num_classes"],
            arguments["n_conv_per_stage_decoder"],
            arguments["deep_supervision"],
            _gate_features(gate_features, self.encoder.output_channels[:-1]),
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

    @contextmanager
    def open_gates(self) -> Iterator[None]:
        """Force every gate open inside the block: the network is then exactly ``PlainConvUNet``."""
        before = [gate.forced_open for gate in self.decoder.gates]
        try:
            for gate in self.decoder.gates:
                gate.forced_open = True
            yield
        finally:
            for gate, value in zip(self.decoder.gates, before, strict=True):
                gate.forced_open = value

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialise as ``PlainConvUNet`` does, with the gates mostly open; for ``network.apply``."""
        PlainConvUNet.initialize(module)
        if isinstance(module, AttentionGate):  # apply() visits a module after its children, so this comes last
            module.reset_psi()


def _gate_features(asked: int | Sequence[int] | None, skip_features: Sequence[int]) -> list[int]:
    """Inner channels of each gate, highest resolution first."""
    if asked is None:
        return [max(1, features // 2) for features in skip_features]
    result = [asked] * len(skip_features) if isinstance(asked, int) else list(asked)
    check_length("AttentionUNet", "gate_features", result, len(skip_features), "one per skip connection")
    if min(result, default=1) < 1:
        raise ValueError(f"AttentionUNet: gate_features must be at least 1, got {asked}; leave it out for the default")
    return result
