"""What the page shows of one scan: plain arrays and words, whatever command made them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Side:
    """A box of the scan around one hippocampus.

    Attributes:
        image: Real numbers of shape (right, anterior, superior): its axes point there as nearly as they can.
        labels: Label map of the same shape: 0 is background, n the n-th of the record's labels.
        spacing_mm: Voxel size along the same axes.
        title: Such as `left`; empty for a crop whose side is not known.
        letters: Whether the directions are known, so that the planes bear letters.
    """

    image: npt.NDArray[Any] = field(repr=False)
    labels: npt.NDArray[Any] = field(repr=False)
    spacing_mm: Spacing
    title: str = ""
    letters: bool = True


@dataclass(frozen=True)
class Registration:
    """The head as it was registered, to see whether the template lies on it.

    Attributes:
        head: Shape (right, anterior, superior), on the template's grid or any other, best of about 2 mm.
        template: Mask of the template's brain or head on the same grid, drawn as an outline.
        spacing_mm: Voxel size along the same axes.
    """

    head: npt.NDArray[Any] = field(repr=False)
    template: npt.NDArray[np.bool_] = field(repr=False)
    spacing_mm: Spacing


@dataclass(frozen=True)
class VolumeRow:
    """One row of the table of volumes.

    Attributes:
        name: Such as `left anterior`.
        volume_mm3: The volume.
        low_mm3: Lower end of its interval; None: not known.
        high_mm3: Upper end.
        label: Position of the record's label that the row is of, which gives its colour; None: of several, or of none.
    """

    name: str
    volume_mm3: float
    low_mm3: float | None = None
    high_mm3: float | None = None
    label: int | None = None


@dataclass(frozen=True)
class ScanRecord:
    """What the page shows of one scan.

    Attributes:
        name: Unique among the scans of the page; any characters.
        labels: Name of each label, in the order of the values in `Side.labels`: `("anterior", "posterior")`.
        sides: Both hippocampi, or one; none for a scan that could not be segmented.
        volumes: Rows of the table.
        flags: Reasons to look at the scan, in words; empty if there is none.
        doubt: Sorts the page, largest first; 0 is certain. NaN, for not known, comes before all others.
        registration: None for a crop.
        level: Coverage of the intervals, such as 0.9; None: no intervals are shown.
        details: Further facts by name, such as the image's file or the model.
    """

    name: str
    labels: Sequence[str] = ()
    sides: Sequence[Side] = ()
    volumes: Sequence[VolumeRow] = ()
    flags: Sequence[str] = ()
    doubt: float = math.nan
    registration: Registration | None = None
    level: float | None = None
    details: Mapping[str, str] = field(default_factory=dict)
