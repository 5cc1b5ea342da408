"""The voxels of a case as a page takes them: cropped where they are many, in bytes, compressed."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from hippo_nnunet.pages.planes import MARGIN_MM, box_to_show, grey_bytes, middle_slices
from hippo_nnunet.pages.report.viewer_cases import ViewedCase

MOST_VOXELS = 700_000
"""A larger image is cropped; if it is still larger, it is thinned out to this many voxels."""
_OBLIQUE_DEGREES = 10.0


def packed(array: npt.NDArray[Any]) -> str:
    """Write an array's little-endian bytes as base64 of zlib's deflate; a page has DecompressionStream for it."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes())).decode("ascii")


def slice_data(case: ViewedCase) -> tuple[dict[str, Any], list[str]]:
    """Crop a large case around its labels, thin it out where it is still large, and pack its voxels.

    Intensities become bytes between the 0.5th and 99.5th percentile of what is shown.

    Returns:
        JSON-able data with arrays as `packed` bytes whose last axis runs fastest, and notes on what was cropped or
        thinned out.
    """
    box, notes = _crop(case)
    step = _step([part.stop - part.start for part in box], case.spacing_mm)
    if max(step) > 1:
        notes.append(f"one voxel of {' × '.join(map(str, step))} (right, anterior, superior) is drawn")
    shown = tuple(
        slice(part.start + min(every // 2, part.stop - part.start - 1), part.stop, every)
        for part, every in zip(box, step, strict=True)
    )
    tilt = _tilt(case.affine)
    if tilt > _OBLIQUE_DEGREES:
        notes.append(f"its axes are up to {tilt:.0f}° oblique: letters name the nearest directions")
    image = case.image[shown]
    first, slope = _positions(case.affine, case.image.shape)
    data = {
        "shape": list(image.shape),
        "spacing": [size * every for size, every in zip(case.spacing_mm, step, strict=True)],
        "full": list(case.image.shape),
        "offset": [part.start for part in shown],
        "step": list(step),
        "position": first,
        "slope": slope,
        "start": middle_slices(case.reference[shown] > 0),
        "image": packed(grey_bytes(image)),
        "reference": packed(case.reference[shown]),
        "predictions": {str(position): packed(labels[shown]) for position, labels in case.predictions.items()},
    }
    return data, notes


def _crop(case: ViewedCase) -> tuple[tuple[slice, ...], list[str]]:
    foreground = np.logical_or.reduce([case.reference > 0, *(labels > 0 for labels in case.predictions.values())])
    box = box_to_show(foreground, case.spacing_mm)
    if box == tuple(slice(0, size) for size in case.image.shape):
        return box, []
    return box, [f"cropped to {MARGIN_MM:g} mm around reference and predictions"]


def _step(shape: list[int], spacing_mm: tuple[float, ...]) -> list[int]:
    """Thin out the finest axis first, until few enough voxels are left."""
    step = [1, 1, 1]
    while np.prod([-(-size // every) for size, every in zip(shape, step, strict=True)]) > MOST_VOXELS:
        step[int(np.argmin(np.multiply(step, spacing_mm)))] += 1
    return step


def _positions(affine: npt.NDArray[np.float64], shape: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """World coordinate, along each axis, of the centre of its first slice, and from one slice to the next, in mm."""
    first = []
    for axis in range(3):
        centre = np.array([*((size - 1) / 2 for size in shape), 1.0])
        centre[axis] = 0.0
        first.append(round(float((affine @ centre)[axis]), 4))
    return first, [round(float(affine[axis, axis]), 6) for axis in range(3)]


def _tilt(affine: npt.NDArray[np.float64]) -> float:
    directions = np.diag(affine[:3, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(directions.min(), -1, 1))))
