"""Segmentation heads whose weights a small network makes from text: a new text gives a new head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch.nn import functional as F

from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.networks.guidance import root_mean_square

WIDTH = 8
"""Channels of the generated convolutions. Source: Liu et al. 2023, section 3.1."""

HIDDEN_FEATURES = 64
"""Width of the generator. Source: ours."""

_SHAPES = ((WIDTH, WIDTH), (WIDTH, WIDTH), (1, WIDTH))
"""Weights of a head's convolutions of size 1, (out, in)."""


class EqualizedLinear(nn.Linear):
    """A linear layer whose stored weights have the variance one, scaled in every pass to keep the input's variance.

    A step of Adam changes each stored weight alike, so it changes the output of a wide layer no more than that of a
    narrow one. No norm follows a generated weight that would bound the change.

    Args:
        in_features: As ``nn.Linear``.
        out_features: As ``nn.Linear``.
        variance: Variance of the outputs at the start, for inputs with a mean square of one.
        bias: As ``nn.Linear``.

    Source:
        Karras et al. 2018, Progressive growing of GANs, arXiv:1710.10196, section 4.1 (equalized learning rate).
    """

    def __init__(self, in_features: int, out_features: int, variance: float = 1.0, bias: bool = True) -> None:
        self.scale = math.sqrt(variance / in_features)
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        """Draw new weights; biases start at zero."""
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return F.linear(x, self.scale * self.weight, self.bias)


class HeadGenerator(nn.Module):
    """One MLP, shared by all classes, from a text and the image to the weights of the text's head.

    The MLP sees the text's embedding through a linear map, the mean of the bottleneck's features, and the cosine of the
    text with CLIP's embedding of the image, divided by its deviation over the training's images. The cosine is what can
    use that CLIP has put texts and images into one space. Without it the heads would depend on the angles between the
    texts alone: a linear map in front of randomly rotated texts learns what it would have learned in front of the
    texts. The embedding of the image enters in no other way, so that a control of text or image removes this agreement
    and nothing else: the division gives random texts, whose cosines are smaller, the same weight.

    Args:
        embed_dim: Length of CLIP's embeddings.
        image_features: Channels of the bottleneck.

    Source:
        Liu et al. 2023, CLIP-Driven Universal Model, arXiv:2301.00785, section 3.1: the MLP, its text and global image
        feature, and three generated convolutions of size 1. Ours: the cosine; the
        start, at which generated weights have the variance of Kaiming's initialisation (Chang et al. 2020, Principled
        weight initialization for hypernetworks, ICLR).
    """

    def __init__(self, embed_dim: int, image_features: int) -> None:
        super().__init__()
        self.gain = math.sqrt(embed_dim)  # gives the entries of unit vectors a mean square of one
        self.embed = EqualizedLinear(embed_dim, HIDDEN_FEATURES, bias=False)
        self.hidden = EqualizedLinear(HIDDEN_FEATURES + 1 + image_features, HIDDEN_FEATURES, 2.0)
        self.weights = EqualizedLinear(HIDDEN_FEATURES, sum(rows * columns for rows, columns in _SHAPES), 2 / WIDTH)
        self.biases = EqualizedLinear(HIDDEN_FEATURES, sum(rows for rows, _ in _SHAPES))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, see the class; generated biases start at zero."""
        for layer in (self.embed, self.hidden, self.weights):
            layer.reset_parameters()
        nn.init.zeros_(self.biases.weight)

    def forward(self, text: torch.Tensor, agreement: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Generate the weights of heads.

        Args:
            text: Unit vectors, shape (classes, embed_dim).
            agreement: Of text and image, with a mean square of one, or zeros; shape (batch, classes).
            pooled: Mean features of the bottleneck, shape (batch, image_features).

        Returns:
            Weights and biases of all convolutions, shape (batch, classes, parameters).
        """
        size = (*agreement.shape, -1)
        said = self.embed(self.gain * text)[None].expand(size)
        joint = torch.cat((said, agreement[..., None], pooled[:, None].expand(size)), -1)
        hidden = F.leaky_relu(self.hidden(joint))
        return torch.cat((self.weights(hidden), self.biases(hidden)), -1)


