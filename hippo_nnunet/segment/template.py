"""The packaged template: MNI152, brain only; see mni152/LICENSE and scripts/make_template.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.nifti_file import open_image
from hippo_nnunet.errors import DependencyError

FILE = Path(__file__).parent / "mni152" / "mni152_t1_2mm.nii.gz"
BRAIN = 2
"""Least value inside of the brain; in the rim around it, which is compared too, there is 1."""


@dataclass(frozen=True)
class Template:
    """The template at one resolution.

    Attributes:
        image: float32 (x, y, z).
        mask: Brain and rim, the same shape.
        affine: Voxel indices to MNI coordinates in mm, shape (4, 4).
    """

    image: npt.NDArray[np.float32] = field(repr=False)
    mask: npt.NDArray[np.bool_] = field(repr=False)
    affine: npt.NDArray[np.float64]

    def points_mm(self) -> npt.NDArray[np.float64]:
        """Return the MNI coordinates of the mask's voxels, shape (voxels, 3)."""
        return np.argwhere(self.mask) @ self.affine[:3, :3].T + self.affine[:3, 3]


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the template at its own resolution of 2 mm.

    Raises:
        DependencyError: The file is missing or damaged.
    """
    try:
        image = open_image(FILE)
    except FoundProblem as error:
        raise DependencyError(f"{error.finding.path}: {error.finding.message}; reinstall hippo_nnunet") from error
    voxels = np.asarray(image.dataobj, np.float32)
    return Template(voxels, voxels > 0, np.asarray(image.affine, np.float64))


@lru_cache(maxsize=4)
def coarse_template(factor: int) -> Template:
    """Return the template with voxels of `factor` times 2 mm, each the mean of those inside."""
    fine = load_template()
    affine = fine.affine @ np.diag([factor, factor, factor, 1.0])
    affine[:3, 3] += (factor - 1) / 2 * fine.affine[:3, :3].sum(axis=1)
    return Template(block_means(fine.image, (factor,) * 3), block_means(fine.mask, (factor,) * 3) >= 0.5, affine)


def block_means(image: npt.NDArray[np.generic], factors: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return the mean of each block of voxels; an incomplete block at the end is filled up with the border's voxels."""
    missing = [(0, -size % factor) for size, factor in zip(image.shape, factors, strict=True)]
    padded = np.pad(image, missing, mode="edge") if any(after for _, after in missing) else image
    means = padded.astype(np.float32, copy=False)
    for axis, factor in enumerate(factors):
        if factor > 1:
            shape = [*means.shape[:axis], means.shape[axis] // factor, factor, *means.shape[axis + 1 :]]
            means = means.reshape(shape).mean(axis=axis + 1)
    return means
