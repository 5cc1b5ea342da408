"""Pictures of single cases: three axes with outlines, before and after preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from nibabel.orientations import apply_orientation, io_orientation

from hippo_nnunet.pages.figure import COLOURS, Figure, Panel, label_colour, short

# Title, fixed axis, axis across and axis up, of an image whose axes point right, anterior and superior; their ends.
_PLANES = (("sagittal", 0, 1, 2), ("coronal", 1, 0, 2), ("axial", 2, 0, 1))
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
_BAR_MM = (1, 2, 5, 10, 20, 50, 100, 200)
# Characters of eight points that fit below a panel, with the lines before the names.
_LEGEND_WIDTH = 48
_LEGEND_LINE = 6


@dataclass(frozen=True)
class View:
    """An image and its outlines with axes that point right, anterior and superior.

    Args:
        image: shape (right, anterior, superior).
        masks: name of each label and its mask, of the image's shape; empty without reference.
        spacing_mm: voxel size along the three axes.
    """

    image: npt.NDArray[np.float64]
    masks: Mapping[str, npt.NDArray[np.bool_]]
    spacing_mm: tuple[float, ...]


def make_view(
    image: npt.NDArray[np.generic],
    label: npt.NDArray[np.int64] | None,
    labels: Mapping[str, tuple[int, ...]],
    affine: npt.NDArray[np.float64],
    spacing_mm: Sequence[float],
) -> View:
    """Turn a case so that its axes point right, anterior and superior as nearly as they can without resampling.

    Args:
        image: shape (z, y, x).
        label: shape (z, y, x), or None.
        labels: name and values of each label to outline.
        affine: voxel-to-world matrix, shape (4, 4), of the original file; only its directions count.
        spacing_mm: voxel size along (x, y, z).
    """
    orientation = io_orientation(affine)
    spacing = [0.0, 0.0, 0.0]
    for (target, _), size in zip(orientation, spacing_mm, strict=True):
        spacing[int(target)] = float(size)
    masks = {} if label is None else {name: np.isin(label, values) for name, values in labels.items()}
    return View(
        np.asarray(apply_orientation(image.T, orientation), dtype=np.float64),
        {name: np.asarray(apply_orientation(mask.T, orientation)) for name, mask in masks.items()},
        tuple(spacing),
    )


def example_figure(case: str, before: View, after: View | None, caption: str, intensity: str) -> Figure:
    """Show a case in three axes with outlines, before and, where it is given, after preprocessing."""
    views = [("in the file", "intensity", before)]
    if after is not None:
        views.append(("preprocessed", intensity, after))

    def draw(plane: int, figure: FigureBase) -> None:
        all_axes = figure.subplots(1, len(views), squeeze=False)[0]
        for axes, (when, unit, view) in zip(all_axes, views, strict=True):
            shown = _draw_plane(axes, view, plane)
            axes.set_title(
                f"{_PLANES[plane][0].capitalize()}, {when}", fontsize=8.5, fontweight="normal", loc="center", pad=13
            )
            style: dict[str, Any] = {"orientation": "horizontal", "shrink": 0.8, "pad": 0.02, "aspect": 18}
            bar = figure.colorbar(shown, ax=axes, ticks=MaxNLocator(4), **style)
            bar.set_label(unit, fontsize=8)
            bar.ax.tick_params(labelsize=7.5)
            bar.outline.set_visible(False)
        _label_legend(figure, before)

    panels = [
        Panel(
            f"example-{name}",
            (3.9, 1.65 + float(np.clip(1.55 * _extent(before, up) / _extent(before, across), 0.8, 3.0))),
            partial(draw, plane),
            f"{name} slice of {case} with outlines",
        )
        for plane, (name, _, across, up) in enumerate(_PLANES)
    ]
    return Figure("example", f"A typical case: {case}", caption, panels)


def outlier_figure(views: Mapping[str, tuple[View, str]], caption: str) -> Figure:
    """Show outlying cases, one panel each, with the reason below it.

    Args:
        views: case to its view and the reason.
        caption: caption of the whole.
    """

    def draw(case: str, view: View, figure: FigureBase) -> None:
        all_axes = figure.subplots(1, 3)
        for plane, axes in enumerate(all_axes):
            _draw_plane(axes, view, plane)
        figure.suptitle(case, fontsize=9.5, fontweight="bold", x=0.02, ha="left")
        _label_legend(figure, view)

    panels = [
        Panel(f"outlier-{index}", (4.4, 2.1), partial(draw, case, view), f"{case} in three axes", reason)
        for index, (case, (view, reason)) in enumerate(views.items())
    ]
    return Figure("outliers", "Cases to look at", caption, panels)


def _draw_plane(axes: Axes, view: View, plane: int) -> AxesImage:
    _, fixed, across, up = _PLANES[plane]
    index = _slice_index(view, fixed)
    image = np.take(view.image, index, axis=fixed).T
    width, height = image.shape[1] * view.spacing_mm[across], image.shape[0] * view.spacing_mm[up]
    low, high = np.percentile(view.image, [0.5, 99.5])
    shown = axes.imshow(
        image,
        cmap="gray",
        origin="lower",
        extent=(0, width, 0, height),
        vmin=low,
        vmax=max(high, low + 1e-6),
        interpolation="nearest",
    )
    x = (np.arange(image.shape[1]) + 0.5) * view.spacing_mm[across]
    y = (np.arange(image.shape[0]) + 0.5) * view.spacing_mm[up]
    for position, mask in enumerate(view.masks.values()):
        cut = np.take(mask, index, axis=fixed).T
        if cut.any() and min(cut.shape) > 1:
            axes.contour(x, y, cut.astype(float), [0.5], colors=label_colour(position), linewidths=1.5)
    _scale_bar(axes, width, height)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    left, right = _ENDS[across]
    bottom, top = _ENDS[up]
    for text, place, across_from, up_from in (
        (left, (-0.02, 0.5), "right", "center"),
        (right, (1.02, 0.5), "left", "center"),
        (bottom, (0.5, -0.02), "center", "top"),
        (top, (0.5, 1.02), "center", "bottom"),
    ):
        axes.text(*place, text, transform=axes.transAxes, ha=across_from, va=up_from, fontsize=7.5)
    return shown


def _extent(view: View, axis: int) -> float:
    return view.image.shape[axis] * view.spacing_mm[axis]


def _slice_index(view: View, axis: int) -> int:
    """Slice through the middle of the foreground, or of the image where there is none."""
    if any(mask.any() for mask in view.masks.values()):
        foreground = np.any(list(view.masks.values()), axis=0)
        area = foreground.sum(axis=tuple(other for other in range(3) if other != axis))
        return int(np.searchsorted(np.cumsum(area), area.sum() / 2))
    return view.image.shape[axis] // 2


def _scale_bar(axes: Axes, width: float, height: float) -> None:
    length = max((bar for bar in _BAR_MM if bar <= width / 3), default=_BAR_MM[0])
    end, level = 0.95 * width, 0.05 * height
    dark = [effects.withStroke(linewidth=3, foreground="#000000")]
    axes.plot([end - length, end], [level, level], color="#ffffff", lw=1.8, path_effects=dark, solid_capstyle="butt")
    text: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 7, "color": "#ffffff"}
    label = axes.text(end, level + 0.02 * height, f"{length} mm", **text)
    label.set_path_effects([effects.withStroke(linewidth=2, foreground="#000000")])


def _label_legend(figure: FigureBase, view: View) -> None:
    """Name the outlines, unless there are more labels than colours."""
    names = [short(name) for name in view.masks]
    if 0 < len(names) <= len(COLOURS):
        handles = [Line2D([], [], color=label_colour(index), lw=2, label=name) for index, name in enumerate(names)]
        columns = _LEGEND_WIDTH // (max(map(len, names)) + _LEGEND_LINE)
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(columns, len(names))))
