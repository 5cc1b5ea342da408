"""Seeded variants of a head scan, as scanners, people and programs make them, to test `segment` with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

SHAPES_MM = ((1.0, 1.0, 3.0), (1.0, 3.0, 1.0), (3.0, 1.0, 1.0))
"""Voxels of thick slices: axial, coronal, sagittal."""
ORDERS = [
    np.array(list(zip(axes, flips, strict=True)), float)
    for axes in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]
"""The 48 ways to order and flip axes, as nibabel's orientations."""


@dataclass(frozen=True)
class Variant:
    """What is done to a head.

    Args:
        angles: Degrees around the axes to the right, to the front and up.
        shift_mm: Of the head within the field of view.
        voxel_mm: Edges of the new voxels.
        order: Index into ORDERS.
        neck_cut: Whether everything 25 mm and more below the hippocampi is outside of the field of view.
        bias: Amplitude of a smooth field that multiplies intensities.
        noise: Standard deviation over the 99th percentile of the intensities.
        scale: Factor of all intensities.
        stripped: Whether the skull-stripped image of the same head is taken, where there is one.
        seed: Of noise and bias field.
    """

    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    voxel_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: int = 0
    neck_cut: bool = False
    bias: float = 0.0
    noise: float = 0.0
    scale: float = 1.0
    stripped: bool = False
    seed: int = 0

    @classmethod
    def draw(cls, seed: int) -> Variant:
        """Draw a variant that combines everything."""
        rng = np.random.default_rng(seed)
        axis = rng.normal(size=3)
        angles = Rotation.from_rotvec(np.radians(25 * rng.uniform()) * axis / np.linalg.norm(axis)).as_euler(
            "xyz", True
        )
        direction = rng.normal(size=3)
        shift = 40 * rng.uniform() ** (1 / 3) * direction / np.linalg.norm(direction)
        thick = rng.uniform() < 0.25
        edge = float(rng.uniform(0.7, 1.5))
        voxel = SHAPES_MM[rng.integers(3)] if thick else (edge, edge, edge)
        return cls(
            _three(angles),
            _three(shift),
            voxel,
            int(rng.integers(48)),
            bool(rng.uniform() < 0.5),
            float(rng.uniform(0, 0.4)),
            float(rng.uniform(0, 0.05)),
            float(10 ** rng.uniform(-3, 4)),
            bool(rng.uniform() < 0.3),
            seed,
        )


@dataclass(frozen=True)
class Head:
    """An unchanged head.

    Args:
        image: Voxels in RAS order.
        affine: Voxel indices to world coordinates, mm.
        centre: World coordinates between the hippocampi.
        stripped: Skull-stripped voxels on the same grid; None: there are none.
    """

    image: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]
    stripped: npt.NDArray[np.float32] | None = None

    @classmethod
    def load(cls, path: Path, centre: Sequence[float], stripped: Path | None = None) -> Head:
        """Read a file, and the skull-stripped one."""
        image, other = _ras(path), _ras(stripped) if stripped else None
        return cls(
            np.asarray(image.dataobj, np.float32),
            np.asarray(image.affine, float),
            np.asarray(centre, float),
            None if other is None else np.asarray(other.dataobj, np.float32),
        )


def _ras(path: Path) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.load(path))


def make(head: Head, variant: Variant) -> tuple[nib.Nifti1Image, npt.NDArray[np.float64]]:
    """Return the variant's image, and the matrix from the head's world to the variant's, shape (4, 4)."""
    rng = np.random.default_rng(variant.seed + 10_000)
    turn = Rotation.from_euler("xyz", variant.angles, degrees=True).as_matrix()
    moved = np.eye(4)
    moved[:3, :3] = turn
    moved[:3, 3] = head.centre - turn @ head.centre + variant.shift_mm
    corners = np.array(list(product(*((-0.5, size - 0.5) for size in head.image.shape))))
    world = corners @ head.affine[:3, :3].T + head.affine[:3, 3]
    low, high = world.min(axis=0), world.max(axis=0)  # the field of view grows with the shift
    low, high = low + np.minimum(variant.shift_mm, 0), high + np.maximum(variant.shift_mm, 0)
    if variant.neck_cut:
        low[2] = max(low[2], (moved @ [*head.centre, 1])[2] - 35)
    edges = np.array(variant.voxel_mm)
    shape = np.maximum(np.round((high - low) / edges).astype(int), 8)
    affine = np.diag([*edges, 1.0])
    affine[:3, 3] = low + edges / 2
    to_index = np.linalg.inv(head.affine) @ np.linalg.inv(moved) @ affine
    source = head.stripped if variant.stripped and head.stripped is not None else head.image
    own = np.linalg.norm(head.affine[:3, :3], axis=0)
    sigmas = np.sqrt(np.maximum((edges / own) ** 2 - 1, 0)) / 2.355  # a voxel is a mean
    source = ndimage.gaussian_filter(source, sigmas) if sigmas.max() > 0 else source
    voxels = ndimage.affine_transform(source, to_index[:3, :3], to_index[:3, 3], tuple(shape), order=1)
    _sharpen(voxels, source, to_index, np.linalg.inv(affine) @ moved @ [*head.centre, 1], edges)
    top = float(np.percentile(head.image, 99))
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    weights = rng.normal(size=3)
    field = np.einsum("a,axyz->xyz", weights / np.linalg.norm(weights), grid) + rng.normal() * (grid**2).mean(axis=0)
    voxels = voxels * np.exp(variant.bias * field)
    voxels = np.abs(voxels + rng.normal(scale=max(variant.noise, 1e-9) * top, size=voxels.shape))
    made = nib.Nifti1Image((variant.scale * voxels).astype(np.float32), affine)
    made.header.set_xyzt_units("mm")
    stored = made.as_reoriented(ORDERS[variant.order])
    stored.set_qform(None, 0)
    stored.set_sform(stored.affine, 1)
    return stored, moved


def _sharpen(
    voxels: npt.NDArray[np.float32],
    source: npt.NDArray[np.float32],
    to_index: npt.NDArray[np.float64],
    middle: npt.NDArray[np.float64],
    edges: npt.NDArray[np.float64],
) -> None:
    """Interpolate by splines where the model looks: linear interpolation blurs, splines of a whole head take long."""
    reach = np.array([60.0, 60.0, 50.0]) / edges
    low = np.clip(np.floor(middle[:3] - reach).astype(int), 0, voxels.shape)
    high = np.clip(np.ceil(middle[:3] + reach).astype(int), low, voxels.shape)
    part = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    offset = to_index[:3, :3] @ low + to_index[:3, 3]
    smooth = ndimage.affine_transform(source, to_index[:3, :3], offset, tuple(high - low), order=3)
    voxels[part] = np.clip(smooth, source.min(), source.max())


def _three(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
