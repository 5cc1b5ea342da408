"""The three planes of an image whose axes point right, anterior and superior, and which slices to show."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Plane(NamedTuple):
    """A plane of an image whose axes point right, anterior and superior: the fixed axis, and those across and up."""

    name: str
    fixed: int
    across: int
    up: int


PLANES = (Plane("sagittal", 0, 1, 2), Plane("coronal", 1, 0, 2), Plane("axial", 2, 0, 1))
ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
"""Letters of both ends of each axis."""


def foreground_area(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.int64]:
    """Return the number of foreground voxels in each slice along an axis."""
    return np.asarray(mask.sum(axis=tuple(other for other in range(mask.ndim) if other != axis)))


def middle_slices(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Return the slice of each axis that halves the foreground, or the image where there is none."""
    found = []
    for axis, size in enumerate(mask.shape):
        area = foreground_area(mask, axis)
        found.append(int(np.searchsorted(np.cumsum(area), area.sum() / 2)) if area.any() else size // 2)
    return found
