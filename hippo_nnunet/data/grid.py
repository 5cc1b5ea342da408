"""The grid of an image's voxels in space, and whether two images lie on the same one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

TOLERANCE_VOXELS = 0.01
"""Largest distance between equal positions, in smallest voxel edges.

Headers hold 32-bit numbers, so equal grids differ by about 1e-5.
"""


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie.

    Args:
        shape: size as (x, y, z), in voxels.
        affine: voxel-to-world matrix, shape (4, 4), for voxel indices (x, y, z), in mm, RAS+.
        spacing_mm: voxel size along (x, y, z).
    """

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, ...]


@dataclass(frozen=True)
class GridDifference:
    """How a grid differs from the expected one; as text what was got and what was expected."""

    kind: Literal["shape", "affine"]
    text: str


def grid_difference(found: Grid, expected: Grid, name: str) -> GridDifference | None:
    """Compare two grids: every command uses this rule, between channels, labels, predictions and images.

    Args:
        found: grid of one image.
        expected: grid of the image on whose voxels it should lie.
        name: what the message calls that image.

    Returns:
        The difference; None if the shapes are equal, no corner lies further than TOLERANCE_VOXELS from its expected
        position, and the spacings agree to 1e-5, which nnU-Net demands.
    """
    if found.shape != expected.shape:
        return GridDifference("shape", f"shape {found.shape}, but {name} has {expected.shape}")
    shift = shift_mm(found.affine, expected.affine, found.shape)
    same_spacing = np.allclose(found.spacing_mm, expected.spacing_mm)
    edge = float(np.linalg.norm(expected.affine[:3, :3], axis=0).min())
    if shift <= TOLERANCE_VOXELS * edge and same_spacing:
        return None
    text = f"affine differs from that of {name}: it lies up to {shift:.4g} mm away"
    if not same_spacing:
        text += f", spacing {sizes_text(found.spacing_mm)} mm, expected {sizes_text(expected.spacing_mm)} mm"
    return GridDifference("affine", text)


def shift_mm(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Largest distance, in mm, by which two affines place a corner voxel differently.

    Args:
        first: voxel-to-world matrix, shape (4, 4), mm.
        second: the other one.
        shape: size of the volume as (x, y, z), in voxels.
    """
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, size - 1.0) for size in shape))])
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


def sizes_text(sizes: Iterable[float]) -> str:
    """Return sizes as text, such as `1 x 1 x 2.5`."""
    return " x ".join(f"{size:.6g}" for size in sizes)
