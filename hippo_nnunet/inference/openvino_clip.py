"""A CLIP-guided network in a form that OpenVINO can convert."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from openvino import Type
from openvino import opset15 as ops
from openvino.frontend.pytorch import ConversionExtension
from torch import nn

from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.networks.cosine_head import NORM_FLOOR


class Guided(nn.Module):
    """A CLIP-guided network whose temperature is a number: OpenVINO knows no custom autograd function.

    Args:
        network: Trained.
    """

    def __init__(self, network: CLIPGuidedUNet) -> None:
        super().__init__()
        self.network = network
        self.scale = network.temperature.detach()

    def forward(self, x: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, class, *patch) of patches and their guidance."""
        network = self.network
        *skips, bottleneck = network.encoder(x)
        logits: torch.Tensor = network.decoder(
            [*skips, network.fusion(bottleneck, guidance)], network.text_coordinates, self.scale
        )
        return logits


def cosine_extension(network: CLIPGuidedUNet, spatial: tuple[int, ...]) -> Any:
    """Return what teaches OpenVINO's frontend the operator of `CosineHead`: see there.

    Args:
        network: The network; without deep supervision it has one such operator.
        spatial: The patch.
    """
    classes, channels = len(network.text_embeddings), network.decoder.seg_layers[-1].in_channels

    def part(of: Any, axis: int, start: int, end: int) -> Any:
        return ops.slice(of, *(np.array([n]) for n in (start, end, 1, axis)))

    def shaped(of: Any, *shape: int) -> Any:
        return ops.reshape(of, np.array([0, *shape]), special_zero=True)

    def convert(context: Any) -> list[Any]:
        features, form = context.get_input(0), context.get_input(1)
        pixels = shaped(features, channels, -1)
        rows = classes + channels + 1
        scores = ops.add(
            ops.matmul(part(form, 1, 0, channels), pixels, False, False), part(form, 1, channels, channels + 1)
        )
        squares = ops.multiply(part(scores, 1, classes, rows - 1), pixels)
        norm = ops.add(ops.reduce_sum(squares, np.array([1]), keep_dims=True), part(scores, 1, rows - 1, rows))
        diagonal = ops.multiply(part(form, 0, classes, rows), np.eye(channels + 1, dtype=np.float32))
        least = ops.multiply(ops.reduce_sum(diagonal, np.array([0, 1])), np.float32(NORM_FLOOR**2))
        norm = ops.maximum(norm, ops.maximum(least, np.float32(1e-12)))
        inverse = ops.divide(ops.constant(1.0, Type.f32), ops.sqrt(norm))
        logits = ops.multiply(part(scores, 1, 0, classes), inverse)
        return [shaped(logits, classes, *spatial).output(0), shaped(inverse, 1, *spatial).output(0)]

    return ConversionExtension("hippo_nnunet::cosine_logits", convert)
