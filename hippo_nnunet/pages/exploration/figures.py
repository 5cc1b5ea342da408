"""The figures of a dataset's images: sizes and intensities."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from hippo_nnunet.data.exploration import Exploration
from hippo_nnunet.data.exploration_case import AXES
from hippo_nnunet.data.outliers import Screening
from hippo_nnunet.pages.exploration.label_figures import label_figures
from hippo_nnunet.pages.figure import STEPS, Figure, Panel, plain_log_ticks, short
from hippo_nnunet.pages.palette import GREY, INK, PAPER

PARTS = {"training": GREY, "test": INK}
_LOGARITHMIC_FROM = 30.0
_WIDTH = 4.2

Values = npt.NDArray[np.float64]


def exploration_figures(exploration: Exploration, screening: Screening) -> list[Figure]:
    """Return the figures that can be drawn: without any label those of sizes and intensities alone."""
    figures = [_sizes(exploration), _intensities(exploration)]
    if len(exploration.labelled) and exploration.labels:
        figures += label_figures(exploration, screening)
    return figures


def _sizes(exploration: Exploration) -> Figure:
    cases = exploration.cases
    wanted = {"voxels": ("Size in voxels", "size_{}"), "mm": ("Size in mm", "extent_{}_mm")}
    caption = "Distribution over the images along the axes of the file, with the median and the range on the right."
    if any(not np.allclose(cases[f"spacing_{axis}_mm"], cases[f"spacing_{axis}_mm"].iloc[0]) for axis in AXES):
        wanted["spacing"] = ("Size of a voxel in mm", "spacing_{}_mm")
    else:
        spacing = " × ".join(f"{cases[f'spacing_{axis}_mm'].iloc[0]:g}" for axis in AXES)
        caption += f" Every image has voxels of {spacing} mm."
    panels = [
        Panel(f"sizes-{key}", (_WIDTH, 3.6), partial(_draw_sizes, cases, *how), f"Histograms: {how[0]}")
        for key, how in wanted.items()
    ]
    return Figure("sizes", "Image size", caption, panels)


def _draw_sizes(cases: pd.DataFrame, title: str, column: str, figure: FigureBase) -> None:
    all_axes = figure.subplots(3, 1, sharex=True, sharey=True)
    everything = np.concatenate([cases[column.format(axis)].to_numpy(float) for axis in AXES])
    edges = _bins(everything)
    for axis, axes in zip(AXES, all_axes, strict=True):
        for part, colour in PARTS.items():
            values = cases.loc[cases.part == part, column.format(axis)].to_numpy(float)
            if values.size:
                style = {"histtype": "stepfilled", "alpha": 0.55} if part == "training" else {"histtype": "step"}
                weights = np.full(values.size, 100 / values.size)
                axes.hist(values, edges, weights=weights, color=colour, label=part, linewidth=1.4, **style)
        values = cases[column.format(axis)].to_numpy(float)
        text = f"{np.median(values):.3g}\n{values.min():.3g} to {values.max():.3g}"
        axes.text(1.03, 0.5, text, transform=axes.transAxes, va="center", fontsize=8)
        axes.set_ylabel(axis, rotation=0, ha="right", va="center", fontweight="bold")
        axes.yaxis.set_major_locator(MaxNLocator(3, steps=STEPS))
        axes.grid(axis="y")
    all_axes[0].set_title(title)
    _legend_above(all_axes[0], cases)
    all_axes[-1].set_xlabel("mm" if "mm" in column else "voxels")
    figure.supylabel("images (% of each part)", fontsize=9)


def _bins(values: Values) -> Values:
    """Edges of equal bins: whole numbers if the values are, at most about 30."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6 * max(abs(high), 1.0):
        return np.array([low - 0.5, low + 0.5]) if high >= 1 else np.array([low * 0.9, low * 1.1])
    if np.allclose(values, np.round(values)):
        width = max(1, round((high - low) / 30))
        return np.arange(low - 0.5, high + width + 0.5, width)
    return np.linspace(low, high, 25)


def _legend_above(axes: Axes, cases: pd.DataFrame) -> None:
    """Put the legend beside the title, outside the data, where there is something to tell apart."""
    if cases.part.nunique() > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1.02), ncols=2, borderaxespad=0, handlelength=1.2)


def _intensities(exploration: Exploration) -> Figure:
    panels, z_scored = [], False
    for index, name in enumerate(exploration.channels):
        draw = partial(_draw_intensities, exploration, index, False)
        panels.append(Panel(f"intensities-{index}", (_WIDTH, 3.4), draw, f"Percentiles of {name} in each image"))
        if exploration.normalisation(index) == "ZScoreNormalization":
            draw, z_scored = partial(_draw_intensities, exploration, index, True), True
            alt = f"Percentiles of {name} in each image after the z-score"
            panels.append(Panel(f"intensities-{index}-z", (_WIDTH, 3.4), draw, alt))
    where = "voxels in the non-zero mask" if exploration.masked else "voxels in the bounding box of the non-zero voxels"
    caption = (
        "Each vertical line is one image, sorted by median: the dot is the median, the thick line the middle half of "
        "the voxels, the thin line the 0.5th to 99.5th percentile, all within nnU-Net's non-zero mask."
    )
    if z_scored:
        caption += (
            " After z-score: the same after subtracting the mean and dividing by the standard deviation of the image's "
            f"{where}, as nnU-Net does."
        )
    return Figure("intensities", "Intensity in each image", caption, panels)


def _draw_intensities(exploration: Exploration, channel: int, z_scored: bool, figure: FigureBase) -> None:
    cases = exploration.cases
    order = np.argsort(cases[f"channel{channel}_p50"].to_numpy(float), kind="stable")

    def column(name: str) -> Values:
        values = cases[f"channel{channel}_{name}"].to_numpy(float)
        return (exploration.z_scored(channel, name) if z_scored else values)[order]

    axes = figure.subplots()
    medians, quartile = column("p50"), column("p25")
    thick = float(np.clip(240 / len(cases), 0.5, 5))
    place = np.arange(1, len(cases) + 1)
    for part, colour in PARTS.items():
        chosen = (cases.part == part).to_numpy()[order]
        axes.vlines(place[chosen], column("p00_5")[chosen], column("p99_5")[chosen], colour, lw=thick / 2, alpha=0.45)
        axes.vlines(place[chosen], quartile[chosen], column("p75")[chosen], colour, lw=thick, label=part)
    axes.plot(place, medians, "o", color=PAPER, ms=min(2.4, 1.2 * thick + 0.6), mew=0)
    if not z_scored and quartile.min() > 0 and medians.max() > _LOGARITHMIC_FROM * medians.min():
        axes.set_yscale("log")
        axes.set_ylim(bottom=quartile.min() / 10)
        plain_log_ticks(axes.yaxis)
    name = exploration.channels[channel]
    axes.set_title(f"{short(name)}, after z-score" if z_scored else f"{short(name)}, as in the file")
    axes.set_xlabel("image, in order of the median in the file")
    axes.set_ylabel("standard deviations from the mean" if z_scored else "intensity (units of the file)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=STEPS))
    axes.margins(x=0.02)
    axes.grid(axis="y")
    _legend_above(axes, cases)
