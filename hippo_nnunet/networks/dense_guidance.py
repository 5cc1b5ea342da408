"""The CLIP-guided U-Net with dense guidance: maps of CLIP's tokens in place of one embedding of the whole image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.networks.guidance import root_mean_square, slicing_axis
from hippo_nnunet.networks.token_maps import cell_positions, sample_tokens, token_directions, token_features

FINEST_STRIDE = 4
"""Guidance enters where a cell of the features has at least so many voxels along an axis.

Source: ours. A token of ViT-B-16 covers 4 voxels of a slice of 56, one of ViT-B-32 covers 8.
"""


MOST_CELLS = 32
"""Longest side of a patch's map, in cells; larger skips get it interpolated. Encoders have about as many tokens."""


class DenseFusion(nn.Module):
    """Adds maps of tokens to coarse skip connections, each through its own 1x1 convolution that starts at zero.

    Args:
        channels: Channels of the maps.
        encoder: The network's encoder; its bottleneck, which has no skip, gets none.

    Attributes:
        first: The finest stage that gets guidance: the first whose cells have ``FINEST_STRIDE`` voxels along an axis,
            or the last one before the bottleneck.
        stride: Voxels of a cell of that stage, by axis.
    """

    def __init__(self, channels: int, encoder: Any) -> None:
        super().__init__()
        strides = list(accumulate(encoder.strides, lambda cell, by: [i * j for i, j in zip(cell, by, strict=True)]))
        last = len(strides) - 2
        self.first = next((stage for stage in range(last) if max(strides[stage]) >= FINEST_STRIDE), last)
        self.stride = tuple(int(n) for n in strides[self.first])
        self.project = nn.ModuleList(
            encoder.conv_op(channels, features, 1) for features in encoder.output_channels[self.first : -1]
        )
        guided = strides[self.first : -1]
        self._elements = [
            features * math.prod(strides[-1]) // math.prod(cell)
            for features, cell in zip(encoder.output_channels[self.first : -1], guided, strict=True)
        ]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set all convolutions to zero, so that the module changes nothing."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, skips: Sequence[torch.Tensor], maps: torch.Tensor) -> list[torch.Tensor]:
        """Add the maps.

        Args:
            skips: The encoder's outputs, highest resolution first, the bottleneck last.
            maps: Shape (batch, channels, *cells).
        """
        fused = list(skips)
        for stage, convolution in enumerate(self.project, self.first):
            fused[stage] = skips[stage] + convolution(resized(maps, skips[stage].shape[2:]))
        return fused

    def compute_conv_feature_map_size(self, size: Sequence[int]) -> np.int64:
        """Count the elements of the convolutions' outputs, for nnU-Net's memory estimate.

        Args:
            size: Spatial size of the bottleneck.
        """
        return np.prod(size, dtype=np.int64) * sum(self._elements)


