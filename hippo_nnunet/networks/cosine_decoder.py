"""nnU-Net's U-Net decoder with heads that compare each pixel with text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn

from hippo_nnunet.networks.cosine_head import CosineHead


class CosineUNetDecoder(UNetDecoder):
    """``UNetDecoder`` with a ``CosineHead`` in place of every 1x1 convolution.

    Everything but ``seg_layers`` has the names, shapes and order of computation of ``UNetDecoder``. The heads keep that
    name, because nnU-Net does not transfer weights of that name from another training.

    Args:
        encoder: The encoder whose skips are decoded; it defines features, strides, kernels, norm and nonlinearity.
        num_classes: Number of classes.
        n_conv_per_stage: Convolutions per decoder stage, lowest resolution first.
        deep_supervision: Return the segmentations of every stage instead of the last one's only. The heads exist
            either way, and the attribute may be changed at any time.
        embed_dim: Length of a text embedding. The heads get texts by coordinates, see ``CosineHead``.
        initial_norm: As in ``CosineHead``.
        nonlin_first: Convolution, nonlinearity, norm instead of convolution, norm, nonlinearity.

    Attributes:
        coordinates: How many coordinates of a text the heads need.
    """

    def __init__(
        self,
        encoder: PlainConvEncoder,
        num_classes: int,
        n_conv_per_stage: int | Sequence[int],
        deep_supervision: bool,
        embed_dim: int,
        initial_norm: float,
        nonlin_first: bool = False,
    ) -> None:
        super().__init__(encoder, num_classes, n_conv_per_stage, deep_supervision, nonlin_first=nonlin_first)
        heads = [
            CosineHead(features, embed_dim, initial_norm, num_classes)
            for features in reversed(encoder.output_channels[:-1])
        ]
        self.seg_layers = cast(Sequence[CosineHead], nn.ModuleList(heads))  # for the type checker
        self.coordinates = max(head.rows for head in heads)

    def forward(
        self, skips: Sequence[torch.Tensor], text: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor | list[torch.Tensor]:
        """Decode.

        Args:
            skips: The encoder's outputs, highest resolution first, the bottleneck last.
            text: Coordinates of the text embeddings, shape (num_classes, ``coordinates``).
            scale: The temperature that multiplies the cosines, a single number.

        Returns:
            Logits (batch, num_classes, *spatial); with deep supervision a list of them, highest resolution first.
        """
        features = self._features(skips)
        if not self.deep_supervision:
            return self.seg_layers[-1](features[-1], text, scale)
        return [self.seg_layers[s](features[s], text, scale) for s in range(len(features))][::-1]

    def similarities(self, skips: Sequence[torch.Tensor], text: torch.Tensor) -> torch.Tensor:
        """Return the cosines of every pixel with every text, (batch, num_classes, *spatial), in [-1, 1].

        Args:
            skips: As for ``forward``.
            text: As for ``forward``.
        """
        cosines: torch.Tensor = self.seg_layers[-1](self._features(skips)[-1], text, text.new_ones(()))
        return cosines.clamp(-1, 1)  # rounding

    def _features(self, skips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Output of each stage, lowest resolution first."""
        features = []
        x = skips[-1]
        for s in range(len(self.stages)):
            x = self.stages[s](torch.cat((self.transpconvs[s](x), skips[-(s + 2)]), 1))
            features.append(x)
        return features

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> np.int64:
        """Count the elements of all convolution outputs, for nnU-Net's memory estimate.

        Beside its logits, a head keeps the embedding of each pixel, its norm, and the features in single precision.

        Args:
            input_size: Spatial size of the encoder's input.
        """
        total = super().compute_conv_feature_map_size(input_size)
        size = list(input_size)
        for level, stride in enumerate(self.encoder.strides[:-1]):
            size = [i // j for i, j in zip(size, stride, strict=True)]
            if level == 0 or self.deep_supervision:
                head = self.seg_layers[-1 - level]
                total += (head.rows + 1 + head.in_channels) * np.prod(size, dtype=np.int64)
        return total
