"""The positions of an image's patches, as nnU-Net places them, and their mirrored copies; without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, combinations, product

Window = tuple[slice | int, ...]
"""Index of a patch into an image (channel, z, y, x)."""


def windows(shape: Sequence[int], patch_size: Sequence[int]) -> list[Window]:
    """Return the patches of an image at nnU-Net's positions.

    Args:
        shape: Image (z, y, x), at least as large as the patch.
        patch_size: Two numbers for slices along z, else three.
    """
    flat = len(patch_size) < len(shape)
    planes: list[slice | int] = list(range(shape[0])) if flat else []
    sides = zip(shape[1:] if flat else shape, patch_size, strict=True)
    places = product(*([slice(s, s + side) for s in _starts(size, side)] for size, side in sides))
    if not flat:
        return [(slice(None), *place) for place in places]
    spread = list(places)
    return [(slice(None), plane, *place) for plane in planes for place in spread]


def padding(shape: Sequence[int], patch_size: Sequence[int]) -> list[tuple[int, int]]:
    """Return the voxels that nnU-Net pads before and after each axis of an image smaller than the patch.

    Args:
        shape: Image (z, y, x).
        patch_size: Two numbers for slices along z, else three.
    """
    sides = [*shape[: len(shape) - len(patch_size)], *patch_size]
    missing = [max(0, side - size) for size, side in zip(shape, sides, strict=True)]
    return [(number // 2, number - number // 2) for number in missing]


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the axes of a batch (batch, channel, *patch) to flip, for each mirrored copy; none for the first.

    Args:
        axes: Spatial axes that may be mirrored, from 0.
    """
    of_batch = [axis + 2 for axis in axes]
    return list(chain.from_iterable(combinations(of_batch, number) for number in range(len(of_batch) + 1)))


def _starts(size: int, side: int) -> list[int]:
    """Return where patches start along an axis: neighbours overlap by half of a patch at least.

    Source: nnunetv2 2.8.1, ``inference/sliding_window_prediction.py``, ``compute_steps_for_sliding_window``.
    """
    count = math.ceil((size - side) / (side * 0.5)) + 1
    distance = (size - side) / (count - 1) if count > 1 else 0.0
    return [round(distance * number) for number in range(count)]
