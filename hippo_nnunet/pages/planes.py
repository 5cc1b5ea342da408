"""The three planes of an image whose axes point right, anterior and superior: which slices to show, in which greys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, io_orientation


class Plane(NamedTuple):
    """A plane of an image whose axes point right, anterior and superior: the fixed axis, and those across and up."""

    name: str
    fixed: int
    across: int
    up: int


PLANES = (Plane("sagittal", 0, 1, 2), Plane("coronal", 1, 0, 2), Plane("axial", 2, 0, 1))
ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
"""Letters of both ends of each axis."""
_BAR_MM = (1, 2, 5, 10, 20, 50, 100, 200)
_PERCENTILES = (0.5, 99.5)
WHOLE_VOXELS = 150_000
"""An image with at most this many voxels is shown whole."""
MARGIN_MM = 15.0
"""Of a larger image, what is shown around its labels."""


class Turn:
    """Turns arrays, without resampling, so that their axes point right, anterior and superior as nearly as possible.

    Args:
        affine: Voxel-to-world matrix, shape (4, 4), for indices (x, y, z); only its directions count.
    """

    def __init__(self, affine: npt.NDArray[np.float64]) -> None:
        self._orientation = io_orientation(affine)

    def array(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn an array of shape (x, y, z)."""
        return np.asarray(apply_orientation(array, self._orientation))

    def spacing(self, spacing_mm: Sequence[float]) -> tuple[float, float, float]:
        """Return the voxel size, given along (x, y, z), along the turned axes."""
        turned = [0.0, 0.0, 0.0]
        for (axis, _), size in zip(self._orientation, spacing_mm, strict=True):
            turned[int(axis)] = float(size)
        return turned[0], turned[1], turned[2]


def box_to_show(foreground: npt.NDArray[np.bool_], spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    """Return the part of an image to show: all of one up to WHOLE_VOXELS, else MARGIN_MM around the foreground."""
    if foreground.size <= WHOLE_VOXELS or not foreground.any():
        return tuple(slice(0, size) for size in foreground.shape)
    from scipy.ndimage import find_objects

    (used,) = find_objects(foreground.view(np.uint8))
    margins = np.ceil(np.divide(MARGIN_MM, spacing_mm)).astype(int).tolist()
    return tuple(
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, margin, size in zip(used, margins, foreground.shape, strict=True)
    )


def bar_mm(width_mm: float) -> int:
    """Return a round length for the scale bar of an image: at most a third of its width, but 1 mm at least."""
    return max((bar for bar in _BAR_MM if bar <= width_mm / 3), default=_BAR_MM[0])


def grey_bytes(image: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Map intensities from the 0.5th to the 99.5th percentile to 0 to 255; a constant image is 0."""
    values = image.astype(np.float64)
    low, high = np.percentile(values, _PERCENTILES)
    if high <= low:
        low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)


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


def largest_slices(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Return the slice of each axis with the most foreground, or the image's middle where there is none."""
    if not mask.any():
        return [size // 2 for size in mask.shape]
    return [int(foreground_area(mask, axis).argmax()) for axis in range(mask.ndim)]
