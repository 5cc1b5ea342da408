"""Pictures of single cases: three axes with outlines, before and after preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hippo_nnunet.data.exploration_case import LoadedCase
from hippo_nnunet.nnunet.example_case import PreprocessedCase
from hippo_nnunet.pages.figure import Figure, Panel, short
from hippo_nnunet.pages.palette import LABEL_COLOURS, label_colour
from hippo_nnunet.pages.planes import ENDS, PLANES, Plane, bar_mm, middle_slices
from hippo_nnunet.pages.scene import Scene

# Characters of eight points that fit below a panel, with the lines before the names.
_LEGEND_WIDTH = 48
_LEGEND_LINE = 6


class View(Scene):
    """An image with the outlines of its labels, cut through the middle of their foreground.

    Args:
        case: The case, as read or preprocessed. Its first channel is shown.
        labels: Name and values of each label to outline.
        affine: Voxel-to-world matrix, shape (4, 4), of the original file; only its directions count.

    Attributes:
        masks: Name of each label and its mask, shape (right, anterior, superior); empty without reference.
    """

    def __init__(
        self,
        case: LoadedCase | PreprocessedCase,
        labels: Mapping[str, tuple[int, ...]],
        affine: npt.NDArray[np.float64],
    ) -> None:
        super().__init__(case.channels[0], affine, case.spacing_mm)
        label = case.label
        self.masks = {} if label is None else {name: self.turn(np.isin(label, v)) for name, v in labels.items()}
        if self.masks:
            self.slices = middle_slices(np.logical_or.reduce(list(self.masks.values())))


def example_figure(case: str, before: View, after: View | None, caption: str, intensity: str) -> Figure:
    """Show a case in three axes with outlines, before and, where it is given, after preprocessing."""
    views = [("in the file", "intensity", before)]
    if after is not None:
        views.append(("preprocessed", intensity, after))

    def draw(plane: Plane, figure: FigureBase) -> None:
        all_axes = figure.subplots(1, len(views), squeeze=False)[0]
        for axes, (when, unit, view) in zip(all_axes, views, strict=True):
            shown = _draw_plane(axes, view, plane)
            title = f"{plane.name.capitalize()}, {when}"
            axes.set_title(title, fontsize=8.5, fontweight="normal", loc="center", pad=13)
            style: dict[str, Any] = {"orientation": "horizontal", "shrink": 0.8, "pad": 0.02, "aspect": 18}
            bar = figure.colorbar(shown, ax=axes, ticks=MaxNLocator(4), **style)
            bar.set_label(unit, fontsize=8)
            bar.ax.tick_params(labelsize=7.5)
            bar.outline.set_visible(False)
        _label_legend(figure, before)

    panels = []
    for plane in PLANES:
        width, height = before.size_mm(plane)
        size = (3.9, 1.65 + float(np.clip(1.55 * height / width, 0.8, 3.0)))
        alt = f"{plane.name} slice of {case} with outlines"
        panels.append(Panel(f"example-{plane.name}", size, partial(draw, plane), alt))
    return Figure("example", f"A typical case: {case}", caption, panels)


def outlier_figure(views: Mapping[str, tuple[View, str]], caption: str) -> Figure:
    """Show outlying cases, one panel each, with the reason below it."""

    def draw(case: str, view: View, figure: FigureBase) -> None:
        for plane, axes in zip(PLANES, figure.subplots(1, 3), strict=True):
            _draw_plane(axes, view, plane)
        figure.suptitle(case, fontsize=9.5, fontweight="bold", x=0.02, ha="left")
        _label_legend(figure, view)

    panels = [
        Panel(f"outlier-{index}", (4.4, 2.1), partial(draw, case, view), f"{case} in three axes", reason)
        for index, (case, (view, reason)) in enumerate(views.items())
    ]
    return Figure("outliers", "Cases to look at", caption, panels)


def _draw_plane(axes: Axes, view: View, plane: Plane) -> AxesImage:
    shown = view.show_image(axes, plane)
    view.outline(axes, view.masks, plane, width=1.5)
    _scale_bar(axes, *view.size_mm(plane))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    left, right = ENDS[plane.across]
    bottom, top = ENDS[plane.up]
    for text, place, across_from, up_from in (
        (left, (-0.02, 0.5), "right", "center"),
        (right, (1.02, 0.5), "left", "center"),
        (bottom, (0.5, -0.02), "center", "top"),
        (top, (0.5, 1.02), "center", "bottom"),
    ):
        axes.text(*place, text, transform=axes.transAxes, ha=across_from, va=up_from, fontsize=7.5)
    return shown


def _scale_bar(axes: Axes, width: float, height: float) -> None:
    length = bar_mm(width)
    end, level = 0.95 * width, 0.05 * height
    dark = [effects.withStroke(linewidth=3, foreground="#000000")]
    axes.plot([end - length, end], [level, level], color="#ffffff", lw=1.8, path_effects=dark, solid_capstyle="butt")
    text: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 7, "color": "#ffffff"}
    label = axes.text(end, level + 0.02 * height, f"{length} mm", **text)
    label.set_path_effects([effects.withStroke(linewidth=2, foreground="#000000")])


def _label_legend(figure: FigureBase, view: View) -> None:
    """Name the outlines, unless there are more labels than colours."""
    names = [short(name) for name in view.masks]
    if 0 < len(names) <= len(LABEL_COLOURS):
        handles = [Line2D([], [], color=label_colour(index), lw=2, label=name) for index, name in enumerate(names)]
        columns = _LEGEND_WIDTH // (max(map(len, names)) + _LEGEND_LINE)
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(columns, len(names))))