class DenseCLIPGuidedUNet(CLIPGuidedUNet):
    """``CLIPGuidedUNet`` whose guidance are maps of CLIP's tokens, by their place in the image.

    A token is measured along the text of every class, from which the mean of all is subtracted, and along a few fixed
    directions (``token_directions``). These maps are added to the coarse skips (``DenseFusion``). The map of a class's
    text is also added to the logits of this class, times a factor that is learned, starts at zero and is the same for
    all classes: this is where a text has to mean its own class. The heads are ``CLIPGuidedUNet``'s.

    ``image_mean`` is the mean token of the training's images, and subtracted from every token. The maps of the texts
    are divided by one deviation, those of the other directions by another, so that over the training's images either
    have a mean square of one: tokens vary more along real texts than along random ones, which are to be as easy to
    learn from.

    Args:
        *args: As ``CLIPGuidedUNet``.
        token_grid: Rows and columns of the encoder's tokens, for ``stand_ins``, which are maps of tokens here.
        **kwargs: As ``CLIPGuidedUNet``.

    Attributes:
        token_directions: Buffer (classes + directions, embed_dim), not in the state dict.
        map_deviations: Buffer (classes + directions,), one value for the texts' maps and one for the others.
        text_share: Parameter, the factor of the classes' maps in their logits.

    Source:
        Ours, from MaskCLIP (arXiv:2112.01071), whose tokens' similarities to texts segment without training, and
        DenseCLIP (arXiv:2112.01518), which feeds them to the decoder as further channels.
    """

    starts: ClassVar = (*CLIPGuidedUNet.starts, DenseFusion)
    uses_text = True  # also with plain heads
    token_directions: torch.Tensor
    map_deviations: torch.Tensor

    def __init__(self, *args: Any, token_grid: Sequence[int] = (1, 1), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        directions = token_directions(torch.zeros_like(self.text_embeddings))
        if self.stand_ins is not None:
            shape = (*self.stand_ins.shape[:2], len(directions), *token_grid)
            self.register_buffer("stand_ins", torch.zeros(shape))
        self.register_buffer("token_directions", directions, persistent=False)
        self.register_buffer("map_deviations", torch.ones(len(directions)))
        self.fusion: Any = DenseFusion(len(directions), self.encoder)
        self.text_share = nn.Parameter(torch.zeros(()))

    def set_images(self, images: torch.Tensor) -> None:
        """Set the mean token of the training's images, and the deviations of their maps; after ``set_text``.

        Args:
            images: The encoder's tokens of slices, shape (n, embed_dim, rows, columns).
        """
        self.image_mean.copy_(images.mean((0, 2, 3)))
        maps = self.token_features(images - self.image_mean.to(images).view(1, -1, 1, 1))
        classes = len(self.text_embeddings)
        self.map_deviations[:classes] = root_mean_square(maps[:, :classes])
        self.map_deviations[classes:] = root_mean_square(maps[:, classes:])

    def show_text(self, text: torch.Tensor) -> None:
        """Take over the texts for the heads and the maps."""
        super().show_text(text)
        self.token_directions[: len(text)] = text

    @contextmanager
    def prompted(self, embeddings: torch.Tensor) -> Iterator[None]:
        """See other text inside the block.

        Args:
            embeddings: As for ``set_text``.

        Raises:
            ValueError: As for ``set_text``, or maps of the training's texts stand in for the image's tokens.
        """
        if self.stand_ins is not None:
            raise ValueError(
                "the recipe's otherImage or positionImage has stored maps of the training's texts alone; ask a model "
                "without that word"
            )
        with super().prompted(embeddings):
            yield

    def token_features(self, tokens: torch.Tensor) -> torch.Tensor:
        """Measure tokens along the directions, (n, embed_dim, rows, columns) to (n, classes + directions, ...)."""
        return token_features(tokens, self.token_directions.to(tokens.device))

    def guidance_shape(self, patch_size: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the guidance of one patch: (classes + directions, *cells).

        The cells are those of the finest guided skip, or larger by a power of two: see ``MOST_CELLS``.
        """
        cells = [int(size) // stride for size, stride in zip(patch_size, self.fusion.stride, strict=True)]
        while max(cells) > MOST_CELLS:
            cells = [(size + 1) // 2 for size in cells]
        return (len(self.token_directions), *cells)

    def segment(
        self, x: torch.Tensor, guidance: torch.Tensor, scale: torch.Tensor | None
    ) -> torch.Tensor | list[torch.Tensor]:
        """As ``CLIPGuidedUNet.segment``, with guidance of shape (batch, *``guidance_shape``)."""
        outputs = super().segment(x, guidance, scale)
        maps = self.text_share * self.centred_guidance(guidance)[:, : len(self.text_embeddings)]
        if isinstance(outputs, torch.Tensor):
            return outputs + resized(maps, outputs.shape[2:])
        return [logits + resized(maps, logits.shape[2:]) for logits in outputs]

    def guided_skips(self, x: torch.Tensor, guidance: torch.Tensor) -> list[torch.Tensor]:
        """Return the encoder's outputs, highest resolution first, with the guidance added to the coarse ones.

        Args:
            x: As for ``forward``.
            guidance: Of ``given``.
        """
        return self.fusion(self.encoder(x), self.centred_guidance(guidance))

    def centred_guidance(self, guidance: torch.Tensor) -> torch.Tensor:
        """Subtract the mean token's maps and divide by deviations, except for the zeros of ``use_image = False``."""
        if not self.use_image:
            return guidance
        shape = (1, -1, *[1] * (guidance.dim() - 2))
        with torch.autocast(guidance.device.type, enabled=False):  # the same in training and prediction
            mean = self.token_features(self.image_mean.view(1, -1, 1, 1))
        return (guidance - mean.view(shape)) / self.map_deviations.view(shape)

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps of the attached encoder's tokens of patches, (batch, *``guidance_shape``).

        Args:
            x: Shape (batch, input_channels, *spatial).
        """
        assert self.image_encoder.encode is not None
        patch_size = x.shape[2:]
        axis = slicing_axis(patch_size) if len(patch_size) == 3 else None
        positions = cell_positions(patch_size, self.guidance_shape(patch_size)[1:], axis).to(x.device)
        if axis is None:
            slices, plane = x[:, None], list(patch_size)
            positions = F.pad(positions, (1, 0))
        else:
            places = positions.movedim(axis, 0)[:, 0, 0, axis]
            slices = x.index_select(2 + axis, places.long()).movedim(2 + axis, 1)
            plane = [size for other, size in enumerate(patch_size) if other != axis]
            positions.movedim(axis, 0)[..., axis] = torch.arange(len(places)).to(places).view(-1, 1, 1)
        tokens = self.view.restore(self.image_encoder.encode(self.view.show(slices.flatten(0, 1))))
        maps = self.token_features(tokens).unflatten(0, slices.shape[:2])
        return torch.stack([sample_tokens(of_image, plane, positions, axis or 0) for of_image in maps])


def resized(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return maps (batch, channels, *cells) at another resolution: averaged for a coarser, else interpolated."""
    if maps.shape[2:] == tuple(size):
        return maps
    coarser = all(wanted <= cells for wanted, cells in zip(size, maps.shape[2:], strict=True))
    mode = "area" if coarser else "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(maps, size=tuple(size), mode=mode)
