"""From arrays to strips of planes: pixels, outlines as paths, letters, and where each lies in mm.

A strip is drawn twice from the same numbers: on the page as SVG (`templates/qc.html`), in the PNG file by `montage`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hippo_nnunet.pages.planes import ENDS, PLANES, Plane, bar_mm, grey_bytes, largest_slices, middle_slices
from hippo_nnunet.pages.qc.outlines import outline_path
from hippo_nnunet.pages.qc.records import Registration, Side

MARGIN_MM = 4.5
"""Black around each plane of a hippocampus, for its letters; wider in proportion around a larger image."""
TEMPLATE = -1
"""Number of the template's outline; those of labels are their positions."""
_WIDTH_WITHOUT_SCALING_MM = 60.0
_PNG, _JPEG = "image/png", "image/jpeg"
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class Outline:
    """The outline of one label in a plane.

    Attributes:
        label: Position of the label, or TEMPLATE.
        path: SVG path in half voxels from the plane's upper left corner, with integers only.
    """

    label: int
    path: str


@dataclass(frozen=True)
class Cut:
    """One plane, placed in its strip.

    Attributes:
        plane: Its name: `sagittal`, `coronal` or `axial`.
        pixels: The image in grey, a pixel a voxel, as a file in base64: see `Strip.type`.
        voxels: Width and height in voxels.
        place_mm: Left, top, width and height within the strip, in mm.
        ends: Letters on the left, right, bottom and top; empty if directions are not known.
        outlines: Of each label that the plane cuts.
    """

    plane: str
    pixels: str
    voxels: tuple[int, int]
    place_mm: tuple[float, float, float, float]
    ends: tuple[str, ...]
    outlines: tuple[Outline, ...]


@dataclass(frozen=True)
class Strip:
    """Three planes beside one another.

    Attributes:
        title: Such as `left`; may be empty.
        size_mm: Width and height.
        margin_mm: Black around each plane.
        bar_mm: Length of the scale bar below the first plane.
        type: Media type of the pixels.
        cuts: The planes.
    """

    title: str
    size_mm: tuple[float, float]
    margin_mm: float
    bar_mm: int
    type: str
    cuts: tuple[Cut, ...]


def side_strip(side: Side, labels: int) -> Strip:
    """Cut a hippocampus where each plane shows most of it.

    Args:
        side: The hippocampus.
        labels: Number of the record's labels.
    """
    masks = {label: side.labels == label + 1 for label in range(labels)}
    slices = largest_slices(side.labels > 0)
    return _strip(side.title, (side.image, masks, side.spacing_mm, slices), side.letters, _PNG)


def registration_strip(registration: Registration) -> Strip:
    """Cut the head with the template's outline."""
    template = np.asarray(registration.template, bool)
    shown = registration.head, {TEMPLATE: template}, registration.spacing_mm, middle_slices(template)
    return _strip("registration: the template's outline over the head", shown, True, _JPEG)


def pixels_of(cut: Cut) -> Image.Image:
    """Return the grey image of a plane."""
    return Image.open(io.BytesIO(base64.b64decode(cut.pixels))).convert("L")


def _strip(
    title: str,
    shown: tuple[npt.NDArray[Any], Mapping[int, npt.NDArray[np.bool_]], Sequence[float], Sequence[int]],
    letters: bool,
    type_: str,
) -> Strip:
    """Cut an image and masks at a slice of each axis; the type of the pixels: exact voxels, or a smaller file."""
    image, masks, spacing_mm, slices = shown
    grey = grey_bytes(np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0))
    sizes = [(grey.shape[p.across] * spacing_mm[p.across], grey.shape[p.up] * spacing_mm[p.up]) for p in PLANES]
    margin = MARGIN_MM * max(1.0, sizes[0][0] / _WIDTH_WITHOUT_SCALING_MM)
    height = max(up for _, up in sizes) + 2 * margin
    cuts: list[Cut] = []
    left = 0.0
    for plane, (across, up) in zip(PLANES, sizes, strict=True):

        def cut(array: npt.NDArray[Any], plane: Plane = plane) -> npt.NDArray[Any]:
            return np.take(array, slices[plane.fixed], axis=plane.fixed).T[::-1]

        outlines = (Outline(label, outline_path(cut(mask))) for label, mask in masks.items())
        pixels = cut(grey)
        cuts.append(
            Cut(
                plane.name,
                _encoded(pixels, type_),
                (pixels.shape[1], pixels.shape[0]),
                (round(left + margin, 3), round((height - up) / 2, 3), round(across, 3), round(up, 3)),
                (*ENDS[plane.across], *ENDS[plane.up]) if letters else (),
                tuple(outline for outline in outlines if outline.path),
            )
        )
        left += across + 2 * margin
    return Strip(
        title, (round(left, 3), round(height, 3)), round(margin, 3), bar_mm(sizes[0][0] / 1.2), type_, tuple(cuts)
    )


def _encoded(pixels: npt.NDArray[np.uint8], type_: str) -> str:
    stream = io.BytesIO()
    options: dict[str, Any] = {"optimize": True} if type_ == _PNG else {"quality": _JPEG_QUALITY}
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, type_.partition("/")[2], **options)
    return base64.b64encode(stream.getvalue()).decode("ascii")
