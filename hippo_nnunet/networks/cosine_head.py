"""A segmentation head of cosine similarities to text embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

MAX_SCALE = 100.0
"""Highest temperature. Source: CLIP's (Radford et al. 2021, arXiv:2103.00020, section 2.5)."""

NORM_FLOOR = 1e-3
"""Least norm of an embedding, as a share of the Frobenius norm of weight and bias together.

It bounds the gradient, which is proportional to one over the norm. Source: ours.
"""


class Ceiling(torch.autograd.Function):
    """The lesser of a number and a ceiling, whose gradient stops only what would lift the number further above it.

    A plain clamp has no gradient above the ceiling, so a temperature that starts there could never fall. CLIP clamps
    its parameter after each step instead, which would be up to the trainer, not the network.
    """

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, ceiling: float) -> torch.Tensor:
        """Return the lesser of both."""
        ctx.save_for_backward(value)
        ctx.ceiling = ceiling
        return value.clamp(max=ceiling)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Pass on a gradient that lowers the value, and below the ceiling every gradient."""
        (value,) = ctx.saved_tensors
        return torch.where(value < ctx.ceiling, grad, grad.clamp(min=0)), None


class CosineHead(nn.Module):
    """Score each pixel by the cosine between its embedding ``weight @ f + bias`` and each class's text embedding.

    The head is computed in single precision (in double where the parameters are double), also under autocast.

    The start: a cosine does not depend on the size of W, yet its gradient does, by one over the norm. So W and b are
    drawn such that a normalised and rectified feature vector (mean square 1/2) gets an embedding of the norm
    ``initial_norm``. With that at the temperature's start, logits answer to a step of W as those of a 1x1 convolution
    do. b is drawn as a column of W, so that the norm is not zero where all features are. Cosines then start around
    zero with a deviation of ``1 / sqrt(embed_dim)``. For given texts, ``project_out`` makes them start at exactly zero,
    and ``start_at`` then as a 1x1 convolution's logits.

    Fewer rows: with ``classes``, W and b are kept in an orthonormal basis whose first vectors span the texts, and texts
    are given by their coordinates (``text_coordinates``). Across the texts' span only the Gram matrix of [W, b] counts,
    and gradient steps with momentum and weight decay change it in the same way however many rows make it. So
    ``classes + in_channels + 1`` rows start, learn and score as ``embed_dim`` of them would, exactly.

    Args:
        in_channels: Channels of the features.
        embed_dim: Length of a text embedding.
        initial_norm: Norm of an embedding at the start; the temperature's start is a good value.
        classes: Number of texts, when they are given by coordinates; None for texts as they are.

    Attributes:
        weight: Parameter (rows, in_channels).
        bias: Parameter (rows,).

    Source:
        Ours. The cosine with a learned temperature is CLIP's: Radford et al. 2021, arXiv:2103.00020.
    """

    def __init__(
        self, in_channels: int, embed_dim: int, initial_norm: float = 100.0, classes: int | None = None
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.embed_dim = embed_dim
        self.initial_norm = initial_norm
        self.rows = embed_dim if classes is None else min(embed_dim, classes + in_channels + 1)
        self.weight = nn.Parameter(torch.empty(self.rows, in_channels))
        self.bias = nn.Parameter(torch.empty(self.rows))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights and biases, see the class."""
        std = self.initial_norm * math.sqrt(2 / (self.embed_dim * self.in_channels))
        drawn = std * torch.randn(self.embed_dim, self.in_channels + 1, device=self.weight.device)
        if self.rows < self.embed_dim:
            across = self.rows - self.in_channels - 1
            drawn = torch.cat((drawn[:across], torch.linalg.qr(drawn[across:], mode="r").R))  # of the same Gram matrix
        self.weight.copy_(drawn[:, :-1])
        self.bias.copy_(drawn[:, -1])

    @torch.no_grad()
    def project_out(self, text: torch.Tensor) -> None:
        """Project the directions of text embeddings out of weight and bias, so that all their cosines are 0.

        The head then starts like a classifier whose weights are zero: all classes equally likely, whatever the texts.
        Nothing changes where the texts span all rows.

        Args:
            text: As for ``forward``.
        """
        text = text[:, : self.rows]
        if len(text) < self.rows:
            basis, _ = torch.linalg.qr(text.to(self.weight).T)
            self.weight.sub_(basis @ (basis.T @ self.weight))
            self.bias.sub_(basis @ (basis.T @ self.bias))

    @torch.no_grad()
    def start_at(self, text: torch.Tensor) -> None:
        """Add a random part along text embeddings to the weight, so that logits start as those of a 1x1 convolution.

        At zero the features would get no gradient before the weights have learned the texts, which takes a short
        training's first half. With ``initial_norm`` at the temperature's start, a class's logit starts as that of
        ``nn.init.kaiming_normal_``'s weights for its own text, plus those of the others times its cosines with them.

        Args:
            text: As for ``forward``; ``project_out`` first.
        """
        drawn = torch.randn(len(text), self.in_channels, device=self.weight.device)
        self.weight.add_(math.sqrt(2 / self.in_channels) * text[:, : self.rows].to(self.weight).T @ drawn)

    def forward(self, features: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Score.

        Args:
            features: Shape (batch, in_channels, *spatial), any floating type.
            text: Text embeddings of unit norm, shape (classes, embed_dim), or their coordinates, of which the first
                ``rows`` count.
            scale: The temperature that multiplies the cosines, a single number.

        Returns:
            Logits in [-scale, scale], float32, shape (batch, classes, *spatial).
        """
        with torch.autocast(features.device.type, enabled=False):
            dtype = torch.promote_types(self.weight.dtype, torch.float32)
            pixels = features.flatten(2).to(dtype)
            weight, bias = self.weight.to(dtype), self.bias.to(dtype)
            embeddings = torch.baddbmm(bias[:, None], weight.expand(len(pixels), -1, -1), pixels)
            size = torch.sqrt(weight.detach().square().sum() + bias.detach().square().sum())
            least = (NORM_FLOOR * size).clamp(min=1e-6)
            norms = torch.maximum(torch.linalg.vector_norm(embeddings, dim=1, keepdim=True), least)
            scaled = scale.to(dtype) * text[:, : self.rows].to(dtype)
            logits = torch.bmm(scaled.expand(len(pixels), -1, -1), embeddings) / norms
        return logits.unflatten(2, features.shape[2:])


def text_coordinates(text: torch.Tensor, size: int, learned: torch.Tensor | None = None) -> torch.Tensor:
    """Return the coordinates of texts in an orthonormal basis whose first vectors span the texts of a training.

    The basis depends only on these texts, and that of a smaller size is a prefix of it. Components of other texts
    outside of it are ignored, because a head has learned nothing about them.

    Args:
        text: Text embeddings of unit norm, shape (classes, embed_dim).
        size: Vectors in the basis, at least as many as classes, at most embed_dim.
        learned: The texts of the training, where they are others.

    Returns:
        Shape (classes, size), of the text's type and on its device.
    """
    spanning = (text if learned is None else learned).cpu().double()
    basis, _ = torch.linalg.qr(torch.cat((spanning.T, torch.eye(text.shape[1], dtype=torch.float64)), 1)[:, :size])
    return (text.cpu().double() @ basis).to(text)