def generated_logits(features: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """Apply each class's generated convolutions.

    Args:
        features: Shape (batch, ``WIDTH``, *spatial).
        heads: Of ``HeadGenerator``, (batch, classes, parameters).

    Returns:
        Logits (batch, classes, *spatial).
    """
    batch, classes = heads.shape[:2]
    weights = heads.split([rows * columns for rows, columns in _SHAPES] + [rows for rows, _ in _SHAPES], -1)
    x = features.flatten(2)
    for layer, (rows, columns) in enumerate(_SHAPES):
        weight, bias = weights[layer], weights[layer + len(_SHAPES)]
        if layer == 0:  # of all classes at once, since they see the same features
            x = torch.baddbmm(bias.reshape(batch, -1, 1), weight.reshape(batch, -1, columns), x)
        else:
            folded = batch * classes
            weight, bias = weight.reshape(folded, rows, columns), bias.reshape(folded, rows, 1)
            x = torch.baddbmm(bias, weight, x.reshape(folded, columns, -1))
        if layer < len(_SHAPES) - 1:
            x = F.leaky_relu(x)
    return x.reshape(batch, classes, *features.shape[2:])


class TextHeadCLIPGuidedUNet(CLIPGuidedUNet):
    """``CLIPGuidedUNet`` with heads that are generated from text.

    The guidance is ``CLIPGuidedUNet``'s, but the generator alone sees it, not the bottleneck. The heads of the decoder
    reduce its features to the ``WIDTH`` channels that the generated convolutions take. Any text can be given after
    the training (``prompted``), also one that no class had.

    Args:
        *args: As ``CLIPGuidedUNet``.
        **kwargs: As ``CLIPGuidedUNet``, without ``plain_head``.

    Attributes:
        generator: The ``HeadGenerator``.
        agreement_deviation: Buffer, 0-d; root mean square of the cosines of the training's texts and images.

    Source:
        Liu et al. 2023, CLIP-Driven Universal Model, arXiv:2301.00785; see ``HeadGenerator``.
    """

    centres_regions = True  # the generator does not make the logits of two regions opposites
    starts: ClassVar = (*CLIPGuidedUNet.starts, HeadGenerator)
    uses_text = True
    agreement_deviation: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "plain_head": True})
        encoder = self.encoder
        reduced = [encoder.conv_op(features, WIDTH, 1) for features in reversed(encoder.output_channels[:-1])]
        self.decoder.seg_layers = cast(Any, nn.ModuleList(reduced))
        del self.fusion
        self.generator = HeadGenerator(self.embed_dim, encoder.output_channels[-1])
        self.register_buffer("text_coordinates", torch.zeros_like(self.text_embeddings), persistent=False)
        self.register_buffer("agreement_deviation", torch.ones(()))

    def set_images(self, images: torch.Tensor) -> None:
        """As ``CLIPGuidedUNet.set_images``; also set the deviation of their agreement with the training's texts."""
        super().set_images(images)
        texts = self.centred_text(self.text_embeddings)
        agreement = self.centred_guidance(images.to(texts)) @ texts.T
        self.agreement_deviation.copy_(root_mean_square(agreement))

    def show_text(self, text: torch.Tensor) -> None:
        """Take over the texts for the generator, until ``eval`` brings back those of ``set_text``."""
        self.text_coordinates.copy_(text)

    def train(self, mode: bool = True) -> TextHeadCLIPGuidedUNet:
        """Set the mode; evaluation is by the texts of ``set_text``, or of ``prompted`` inside its block."""
        if not mode and not self._is_prompted:
            self._place_text()
        super().train(mode)
        return self

    def segment(
        self, x: torch.Tensor, guidance: torch.Tensor, scale: torch.Tensor | None
    ) -> torch.Tensor | list[torch.Tensor]:
        """As ``CLIPGuidedUNet.segment``; there is no temperature."""
        skips = self.encoder(x)
        agreement = self.centred_guidance(guidance) @ self.text_coordinates.T / self.agreement_deviation
        heads = self.generator(self.text_coordinates, agreement, skips[-1].flatten(2).mean(2))
        features = self.decoder(skips)
        if isinstance(features, torch.Tensor):
            return generated_logits(features, heads)
        return [generated_logits(stage, heads) for stage in features]

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> np.int64:
        """Count the elements of all outputs, those of the generated convolutions included, for nnU-Net's estimate.

        Args:
            input_size: Spatial size of the input.
        """
        total = PlainConvUNet.compute_conv_feature_map_size(self, input_size)
        size = list(input_size)
        for level, stride in enumerate(self.encoder.strides[:-1]):
            size = [i // j for i, j in zip(size, stride, strict=True)]
            if level == 0 or self.decoder.deep_supervision:
                total += np.prod([WIDTH + 2 * WIDTH * len(self.text_embeddings), *size], dtype=np.int64)
        return total
