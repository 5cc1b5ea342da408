"""One head: both hippocampi, on their boxes and in the scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hippo_nnunet.errors import DataError
from hippo_nnunet.segment.boxes import SIDES, Box, registered_boxes, sample, to_scan
from hippo_nnunet.segment.checks import (
    FARTHEST_MM,
    REMEDY,
    check_box,
    check_registration,
    registration_flags,
)
from hippo_nnunet.segment.network import BoxModel
from hippo_nnunet.segment.registration import Registration, register
from hippo_nnunet.segment.scan import Floats, Scan

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentedSide:
    """One hippocampus on its box.

    Attributes:
        box: The second one, centred on what was found in the first one.
        image: The scan there, float32 (x, y, z); mirrored on the right.
        probabilities: float32 (head, x, y, z), background first.
        moved_mm: Distance of the second box from the first one.
    """

    box: Box
    image: Floats = field(repr=False)
    probabilities: Floats = field(repr=False)
    moved_mm: float

    @property
    def labels(self) -> Labels:
        """The likeliest label of each voxel, (x, y, z)."""
        return self.probabilities.argmax(axis=0).astype(np.uint8)


@dataclass(frozen=True)
class SegmentedHead:
    """A head and its hippocampi.

    Attributes:
        scan: The scan.
        sides: By name.
        labels: The model's n labels in `scan.image`'s order of axes: 1 to n on the left, n + 1 to 2n on the right.
        registration: None if the boxes were given.
        flags: Reasons to look at it, in words.
    """

    scan: Scan
    sides: Mapping[str, SegmentedSide]
    labels: Labels = field(repr=False)
    registration: Registration | None
    flags: tuple[str, ...]


def segment_head(scan: Scan, model: BoxModel, boxes: Mapping[str, Box] | None = None) -> SegmentedHead:
    """Segment both hippocampi.

    Args:
        scan: A T1 of a head.
        model: What segments a box.
        boxes: Box of each side; None: by registration to the template.

    Raises:
        DataError: The registration failed, a box is not in the field of view, or nothing was found in one.
    """
    name, flags, registration = str(scan.path), list[str](), None
    if boxes is None:
        registration = register(scan)
        check_registration(registration, name)
        flags += registration_flags(registration)
        boxes = registered_boxes(registration)
    sides = {side: _segment_side(scan, model, boxes[side], side) for side in SIDES}
    flags += [
        f"{side}: found {one.moved_mm:.0f} mm from where it was expected"
        for side, one in sides.items()
        if one.moved_mm > FARTHEST_MM
    ]
    return SegmentedHead(scan, sides, _label_map(scan, sides), registration, tuple(flags))


def _segment_side(scan: Scan, model: BoxModel, first: Box, side: str) -> SegmentedSide:
    image, inside = sample(scan, first)
    check_box(inside, side, str(scan.path))
    found = _largest_piece(model.predict(image).argmax(axis=0) > 0) if image.any() else np.zeros(image.shape, bool)
    if not found.any():
        raise DataError(f"{scan.path}: no {side} hippocampus was found where it is expected: {REMEDY}")
    second = first.around(found)
    image, inside = sample(scan, second)
    check_box(inside, side, str(scan.path))
    return SegmentedSide(second, image, model.predict(image), float(np.linalg.norm(second.middle - first.middle)))


def _largest_piece(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    return np.asarray(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())


def _label_map(scan: Scan, sides: Mapping[str, SegmentedSide]) -> Labels:
    labels = np.zeros(scan.image.shape, np.uint8)
    for number, one in enumerate(sides.values()):
        part, probabilities = to_scan(one.probabilities, one.box, scan)
        found = probabilities.argmax(axis=0).astype(np.uint8)
        here = labels[part]
        here[found > 0] = found[found > 0] + number * (len(probabilities) - 1)
    return labels


def probability_maps(head: SegmentedHead) -> Floats:
    """Return the probability of each value of the label map, float32 (x, y, z, value), in `scan.image`'s axes."""
    parts = len(next(iter(head.sides.values())).probabilities) - 1
    maps = np.zeros((*head.scan.image.shape, parts * len(head.sides)), np.float32)
    for number, one in enumerate(head.sides.values()):
        part, probabilities = to_scan(one.probabilities, one.box, head.scan)
        maps[part][..., number * parts : (number + 1) * parts] = np.moveaxis(probabilities[1:], 0, -1)
    return maps
