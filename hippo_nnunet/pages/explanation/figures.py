"""Figures of one explained case: three planes as rows; what the network looks at, errors, and prompts as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import FigureBase
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hippo_nnunet.inference.explanation import Explanation
from hippo_nnunet.pages.figure import DASHES, EDGE, Figure, Panel, short
from hippo_nnunet.pages.palette import LABEL_COLOURS, REFERENCE, label_colour
from hippo_nnunet.pages.planes import ENDS, PLANES, Plane, largest_slices
from hippo_nnunet.pages.scene import Scene

_CELL_INCHES = 1.75
_FRAME_INCHES = 1.45
FALSE_POSITIVE, FALSE_NEGATIVE, TO_BACKGROUND = "#e08a12", "#62c2e8", "#d62f2f"
_MOST_COLUMNS = 8
_Painter = Callable[["_Scene", Axes, Plane], AxesImage | None]


class _Column(NamedTuple):
    """A column of a figure; `paint` draws one plane, and returns what a colour bar is to explain, if anything."""

    title: str
    paint: _Painter


class _Scene(Scene):
    """A case in the slices with the most foreground, of prediction or reference, or with the most of a focus."""

    def __init__(self, explanation: Explanation, focus: npt.NDArray[np.bool_] | None = None) -> None:
        image = explanation.image
        super().__init__(image.array, image.affine, image.spacing_mm)
        self.explanation = explanation
        self.prediction = self._masks(explanation.segmentation)
        self.reference = {} if explanation.reference is None else self._masks(explanation.reference)
        self.changed = {} if explanation.changed is None else self._masks(explanation.changed)
        foreground = np.logical_or.reduce([*self.prediction.values(), *self.reference.values()])
        if focus is not None and focus.any():
            foreground = self.turn(focus)
        self.slices = largest_slices(foreground)

    def _masks(self, segmentation: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.bool_]]:
        names = self.explanation.labels
        return {name: self.turn(self.explanation.mask(segmentation, name)) for name in names}


def explanation_figures(explanation: Explanation, heading: str = "") -> list[Figure]:
    """Make the figures of a case that can be made: attention, similarity, probability, errors, prompt.

    Args:
        explanation: The case.
        heading: What the case is, such as model and rank; above each figure.

    Returns:
        Figures named `<case>_<kind>`.
    """
    scene = _Scene(explanation)
    title = f"{explanation.case}\n{heading}" if heading else explanation.case
    outlines = _Column("prediction" + (", reference" if scene.reference else ""), _paint_outlines)
    levels = {_level(index, len(explanation.attention)): m for index, m in enumerate(explanation.attention)}
    figures = []
    for kind, maps, label, options in (
        ("attention", levels, "coefficient: 0 shut, 1 open", {"cmap": "viridis", "vmin": 0, "vmax": 1}),
        ("similarity", explanation.similarity, "cosine with the class's text", _symmetric(explanation.similarity)),
        ("probability", explanation.probabilities, "probability", {"cmap": "magma", "vmin": 0, "vmax": 1}),
    ):
        if maps:
            columns = [
                outlines,
                *(_Column(short(name), partial(_paint_map, scene.turn(m), options)) for name, m in maps.items()),
            ]
            figures.append(_figure(scene, kind, title, columns, label))
    if scene.reference:
        columns = [_Column(_error_title(explanation, name), partial(_paint_errors, name)) for name in scene.reference]
        figures.append(_figure(scene, "errors", title, columns))
    if explanation.changed is not None:
        columns = [
            _Column("before", _paint_outlines),
            _Column("after", partial(_paint_outlines, changed=True)),
            _Column("given to another class", _paint_difference),
        ]
        scene = _Scene(explanation, explanation.segmentation != explanation.changed)
        figures.append(_figure(scene, "prompt", title, columns, text=_prompt_text(explanation)))
    return figures


def _figure(
    scene: _Scene,
    kind: str,
    title: str,
    columns: Sequence[_Column],
    bar: str = "",
    text: str = "",
) -> Figure:
    columns = columns[:_MOST_COLUMNS]
    heights = [float(np.clip(h / w, 0.5, 2.0)) for w, h in map(scene.size_mm, PLANES)]

    def draw(figure: FigureBase) -> None:
        grid = figure.subplots(3, len(columns), squeeze=False, height_ratios=heights)
        shown: AxesImage | None = None
        for plane, row in zip(PLANES, grid, strict=True):
            for column, axes in zip(columns, row, strict=True):
                painted = column.paint(scene, axes, plane)
                shown = painted or shown
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if plane is PLANES[0]:
                    axes.set_title(column.title, fontsize=8.5, fontweight="normal", loc="center", pad=5)
            (left, right), (bottom, top) = ENDS[plane.across], ENDS[plane.up]
            row[0].set_ylabel(f"{plane.name}\n{bottom} to {top}", fontsize=8)
            row[0].set_xlabel(f"{left} to {right}", fontsize=7.5, labelpad=2)
        if shown is not None and bar:
            own = [axes for row in grid for axes in row[1:]]
            handle = figure.colorbar(shown, ax=own, orientation="horizontal", shrink=0.7, aspect=35, pad=0.02)
            handle.set_label(bar, fontsize=8)
            handle.ax.tick_params(labelsize=7.5)
        lines = _legend(scene, kind)
        figure.legend(
            handles=lines,
            loc="outside lower center",
            ncols=max(1, min(len(lines), 2 * len(columns) - 1)),
            title=text or None,
            title_fontsize=8,
        )
        figure.suptitle(title, fontsize=9.5, fontweight="bold", x=0.01, ha="left")

    size = (
        max(_CELL_INCHES * len(columns) + 0.5, 3.6),
        _CELL_INCHES * sum(heights) + _FRAME_INCHES + 0.16 * len(text.splitlines()),
    )
    case = scene.explanation.case
    alt = f"{kind} of {case} in three planes: {', '.join(column.title for column in columns)}"
    return Figure(f"{case}_{kind}", title, alt, [Panel(f"{case}-{kind}", size, draw, alt)])


def _paint_outlines(scene: _Scene, axes: Axes, plane: Plane, changed: bool = False) -> None:
    scene.show_image(axes, plane)
    scene.outline(axes, scene.reference, plane, REFERENCE)
    scene.outline(axes, scene.changed if changed else scene.prediction, plane, dashes=DASHES)


def _paint_map(
    turned: npt.NDArray[Any], options: Mapping[str, Any], scene: _Scene, axes: Axes, plane: Plane
) -> AxesImage:
    shown = scene.show(axes, scene.cut(turned, plane), plane, **options)
    scene.outline(axes, scene.prediction, plane, dashes=DASHES)
    return shown


def _paint_errors(label: str, scene: _Scene, axes: Axes, plane: Plane) -> None:
    scene.show_image(axes, plane)
    errors = scene.explanation.errors(label)
    assert errors is not None
    cut = scene.cut(scene.turn(errors), plane)
    _paint_where(scene, axes, plane, [(FALSE_POSITIVE, cut == 1), (FALSE_NEGATIVE, cut == 2)])
    scene.outline(axes, {label: scene.reference[label]}, plane, REFERENCE)


def _paint_difference(scene: _Scene, axes: Axes, plane: Plane) -> None:
    """Paint what changed: in the colour of the class that a voxel has after; background has one of its own."""
    scene.show_image(axes, plane)
    turned = scene.turn(scene.explanation.segmentation != scene.explanation.changed)
    differs = scene.cut(turned, plane)
    after = [scene.cut(mask, plane) for mask in scene.changed.values()]
    none = differs & ~np.any(after, axis=0)
    masks = [(label_colour(index), differs & cut) for index, cut in enumerate(after)]
    _paint_where(scene, axes, plane, [(TO_BACKGROUND, none), *masks])


def _paint_where(scene: _Scene, axes: Axes, plane: Plane, masks: Sequence[tuple[str, npt.NDArray[np.bool_]]]) -> None:
    paint = np.zeros((*masks[0][1].shape, 4))
    for colour, mask in masks:
        paint[mask] = to_rgba(colour, 0.85)
    scene.show(axes, paint, plane)


def _legend(scene: _Scene, kind: str) -> list[Any]:
    names = list(scene.prediction)
    lines: list[Any] = []
    if kind == "errors":
        lines = [Patch(color=FALSE_POSITIVE, label="false positive"), Patch(color=FALSE_NEGATIVE, label="missed")]
    elif len(names) <= len(LABEL_COLOURS):
        lines = [Patch(color=label_colour(index), label=short(name)) for index, name in enumerate(names)]
        lines.append(Line2D([], [], color="#555555", ls=DASHES, label="prediction"))
    if kind == "prompt":
        lines.append(Patch(color=TO_BACKGROUND, label="to background"))
    if scene.reference:
        lines.append(Line2D([], [], color=REFERENCE, path_effects=EDGE, label="reference"))
    return lines


def _error_title(explanation: Explanation, label: str) -> str:
    assert explanation.reference is not None
    dice = explanation.dice(explanation.reference, explanation.segmentation, label)
    return f"{short(label)}: Dice {dice:.3f}"


def _prompt_text(explanation: Explanation) -> str:
    assert explanation.changed is not None
    lines = [f"{short(name)} as: {' / '.join(own)}" for name, own in explanation.prompts.items()]
    for label in explanation.labels:
        line = f"{short(label)}: Dice {explanation.dice(explanation.segmentation, explanation.changed, label):.3f} "
        line += "between before and after"
        if explanation.reference is not None:
            before = explanation.dice(explanation.reference, explanation.segmentation, label)
            line += f"; with the reference {before:.3f}, then "
            line += f"{explanation.dice(explanation.reference, explanation.changed, label):.3f}"
        lines.append(line)
    return "\n".join(lines)


def _level(index: int, levels: int) -> str:
    note = {0: " (finest)", levels - 1: " (coarsest)"} if levels > 1 else {}
    return f"gate {index + 1}{note.get(index, '')}"


def _symmetric(maps: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    limit = max((float(np.abs(m).max()) for m in maps.values()), default=1.0) or 1.0
    return {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
