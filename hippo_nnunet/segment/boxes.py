"""Boxes around the hippocampi, sampled as the model's training images are stored, and the way back to the scan's grid.

The training images of Task04 are crops of 1 mm voxels in RAS order, in which every hippocampus is a left one as stored:
anterior is larger y, medial is larger x. A box around the right one has its x axis reversed, so it is mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hippo_nnunet.segment.registration import Registration, rotation_matrix
from hippo_nnunet.segment.scan import Floats, Matrix, Scan

LEFT, RIGHT = "left", "right"
SIDES = (LEFT, RIGHT)
PLACES_MM = {LEFT: np.array([-27.0, -21.0, -13.0]), RIGHT: np.array([27.0, -21.0, -13.0])}
"""MNI coordinates of the boxes' middles."""
SIZE = (36, 52, 36)
"""Voxels of 1 mm along (x, y, z): the training images have about 35 x 50 x 36."""
PITCH_DEGREES = -14.0
"""Turn of the box around the axis to the right, from MNI axes: the training images lie along the scanner's axes, in
which the hippocampus falls by 24 degrees from front to back on average, and by 39 degrees in the MNI152."""
OFFSET_MM = np.array([0.9, 0.4, 0.3])
"""From the middle of a label's bounding box to the middle of its training image, on average of the 220."""
_MARGIN = 8
"""Voxels around a box that the splines need."""
_SUBSAMPLED = 1.25
"""Voxel edge in mm from which a voxel's probability is averaged over several points inside."""


@dataclass(frozen=True)
class Box:
    """A grid of 1 mm voxels in the scan's frame.

    Attributes:
        middle: In the frame, mm.
        axes: The box's axes (x, y, z) as columns of unit length in the frame; the first one is reversed on the right.
        size: Voxels along (x, y, z).
    """

    middle: Matrix
    axes: Matrix
    size: tuple[int, int, int] = SIZE

    @property
    def to_frame(self) -> Matrix:
        """Voxel indices to mm in the frame, shape (4, 4)."""
        affine = np.eye(4)
        affine[:3, :3] = self.axes
        affine[:3, 3] = self.middle - self.axes @ ((np.array(self.size) - 1) / 2)
        return affine

    def around(self, mask: npt.NDArray[np.bool_]) -> Box:
        """Return a box whose middle lies to a mask on this grid as a training image's middle to its label."""
        filled = np.argwhere(mask)
        middle = (filled.min(axis=0) + filled.max(axis=0)) / 2 + OFFSET_MM
        return replace(self, middle=self.to_frame[:3, :3] @ middle + self.to_frame[:3, 3])


def registered_boxes(registration: Registration) -> dict[str, Box]:
    """Return the boxes of a registered head. They turn with it, and are not scaled, so volumes are the scan's own."""
    axes = registration.rotation @ rotation_matrix(PITCH_DEGREES, 0, 0)
    return {
        side: Box(registration.matrix[:3, :3] @ place + registration.matrix[:3, 3], mirrored(axes, side))
        for side, place in PLACES_MM.items()
    }


def mirrored(axes: Matrix, side: str) -> Matrix:
    """Return a box's axes; on the right, the first one is reversed."""
    return axes * [-1.0, 1.0, 1.0] if side == RIGHT else axes


def sample(scan: Scan, box: Box) -> tuple[Floats, float]:
    """Resample a scan to a box by cubic splines; voxels smaller than 1 mm are smoothed first.

    Returns:
        float32 (x, y, z), continued outside of the field of view by its nearest voxel; and the share of the box within
        the field of view.
    """
    to_index = np.linalg.inv(scan.to_frame) @ box.to_frame
    corners = np.array(list(product(*((0, size - 1) for size in box.size)))) @ to_index[:3, :3].T + to_index[:3, 3]
    limits = np.array(scan.image.shape)
    low = np.clip(np.floor(corners.min(axis=0)).astype(int) - _MARGIN, 0, limits - 1)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + _MARGIN + 1, low + 1, limits)
    part = scan.image[tuple(slice(*ends) for ends in zip(low, high, strict=True))].astype(np.float64)
    edges = np.array(scan.spacing_mm)
    sigmas = np.sqrt(np.maximum(1 - edges**2, 0) / (8 * np.log(2))) / edges  # a voxel's width at half height: 1 mm
    if sigmas.max() > 0.1:
        part = ndimage.gaussian_filter(part, sigmas, mode="nearest")
    step, offset = to_index[:3, :3], to_index[:3, 3] - low
    sampled = ndimage.affine_transform(part, step, offset, box.size, order=3, mode="nearest")
    sampled = np.clip(sampled, part.min(), part.max())  # splines overshoot at edges
    places = np.indices(box.size).reshape(3, -1).T @ to_index[:3, :3].T + to_index[:3, 3]
    inside = ((places > -0.5) & (places < limits - 0.5)).all(axis=1)
    return sampled.astype(np.float32), float(inside.mean())


def to_scan(probabilities: Floats, box: Box, scan: Scan) -> tuple[tuple[slice, slice, slice], Floats]:
    """Resample probabilities on a box to the scan's voxels, linearly.

    Probabilities and not labels are resampled, so that borders stay smooth in voxels of any size; in voxels larger than
    1 mm they are averaged.

    Args:
        probabilities: float32 (head, x, y, z); the first head is the background.
        box: Their grid.
        scan: The scan.

    Returns:
        The part of `scan.image` that holds the box, and the probabilities there, (head, x, y, z), background outside of
        the box; an empty part if the box lies outside of the field of view.
    """
    to_index = np.linalg.inv(scan.to_frame) @ box.to_frame
    corners = np.array(list(product(*((-0.5, size - 0.5) for size in box.size))))
    corners = corners @ to_index[:3, :3].T + to_index[:3, 3]
    limits = np.array(scan.image.shape)
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, limits)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, low, limits)
    part = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    shape = tuple(high - low)
    back = np.linalg.inv(to_index)
    found = np.zeros((len(probabilities), *shape), np.float32)
    if 0 not in shape:
        points = _points_inside(scan.spacing_mm)
        for point in points:
            offset = back[:3, :3] @ (low + point) + back[:3, 3]
            for head in range(1, len(probabilities)):
                found[head] += ndimage.affine_transform(
                    probabilities[head], back[:3, :3], offset, shape, order=1, mode="constant"
                )
        found /= len(points)
    found[0] = np.maximum(1 - found[1:].sum(axis=0), 0)
    return (part[0], part[1], part[2]), found


def _points_inside(spacing_mm: tuple[float, float, float]) -> list[Matrix]:
    """Return points, evenly distributed in a voxel, relative to its middle, in voxels."""
    counts = [1 if edge < _SUBSAMPLED else int(np.ceil(edge)) for edge in spacing_mm]
    return [np.array(point) for point in product(*((np.arange(n) - (n - 1) / 2) / n for n in counts))]
