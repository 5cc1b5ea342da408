"""The PNG file of a scan: its strips below one another, with outlines, letters and scale bars."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageFont

from hippo_nnunet.pages.palette import LABEL_COLOURS, label_colour
from hippo_nnunet.pages.qc.outlines import path_corners
from hippo_nnunet.pages.qc.pictures import TEMPLATE, Cut, Strip, pixels_of

TEMPLATE_COLOUR = label_colour(4)
"""Turquoise: no part of a hippocampus has it."""
_WIDTH = 720
"""Of the file, in pixels; lines are drawn at twice the size and then reduced, which smooths them."""
_FINE = 2
_OUTLINE, _EDGE = 1.7, 3.4
"""Widths in pixels of the file."""
_LETTERS, _GROUND, _DARK = "#d0d4d8", "#000000", "#000000"
_TEXT = 13
_TITLE_HEIGHT = 20
_SHADES = 7


def outline_colour(label: int) -> str:
    """Return the colour of an outline by its label's position, or of TEMPLATE."""
    return TEMPLATE_COLOUR if label == TEMPLATE else label_colour(label)


def montage(strips: Sequence[Strip]) -> Image.Image:
    """Draw strips below one another, each as wide as the file.

    Args:
        strips: At least one.

    Returns:
        An image of 256 colours, 720 pixels wide.
    """
    drawn = [_draw(strip) for strip in strips]
    canvas = Image.new("RGB", (_WIDTH, sum(image.height for image in drawn)), _GROUND)
    top = 0
    for image in drawn:
        canvas.paste(image, (0, top))
        top += image.height
    return canvas.quantize(palette=_palette(), dither=Image.Dither.NONE)


def _draw(strip: Strip) -> Image.Image:
    scale = _FINE * _WIDTH / strip.size_mm[0]
    title = _FINE * _TITLE_HEIGHT if strip.title else 0
    size = (_FINE * _WIDTH, title + _FINE * round(strip.size_mm[1] * scale / _FINE))
    fine = Image.new("RGB", size, _GROUND)
    draw = ImageDraw.Draw(fine)
    for cut in strip.cuts:
        left, top, width, height = (number * scale for number in cut.place_mm)
        box = (round(left), round(top) + title, round(left + width), round(top + height) + title)
        shown = pixels_of(cut).resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC)
        fine.paste(shown, box[:2])
        _outline(draw, cut, box)
        _letters(draw, cut, box, strip.margin_mm * scale / 2)
    _bar(draw, strip, scale, title)
    if strip.title:
        draw.text((_FINE * 8, title / 2), strip.title, _LETTERS, _font(), anchor="lm")
    return fine.reduce(_FINE)


def _outline(draw: ImageDraw.ImageDraw, cut: Cut, box: tuple[int, int, int, int]) -> None:
    across, up = ((box[2] - box[0]) / cut.voxels[0] / 2, (box[3] - box[1]) / cut.voxels[1] / 2)
    for outline in cut.outlines:
        lines = [[(box[0] + x * across, box[1] + y * up) for x, y in corners] for corners in path_corners(outline.path)]
        for colour, width in ((_DARK, _EDGE), (outline_colour(outline.label), _OUTLINE)):
            for line in lines:
                draw.line([*line, line[0], line[1]], colour, round(width * _FINE), joint="curve")


def _letters(draw: ImageDraw.ImageDraw, cut: Cut, box: tuple[int, int, int, int], off: float) -> None:
    if not cut.ends:
        return
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    places = (
        (box[0] - off, middle[1]),
        (box[2] + off, middle[1]),
        (middle[0], box[3] + off),
        (middle[0], box[1] - off),
    )
    for letter, place in zip(cut.ends, places, strict=True):
        draw.text(place, letter, _LETTERS, _font(), anchor="mm")


def _bar(draw: ImageDraw.ImageDraw, strip: Strip, scale: float, title: int) -> None:
    left, top, width, height = strip.cuts[0].place_mm
    end, level = (left + width) * scale, (top + height + strip.margin_mm * 0.62) * scale + title
    draw.line([(end - strip.bar_mm * scale, level), (end, level)], _LETTERS, 2 * _FINE)
    draw.text((end - strip.bar_mm * scale - 4 * _FINE, level), f"{strip.bar_mm} mm", _LETTERS, _font(), anchor="rm")


@lru_cache(maxsize=1)
def _font() -> Any:
    return ImageFont.load_default(_TEXT * _FINE)


@lru_cache(maxsize=1)
def _palette() -> Image.Image:
    """Return greys, and each outline's colour in the shades that its smooth edge needs: half of the bytes of RGB."""
    greys = 256 - _SHADES * len(LABEL_COLOURS)
    values = [part for n in range(greys) for part in [round(255 * n / (greys - 1))] * 3]
    for colour in LABEL_COLOURS:
        tone = ImageColor.getrgb(colour)
        values += [part * n // _SHADES for n in range(1, _SHADES + 1) for part in tone]
    image = Image.new("P", (1, 1))
    image.putpalette(values)
    return image
