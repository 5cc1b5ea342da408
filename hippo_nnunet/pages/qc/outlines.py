"""Outlines of masks as SVG paths: the contour at 0.5 between the voxels' centres, as in all figures.

Its corners lie in the middle between two centres, so integers of half voxels hold them exactly. Needs numpy only.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

Corner = tuple[int, int]

_TOP, _BOTTOM, _LEFT, _RIGHT = (0, -1), (0, 1), (-1, 0), (1, 0)
"""From the middle of four voxels' centres to the middles between two of them, (x, y) in half voxels."""


def outline_path(mask: npt.NDArray[np.bool_]) -> str:
    """Return the outline of a mask, shape (rows from the top, columns), as an SVG path; empty for an empty mask.

    Voxels that touch at a corner only are outlined apart.

    Returns:
        Closed lines in half voxels from the upper left corner of the first voxel.
    """
    return "".join(map(_written, _lines(mask)))


def path_corners(path: str) -> list[list[Corner]]:
    """Return the corners of each closed line of an `outline_path`."""
    lines = []
    for part in filter(None, path.split("z")):
        start, _, moves = part.removeprefix("M").partition("l")
        x, y = map(int, start.split())
        corners = [(x, y)]
        numbers = iter(map(int, moves.split()))
        for dx, dy in zip(numbers, numbers, strict=True):
            x, y = x + dx, y + dy
            corners.append((x, y))
        lines.append(corners)
    return lines


def _lines(mask: npt.NDArray[np.bool_]) -> list[list[Corner]]:
    """Join the pieces of the outline, of which two meet at each corner, to closed lines."""
    neighbours: defaultdict[Corner, list[Corner]] = defaultdict(list)
    for one, other in _pieces(mask):
        neighbours[one].append(other)
        neighbours[other].append(one)
    lines = []
    while neighbours:
        start = corner = next(iter(neighbours))
        line = []
        while True:
            line.append(corner)
            following = neighbours[corner].pop()
            neighbours[following].remove(corner)
            if not neighbours[corner]:
                del neighbours[corner]
            corner = following
            if corner == start:
                break
        neighbours.pop(start, None)
        lines.append(line)
    return lines


def _pieces(mask: npt.NDArray[np.bool_]) -> list[tuple[Corner, Corner]]:
    """Cut the squares between four voxels' centres (marching squares)."""
    padded = np.pad(np.asarray(mask, bool), 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    top, bottom, left, right = a != b, c != d, a != c, b != d
    crossed = top & bottom & left & right
    found = (
        (_TOP, _LEFT, (top & left & ~crossed) | (crossed & a)),
        (_TOP, _RIGHT, (top & right & ~crossed) | (crossed & b)),
        (_BOTTOM, _LEFT, (bottom & left & ~crossed) | (crossed & c)),
        (_BOTTOM, _RIGHT, (bottom & right & ~crossed) | (crossed & d)),
        (_TOP, _BOTTOM, top & bottom & ~crossed),
        (_LEFT, _RIGHT, left & right & ~crossed),
    )
    return [
        ((2 * x + one[0], 2 * y + one[1]), (2 * x + other[0], 2 * y + other[1]))
        for one, other, where in found
        for y, x in np.argwhere(where).tolist()
    ]


def _written(line: list[Corner]) -> str:
    """Write a closed line, without the corners at which it goes straight on."""
    corners = np.array(line)
    steps = np.roll(corners, -1, axis=0) - corners
    bends = corners[(steps != np.roll(steps, 1, axis=0)).any(axis=1)]
    x, y = bends[0]
    return f"M{x} {y}l" + " ".join(f"{dx} {dy}" for dx, dy in np.diff(bends, axis=0).tolist()) + "z"
