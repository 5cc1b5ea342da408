"""A segmentation head of cosine similarities to text embeddings, without the embedding of each pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

MAX_SCALE = 100.0
"""Highest temperature. Source: CLIP's (Radford et al. 2021, arXiv:2103.00020, section 2.5)."""

CHUNK_BYTES = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Size of the temporary of a chunk of pixels, by device: on a CPU it fits the cache, elsewhere few launches count.

Source: ours, measured on two CPU cores.
"""

NORM_FLOOR = 1e-3
"""Least norm of an embedding, as a share of the Frobenius norm of weight and bias together.

A norm of nearly zero comes from cancellation, which single precision does not resolve below about this. Source: ours.
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

    The embeddings themselves, ``embed_dim`` numbers per pixel, are never computed. With text T, weight W and bias b the
    numerator is ``(T W) f + T b``, a 1x1 convolution with as many outputs as classes, and the squared norm is
    ``f' (W'W) f + 2 (W'b)' f + b'b``, a quadratic form in the few features. Both are computed in single precision (in
    double where the parameters are double), also under autocast. The gradient of a gradient is not available.

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
            weight = torch.cat((self.weight, self.bias[:, None]), 1).to(dtype)
            form = torch.cat((scale.to(dtype) * text[:, : self.rows].to(dtype), weight.T)) @ weight
        logits: torch.Tensor = _cosine_logits(features, form)[0]
        return logits


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
    spanning = (text if learned is None else learned).double().cpu()
    basis, _ = torch.linalg.qr(torch.cat((spanning.T, torch.eye(text.shape[1], dtype=torch.float64)), 1)[:, :size])
    return (text.double().cpu() @ basis).to(text)


# Custom operators, so that torch.compile keeps them whole. `form` is [s T; W'; b'] [W, b], of shape
# (classes + channels + 1, channels + 1): the rows of the numerator, of the quadratic part, and of the linear part; the
# last column is what is added. Applied to a pixel's features it gives s T e, then W'e, then b'e, for its embedding e.


@torch.library.custom_op(
    "hippo_nnunet::cosine_logits", mutates_args=(), schema="(Tensor features, Tensor form) -> (Tensor, Tensor)"
)
def _cosine_logits(features: torch.Tensor, form: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (batch, classes, *spatial) and one over the norm (batch, 1, *spatial)."""
    pixels = features.flatten(2)
    classes = len(form) - form.shape[1]
    matrix, added = _parts(form)
    logits, inverse = (form.new_empty(len(pixels), n, pixels.shape[2]) for n in (classes, 1))
    floor = _floor(form)
    with torch.autocast(features.device.type, enabled=False):
        for chunk in _chunks(pixels, form):
            f = pixels[chunk].to(form.dtype)
            y = torch.baddbmm(added, matrix.expand(len(f), -1, -1), f)
            y[:, classes:-1] *= f
            r = torch.sum(y[:, classes:], 1, keepdim=True, out=inverse[chunk]).clamp_(min=floor).rsqrt_()
            torch.mul(y[:, :classes], r, out=logits[chunk])
    size = features.shape[2:]
    return logits.unflatten(2, size), inverse.unflatten(2, size)


@torch.library.custom_op(
    "hippo_nnunet::cosine_logits_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor features, Tensor form, Tensor logits, Tensor inverse) -> (Tensor, Tensor)",
)
def _cosine_logits_backward(
    grad: torch.Tensor, features: torch.Tensor, form: torch.Tensor, logits: torch.Tensor, inverse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of features and form.

    With g the gradient of the logits y and r one over the norm, the numerator's is q = g r and the squared norm's is
    w / 2 with w = - r^2 (g . y). As the quadratic part is symmetric, the features' is the matrix, transposed, times
    (q, w f, w), and the form's is (q, w f / 2, w / 2) times (f, 1).
    """
    pixels, g, y, inverse = (x.flatten(2) for x in (features, grad, logits, inverse))
    classes = y.shape[1]
    matrix, _ = _parts(form)
    grad_features = torch.empty_like(pixels, memory_format=torch.contiguous_format)
    grad_form = torch.zeros_like(form)
    at_floor = _floor(form).rsqrt()
    with torch.autocast(features.device.type, enabled=False):
        for chunk in _chunks(pixels, form):
            f, r = pixels[chunk].to(form.dtype), inverse[chunk]
            x = form.new_empty(len(f), len(form), f.shape[2])
            q = torch.mul(g[chunk], r, out=x[:, :classes])
            w = torch.sum(q * y[chunk], 1, keepdim=True, out=x[:, -1:]).mul_(r).neg_().masked_fill_(r >= at_floor, 0)
            torch.mul(f, w, out=x[:, classes:-1])
            grad_features[chunk] = torch.bmm(matrix.T.expand(len(f), -1, -1), x)
            grad_form[:, :-1] += torch.bmm(x, f.transpose(1, 2)).sum(0)
            grad_form[:classes, -1] += q.sum((0, 2))
            grad_form[-1, -1] += w.sum()
    grad_form[classes:-1, -1] = grad_form[-1, :-1]
    grad_form[classes:] /= 2
    return grad_features.view(features.shape), grad_form


def _parts(form: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix (rows, channels) that multiplies features, and what is added, (1, rows, 1)."""
    return form[:, :-1].contiguous(), form[:, -1].view(1, -1, 1)


def _floor(form: torch.Tensor) -> torch.Tensor:
    """Least squared norm; the last rows of the form are square, and their trace is that of [W, b]' [W, b]."""
    return (NORM_FLOOR**2 * form[-form.shape[1] :].trace()).clamp(min=1e-12)


def _chunks(pixels: torch.Tensor, form: torch.Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Cut (batch, channels, positions) into parts of whole samples, or of one sample's positions."""
    batch, _, positions = pixels.shape
    size = CHUNK_BYTES.get(pixels.device.type, CHUNK_BYTES["cuda"]) // (len(form) * form.element_size())
    samples, length = max(1, size // max(1, positions)), min(positions, max(1, size))
    for i in range(0, batch, samples):
        for j in range(0, positions, length):
            yield slice(i, i + samples), slice(None), slice(j, j + length)


@_cosine_logits.register_fake
def _(features: torch.Tensor, form: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shapes = ((len(features), n, *features.shape[2:]) for n in (form.shape[0] - form.shape[1], 1))
    logits, inverse = (form.new_empty(shape) for shape in shapes)
    return logits, inverse


@_cosine_logits_backward.register_fake
def _(
    grad: torch.Tensor, features: torch.Tensor, form: torch.Tensor, logits: torch.Tensor, inverse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(features, memory_format=torch.contiguous_format), torch.empty_like(form)


def _save(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: torch.Tensor | None, _: None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    return (None, None) if grad is None else _cosine_logits_backward(grad, *ctx.saved_tensors)


_cosine_logits.register_autograd(_backward, setup_context=_save)
