"""What a model knows of its images, and what is different about a new one: grid, side, orientation, contrast.

A crop of a head is compared with the mean training crop, in all 48 orders and directions of the axes: a right
hippocampus stored as a left one looks like the mirrored mean crop, and an inverted contrast like its negative. That
needs no segmentation, and about 0.02 s. Imports numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

FLAGS = ("voxel-size", "size", "intensity", "contrast", "side", "orientation")
"""What can be suspicious about an image."""
STEP = 2
"""Voxels of the model's grid, in each direction, that make one of the mean crop: details differ between people."""
SPACING_RATIO = 1.25
"""Ratio of voxel sizes, to the nearest known, from which an image is flagged. Source: ours, see docs/model-card.md."""
SIZE_RATIO = 1.1
"""The same for the size of the image."""
HEAD_RATIO = 2.0
"""The same for an image that is larger in every direction: a head, which is refused."""
MARGIN = 0.05
"""By how much another explanation has to be likelier than that the image is as it should be. Source: ours."""

_ORDERS = tuple(permutations(range(3)))
_SIGNS = tuple(product((1, -1), repeat=3))
ORIENTATIONS = tuple((order, signs) for order in _ORDERS for signs in _SIGNS)
"""Ways to store a volume: order of its axes, and direction along each; the first leaves it as it is."""
MIRRORED = ORIENTATIONS.index(((0, 1, 2), (1, 1, -1)))
"""Mirrored along x: the last axis of arrays (z, y, x)."""
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


@dataclass(frozen=True)
class Suspicion:
    """One thing about an image that the model does not know.

    Attributes:
        flag: One of FLAGS.
        text: What differs, got and expected, and what to do.
    """

    flag: str
    text: str


@dataclass(frozen=True)
class Likeness:
    """Correlations of an image with the mean crop, at the place where each is largest.

    Attributes:
        oriented: For each of ORIENTATIONS.
        inverted: With its negative.
    """

    oriented: tuple[float, ...]
    inverted: float

    @property
    def expected(self) -> float:
        """As the image should be."""
        return self.oriented[0]


@dataclass(frozen=True)
class KnownImages:
    """What a model knows of its images.

    Attributes:
        axis_codes: Axes (x, y, z) of the training images, such as `RAS`.
        spacing_mm: Smallest and largest voxel size of the training images along (x, y, z).
        size_mm: The same of their size.
        lowest: Lowest intensity of the training images.
        mean_crop: Mean training image around the structure, (z, y, x), of STEP voxels of the model's grid.
        least_likeness: Correlation with it below which an image is flagged.
    """

    axis_codes: tuple[str, ...]
    spacing_mm: tuple[tuple[float, float], ...]
    size_mm: tuple[tuple[float, float], ...]
    lowest: float
    mean_crop: Floats
    least_likeness: float

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> KnownImages:
        """Read what `as_json` returned.

        Raises:
            KeyError, TypeError, ValueError: It is another object.
        """
        crop = np.array(content["mean_crop"]["values"], np.float32).reshape(content["mean_crop"]["shape"])
        if crop.ndim != 3 or not np.isfinite(crop).all() or np.ptp(crop) == 0:
            raise ValueError("the mean crop is not a volume of numbers")
        spacing_mm, size_mm = (
            tuple((float(low), float(high)) for low, high in content[key]) for key in ("spacing_mm", "size_mm")
        )
        lowest, least = float(content["lowest"]), float(content["least_likeness"])
        return cls(tuple(map(str, content["axis_codes"])), spacing_mm, size_mm, lowest, crop, least)

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON holds."""
        values = [round(float(value), 2) for value in self.mean_crop.ravel()]
        return {
            "axis_codes": list(self.axis_codes),
            "spacing_mm": [list(limits) for limits in self.spacing_mm],
            "size_mm": [list(limits) for limits in self.size_mm],
            "lowest": self.lowest,
            "mean_crop": {"shape": list(self.mean_crop.shape), "values": values},
            "least_likeness": round(self.least_likeness, 4),
        }

    def refusal(self, shape: Sequence[int], spacing_mm: Sequence[float], axis_codes: str) -> str | None:
        """Return why an image of this grid must not be predicted; None if it may be.

        Args:
            shape: Voxels along (x, y, z).
            spacing_mm: Voxel size along (x, y, z).
            axis_codes: Axes (x, y, z), such as `RAS`.
        """
        size = [count * mm for count, mm in zip(shape, spacing_mm, strict=True)]
        if all(mm > HEAD_RATIO * high for mm, (_, high) in zip(size, self.size_mm, strict=True)):
            return (
                f"{_by(size)} mm, but the model knows crops of {_ranges(self.size_mm)} mm around a hippocampus: for "
                "a head, use 'hippo-nnunet segment' (with --kind head)"
            )
        if axis_codes not in self.axis_codes:
            return (
                f"its axes are {axis_codes}, but the model takes voxels as they are stored and knows "
                f"{' and '.join(self.axis_codes)}: reorient it, for example with nibabel.as_closest_canonical"
            )
        return None

    def check_grid(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> list[Suspicion]:
        """Compare the size of voxels and image with the training images'; see `refusal` for the arguments."""
        found = []
        if any(
            mm > SPACING_RATIO * high or mm < low / SPACING_RATIO
            for mm, (low, high) in zip(spacing_mm, self.spacing_mm, strict=True)
        ):
            text = f"voxels of {_by(spacing_mm)} mm, but the model knows {_ranges(self.spacing_mm)} mm: details are "
            text += "lost or invented, so expect worse masks"
            found.append(Suspicion("voxel-size", text))
        size = [count * mm for count, mm in zip(shape, spacing_mm, strict=True)]
        if any(
            mm > SIZE_RATIO * high or mm < low / SIZE_RATIO for mm, (low, high) in zip(size, self.size_mm, strict=True)
        ):
            text = f"{_by(size)} mm, but the model knows crops of {_ranges(self.size_mm)} mm: crop it around the "
            text += "hippocampus, or use 'hippo-nnunet segment' for a head"
            found.append(Suspicion("size", text))
        return found

    def check_intensities(self, lowest: float) -> list[Suspicion]:
        """Compare the lowest intensity as stored with the training images'."""
        if lowest >= self.lowest or self.lowest < 0:
            return []
        text = f"intensities down to {lowest:g}, but those of the training images are {self.lowest:g} or more: "
        return [Suspicion("intensity", text + "is it a CT image, or not as the scanner wrote it?")]

    def likeness(self, image: Floats) -> Likeness:
        """Compare an image with the mean crop.

        Args:
            image: (z, y, x) on the model's grid, on any scale of intensity.

        Returns:
            Correlations at the place in the image where each is largest; 0 where the image does not vary.
        """
        coarse = coarsened(image)
        oriented = [0.0] * len(ORIENTATIONS)
        inverted = 0.0
        for order in _ORDERS:
            numbers = [number for number, one in enumerate(ORIENTATIONS) if one[0] == order]
            crops = [_oriented(self.mean_crop, *ORIENTATIONS[number]) for number in numbers]
            found = _correlations(coarse, crops)
            for number, largest in zip(numbers, found.max(axis=0), strict=True):
                oriented[number] = float(largest)
            if 0 in numbers:
                inverted = -float(found[:, numbers.index(0)].min())
        return Likeness(tuple(oriented), inverted)

    def check_content(self, image: Floats) -> list[Suspicion]:
        """Compare orientation, side and contrast with the training images'; see `likeness` for the argument."""
        return self.judge(self.likeness(image))

    def judge(self, likeness: Likeness) -> list[Suspicion]:
        """Return the likeliest explanation of an image that is not as it should be; nothing for one that is."""
        best = int(np.argmax(likeness.oriented))
        other = max(likeness.oriented[best], likeness.inverted)
        if other - likeness.expected > MARGIN and other >= self.least_likeness:
            if likeness.inverted == other:
                text = "its contrast looks inverted, as in a T2-weighted image: the model knows T1-weighted ones"
                return [Suspicion("contrast", text)]
            if best == MIRRORED:
                text = (
                    "it looks mirrored left to right, so it may be the other hippocampus than the model knows: mirror "
                )
                text += "it along x, and its mask back"
                return [Suspicion("side", text)]
            codes = self.axis_codes[0]
            text = f"it looks as if its axes were {stored_codes(best, codes)}, not {codes} as its header says: correct "
            return [Suspicion("orientation", text + "the header, then reorient it")]
        if likeness.expected < self.least_likeness:
            text = f"it does not look like the training images (correlation {likeness.expected:.2f} with their mean, "
            text += (
                f"99 % of those have {self.least_likeness:.2f} or more): another contrast, another part of the head, "
            )
            return [Suspicion("contrast", text + "or no T1-weighted image")]
        return []


