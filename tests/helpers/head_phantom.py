"""A head of two bright balls where the hippocampi are, and a model that finds what is bright."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np

BALLS_MM = {"left": np.array([-26.0, -20.0, -12.0]), "right": np.array([25.0, -17.0, -10.0])}
"""World coordinates of the balls' middles."""
RADIUS_MM = 9.0
ORDERS = [
    np.array(list(zip(axes, flips, strict=True)), float)
    for axes in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]
"""The 48 ways to order and flip axes."""


def balls(edges: tuple[float, float, float] = (2.0, 2.0, 2.0), turn: np.ndarray | None = None) -> nib.Nifti1Image:
    """Return a head of 120 x 130 x 110 mm: 100 around, 900 in the front half of each ball, 600 in its back half."""
    shape = [round(size / edge) for size, edge in zip((120, 130, 110), edges, strict=True)]
    affine = np.diag([*edges, 1.0])
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ affine[:3, :3]
    affine[:3, 3] = np.array([3.0, -21.0, -9.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    points = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    voxels = np.full(len(points), 100.0)
    for middle in BALLS_MM.values():
        away = points - middle
        inside = np.linalg.norm(away, axis=1) <= RADIUS_MM
        voxels[inside] = np.where(away[inside, 1] > 0, 900.0, 600.0)
    return nib.Nifti1Image(voxels.reshape(shape).astype(np.float32), affine)


def mask_of(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Return the balls as an aseg: 17 on the left, 53 on the right."""
    voxels = np.asarray(image.dataobj)
    x = np.indices(voxels.shape).reshape(3, -1).T @ image.affine[:3, :3].T + image.affine[:3, 3]
    left = (x[:, 0] < 0).reshape(voxels.shape)
    return nib.Nifti1Image(np.where(voxels > 300, np.where(left, 17, 53), 0).astype(np.uint8), image.affine)


def save(image: nib.Nifti1Image, path: Path) -> Path:
    """Write an image with a sform only."""
    image.set_sform(image.affine, 1)
    image.set_qform(None, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


@dataclass
class BrightModel:
    """Stands in for `BoxModel`: what is brighter than 750 is anterior, brighter than 350 posterior.

    Args:
        path: Any file, whose hash identifies the model.
        seen: The boxes predicted.
    """

    path: Path
    seen: list[np.ndarray] = field(default_factory=list)
    parts: tuple[str, ...] = ("anterior", "posterior")
    dataset_json: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """What `run` asks of the opened file."""
        return SimpleNamespace(path=self.path, dataset_json=self.dataset_json)

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Return probabilities of 0.9 for the label, and the rest for the others."""
        self.seen.append(image)
        labels = np.where(image > 750, 1, np.where(image > 350, 2, 0))
        return np.stack([np.where(labels == value, 0.9, 0.05) for value in range(3)]).astype(np.float32)
