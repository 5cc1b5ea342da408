"""Guidance: the embedding of an image, 2D or 3D, by a frozen encoder of slices, or what stands in for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

Encode = Callable[[torch.Tensor], torch.Tensor]
"""From slices (n, channels, y, x) to unit embeddings (n, embed_dim)."""

PLACES = 32
"""Relative positions along an image at which embeddings that stand in for its own are stored."""

GUIDANCE_SLICES = 3
"""Evenly spaced slices of a 3D patch that are encoded and pooled."""

_HARMONICS = 8
_LEAST_DEVIATION = 1e-4


@dataclass(frozen=True)
class SliceView:
    """How a stored slice is turned before the encoder sees it: transposed first, then flipped.

    Args:
        transposed: Whether rows and columns change places.
        flipped_rows: Whether the transposed slice's rows are reversed.
        flipped_columns: Whether its columns are.
    """

    transposed: bool = False
    flipped_rows: bool = False
    flipped_columns: bool = False

    def show(self, slices: torch.Tensor) -> torch.Tensor:
        """Turn slices (..., y, x) as stored to slices as shown."""
        return self._flip(slices.transpose(-1, -2) if self.transposed else slices)

    def restore(self, maps: torch.Tensor) -> torch.Tensor:
        """Turn maps (..., y, x) of slices as shown to the slices as stored."""
        maps = self._flip(maps)
        return maps.transpose(-1, -2) if self.transposed else maps

    def _flip(self, slices: torch.Tensor) -> torch.Tensor:
        axes = [axis for axis, flipped in ((-2, self.flipped_rows), (-1, self.flipped_columns)) if flipped]
        return slices.flip(axes) if axes else slices


class FrozenEncoder:
    """Holds the function of a frozen encoder, or None, outside a network's modules.

    Deep copies of the network share it; a pickle of the network leaves it out.
    """

    def __init__(self, encode: Encode | None = None) -> None:
        self.encode = encode

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenEncoder:
        """Share it."""
        return self

    def __reduce__(self) -> tuple[type[FrozenEncoder], tuple[()]]:
        """Pickle an empty one."""
        return FrozenEncoder, ()


def slicing_axis(shape: Sequence[int]) -> int:
    """Return the axis with the fewest voxels, the first of several; across it a 3D patch is cut into slices.

    Args:
        shape: Spatial shape in voxels.
    """
    return min(range(len(shape)), key=lambda axis: shape[axis])


def spaced_slices(extent: int, count: int) -> list[int]:
    """Return the slices in the middle of ``count`` equal parts; all slices where there are fewer than that.

    Args:
        extent: Number of slices.
        count: Number of slices wanted, at least 1.
    """
    count = min(count, extent)
    return [(2 * part + 1) * extent // (2 * count) for part in range(count)]


def pool_slices(embeddings: torch.Tensor) -> torch.Tensor:
    """Average the embeddings of slices, and normalise.

    Args:
        embeddings: Unit vectors, shape (..., slices, embed_dim).

    Returns:
        Unit vectors, shape (..., embed_dim); zeros where the embeddings cancel out.
    """
    return F.normalize(embeddings.mean(-2), dim=-1)


def root_mean_square(values: torch.Tensor) -> torch.Tensor:
    """Return the root of the mean square of all values, 0-d; one where all are rounding errors around zero."""
    found = values.float().square().mean().sqrt()
    return found if found > _LEAST_DEVIATION else torch.ones_like(found)


def resample_slices(embeddings: torch.Tensor, count: int) -> torch.Tensor:
    """Return the embeddings at other, evenly spaced slices: of each the nearest by relative position.

    Args:
        embeddings: Of evenly spaced slices, shape (slices, embed_dim).
        count: Number of slices wanted.

    Returns:
        Shape (count, embed_dim).
    """
    return embeddings[[(2 * place + 1) * len(embeddings) // (2 * count) for place in range(count)]]


def position_embeddings(embed_dim: int, seed: int) -> torch.Tensor:
    """Return unit vectors that encode nothing but the relative position of a slice.

    Sines and cosines of eight frequencies (fewer for short embeddings), under a random rotation.

    Args:
        embed_dim: Length of a vector, at least 2.
        seed: Seed of the rotation.

    Returns:
        Shape (``PLACES``, embed_dim), float32.
    """
    frequencies = math.pi * torch.arange(1, min(_HARMONICS, embed_dim // 2) + 1, dtype=torch.float64)
    angles = ((torch.arange(PLACES, dtype=torch.float64) + 0.5) / PLACES)[:, None] * frequencies
    waves = torch.cat((angles.sin(), angles.cos()), 1) / math.sqrt(len(frequencies))
    return (waves @ orthonormal_rows(waves.shape[1], embed_dim, seed)).float()


def orthonormal_rows(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Return random orthonormal rows, float64, uniform on the Stiefel manifold; a random rotation if it is square.

    Source: Mezzadri 2007, arXiv:math-ph/0609050 (QR decomposition with a positive diagonal of R).
    """
    drawn = torch.randn(columns, rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    return (q * r.diagonal().sign()).T