def coarsened(image: Floats) -> npt.NDArray[np.float32]:
    """Average over cubes of STEP voxels; what is left over at the ends is cut off."""
    counts = [max(1, size // STEP) for size in image.shape]
    z, y, x = (slice(0, count * STEP) for count in counts)
    cut = image[z, y, x]
    steps = [size // count for size, count in zip(cut.shape, counts, strict=True)]
    split = [number for pair in zip(counts, steps, strict=True) for number in pair]
    return np.asarray(cut.reshape(split).mean(axis=(1, 3, 5)), np.float32)


def stored_codes(orientation: int, codes: str) -> str:
    """Return the axes (x, y, z) of an image that looks like this orientation of images with other axes."""
    order, signs = ORIENTATIONS[orientation]
    found = []
    for axis, sign in zip(reversed(order), reversed(signs), strict=True):  # arrays are (z, y, x), codes (x, y, z)
        code = codes[2 - axis]
        found.append(code if sign == 1 else _OPPOSITE[code])
    return "".join(found)


def _oriented(volume: Floats, order: tuple[int, ...], signs: tuple[int, ...]) -> Floats:
    z, y, x = (slice(None, None, sign) for sign in signs)
    return volume.transpose(order)[z, y, x]


def _correlations(image: Floats, crops: Sequence[Floats]) -> Floats:
    """Return the correlation of each crop with each part of an image of its size: shape (places, crops)."""
    size = crops[0].shape
    missing = [max(0, needed - found) for needed, found in zip(size, image.shape, strict=True)]
    padded = np.pad(image, [(count // 2, count - count // 2) for count in missing], mode="edge")
    parts = np.lib.stride_tricks.sliding_window_view(padded, size).reshape(-1, crops[0].size)
    parts = parts - parts.mean(axis=1, keepdims=True)
    flat = np.stack([crop.ravel() for crop in crops], axis=1)
    flat = flat - flat.mean(axis=0)
    lengths = np.linalg.norm(parts, axis=1)[:, None] * np.linalg.norm(flat, axis=0)
    products = parts @ flat
    return np.asarray(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 1e-6 * lengths.max()))


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _ranges(limits: Sequence[tuple[float, float]]) -> str:
    return " x ".join(f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}" for low, high in limits)
