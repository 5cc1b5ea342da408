"""nnU-Net's U-Net decoder with an attention gate on every skip connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn

from hippo_nnunet.networks.attention_gate import AttentionGate


class GatedUNetDecoder(UNetDecoder):
    """``UNetDecoder`` whose skip connections pass an additive attention gate each.

    The gate's signal is the decoder feature after upsampling, hence at the skip's resolution. Everything but ``gates``
    has the names, shapes and order of computation of ``UNetDecoder``.

    Args:
        encoder: The encoder whose skips are decoded; it defines features, strides, kernels, norm and nonlinearity.
        num_classes: Channels of each segmentation head.
        n_conv_per_stage: Convolutions per decoder stage, lowest resolution first.
        deep_supervision: Return the segmentations of every stage instead of the last one's only. The heads exist
            either way, and the attribute may be changed at any time.
        gate_features: Inner channels of each gate, highest resolution first.
        nonlin_first: Convolution, nonlinearity, norm instead of convolution, norm, nonlinearity.

    Attributes:
        gates: In order of computation, as ``stages``: lowest resolution first.
    """

    def __init__(
        self,
        encoder: PlainConvEncoder,
        num_classes: int,
        n_conv_per_stage: int | Sequence[int],
        deep_supervision: bool,
        gate_features: Sequence[int],
        nonlin_first: bool = False,
    ) -> None:
        super().__init__(encoder, num_classes, n_conv_per_stage, deep_supervision, nonlin_first=nonlin_first)
        skip_features = encoder.output_channels[:-1]
        gates = [
            AttentionGate(encoder.conv_op, skip, skip, inner)
            for skip, inner in zip(reversed(skip_features), reversed(gate_features), strict=True)
        ]
        self.gates = cast(Sequence[AttentionGate], nn.ModuleList(gates))  # for the type checker

    def forward(self, skips: Sequence[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
        """Decode.

        Args:
            skips: The encoder's outputs, highest resolution first, the bottleneck last.

        Returns:
            Logits (batch, num_classes, *spatial); with deep supervision a list of them, highest resolution first.
        """
        features, _ = self._decode(skips)
        if not self.deep_supervision:
            return self.seg_layers[-1](features[-1])
        return [self.seg_layers[s](features[s]) for s in range(len(features))][::-1]

    def attention_maps(self, skips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the coefficients in [0, 1] of each gate, (batch, 1, *spatial), highest resolution first.

        Args:
            skips: As for ``forward``.
        """
        return self._decode(skips)[1][::-1]

    def _decode(self, skips: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Features and attention coefficients of each stage, lowest resolution first."""
        features, coefficients = [], []
        x = skips[-1]
        for s in range(len(self.stages)):
            upsampled = self.transpconvs[s](x)
            gated, alpha = self.gates[s](skips[-(s + 2)], upsampled)
            x = self.stages[s](torch.cat((upsampled, gated), 1))
            features.append(x)
            coefficients.append(alpha)
        return features, coefficients

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> np.int64:
        """Count the elements of all convolution outputs, gates included, for nnU-Net's memory estimate.

        Args:
            input_size: Spatial size of the encoder's input.
        """
        total = super().compute_conv_feature_map_size(input_size)
        size = list(input_size)
        for gate, stride in zip(self.gates[::-1], self.encoder.strides[:-1], strict=True):
            size = [i // j for i, j in zip(size, stride, strict=True)]
            total += gate.compute_conv_feature_map_size(size)
        return total
