"""The figures of a dataset's labels: class shares, volumes, centres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from hippo_nnunet.data.exploration import Exploration
from hippo_nnunet.data.exploration_case import AXES, DIRECTIONS, TOTAL
from hippo_nnunet.data.outliers import Screening, readable
from hippo_nnunet.pages.figure import STEPS, Figure, Panel, plain_log_ticks, short
from hippo_nnunet.pages.palette import GREY, INK, MARK, label_colour

_MARKERS = ("o", "^", "s", "D", "v", "P")
_MOST_LABELS_APART = 4
_LOGARITHMIC_FROM = 30.0
_MANY = 9
_WIDTH = 4.2
_THOUSANDS = StrMethodFormatter("{x:,g}")

Values = npt.NDArray[np.float64]


def label_figures(exploration: Exploration, screening: Screening) -> list[Figure]:
    """Return the figures of a dataset with at least one label and one labelled case."""
    return [_shares(exploration), _volumes(exploration, screening), _centres(exploration, screening)]


def _shares(exploration: Exploration) -> Figure:
    labelled = exploration.labelled
    voxels = np.prod([labelled[f"size_{axis}"].to_numpy(float) for axis in AXES], axis=0)
    pooled = {
        name: 100 * float((labelled[f"share_{name}"] * voxels).sum() / voxels.sum())
        for name in (*exploration.labels, TOTAL)
    }
    background = {} if exploration.regions_overlap else {"background": 100 - pooled[TOTAL]}
    bars = {**background, **{name: pooled[name] for name in exploration.labels}}
    rows = {name: 100 * labelled[f"share_{name}"].to_numpy(float) for name in exploration.labels}
    height = 1.3 + (0.45 if len(bars) < _MANY else 0.4) * len(bars)
    draw_cases = partial(_draw_rows, rows, _colours(exploration), "Share in each case", "share of voxels (%)", {})
    panels = [
        Panel("shares-pooled", (_WIDTH, height), partial(_draw_bars, bars, exploration), "Bars: share of each class"),
        Panel("shares-cases", (_WIDTH, height), draw_cases, "Share of each label in every case"),
    ]
    caption = f"Share of all voxels of the labelled images, and share in each case: {_ROWS}"
    return Figure("class_shares", "Class shares", caption, panels)


def _draw_bars(bars: Mapping[str, float], exploration: Exploration, figure: FigureBase) -> None:
    axes = figure.subplots()
    colours = {**_colours(exploration), "background": GREY}
    place = np.arange(len(bars))
    axes.barh(place, list(bars.values()), height=0.6, color=[colours[name] for name in bars])
    for y, value in zip(place, bars.values(), strict=True):
        axes.annotate(f"{value:.3g} %", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(place, [short(name) for name in bars])
    axes.set(xlim=(0, 120), xticks=range(0, 101, 25), ylim=(len(bars) - 0.45, -0.55))
    axes.set_title("Share of all voxels")
    axes.set_xlabel("share of voxels (%)")
    axes.tick_params(axis="y", length=0)


_ROWS = (
    "one dot for each case that has the label; bar: middle half, with the median; line: 5th to 95th percentile; on the "
    "right: median and range."
)


def _volumes(exploration: Exploration, screening: Screening) -> Figure:
    labelled = exploration.labelled
    names = [*exploration.labels, *([TOTAL] if len(exploration.labels) > 1 else [])]
    rows = {name: labelled[f"volume_mm3_{name}"].to_numpy(float) for name in names}
    flagged = {name: _flagged(labelled, screening, f"volume of {name}") for name in names}
    title, label = "Volume", "volume (mm³)"
    draw = partial(_draw_rows, rows, _colours(exploration), title, label, flagged)
    panels = [
        Panel(
            "volumes-labels",
            (_WIDTH, max(3.0, 1.3 + (0.6 if len(rows) < _MANY else 0.4) * len(rows))),
            draw,
            "Volume of each label",
        )
    ]
    caption = _ROWS[0].upper() + _ROWS[1:]
    if len(exploration.labels) == 2:
        first, second = exploration.labels
        draw_pair = partial(_draw_pair, rows[first], rows[second], (first, second), flagged[first] | flagged[second])
        panels.append(Panel("volumes-pair", (_WIDTH, 3.4), draw_pair, f"Volume of {second} against {first}"))
        caption += f" {second} against {first}: one dot for each case; dashed: equal volumes."
    if any((values == 0).any() for values in rows.values()):
        caption += " The table counts a case without the label as 0."
    if any(mask.any() for mask in flagged.values()):
        caption += " Rings mark outliers in these volumes."
    return Figure("volumes", "Class volumes", caption, panels)


def _flagged(labelled: pd.DataFrame, screening: Screening, quantity: str) -> npt.NDArray[np.bool_]:
    cases = {outlier.case for outlier in screening.outliers if outlier.quantity == quantity}
    return labelled.case.isin(cases).to_numpy()


def _colours(exploration: Exploration) -> dict[str, str]:
    return {**{name: label_colour(index) for index, name in enumerate(exploration.labels)}, TOTAL: GREY}


def _draw_rows(
    rows: Mapping[str, Values],
    colours: Mapping[str, str],
    title: str,
    label: str,
    flagged: Mapping[str, npt.NDArray[np.bool_]],
    figure: FigureBase,
) -> None:
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    everything = np.concatenate(list(rows.values()))
    positive = everything[everything > 0]
    logarithmic = positive.size > 1 and positive.max() > _LOGARITHMIC_FROM * positive.min()
    for y, (name, values) in enumerate(rows.items()):
        shown = values[values > 0]
        text = f"{shown.size} of {values.size} cases" if shown.size < values.size else ""
        if shown.size:
            range_ = f"{readable(np.median(shown))}\n{readable(shown.min())} to {readable(shown.max())}"
            text = f"{range_}\n{text}" if text else range_
        axes.text(
            1.03, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8 if len(rows) < _MANY else 7
        )
        if not shown.size:
            continue
        height = y + 0.25 + rng.uniform(-0.12, 0.12, values.size)
        seen = values > 0
        axes.plot(values[seen], height[seen], "o", color=colours[name], ms=2.8, mew=0, alpha=0.65)
        marked = seen & flagged.get(name, np.zeros(values.size, bool))
        axes.plot(values[marked], height[marked], "o", ms=6, mfc="none", mec=MARK, mew=1.2)
        low, first, median, third, high = np.percentile(shown, [5, 25, 50, 75, 95])
        axes.hlines(y - 0.12, low, high, colours[name], lw=1.4)
        axes.barh(y - 0.12, third - first, left=first, height=0.22, color=colours[name])
        axes.vlines(median, y - 0.23, y - 0.01, INK, lw=1.8)
    if logarithmic:
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
    elif everything.max() >= 1000:
        axes.xaxis.set_major_formatter(_THOUSANDS)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.set_yticks(range(len(rows)), [short(name) for name in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.45, -0.5)
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.grid(axis="x")


def _draw_pair(first: Values, second: Values, names: Sequence[str], marked: Any, figure: FigureBase) -> None:
    axes = figure.subplots()
    axes.plot(first, second, "o", color=GREY, ms=3.6, mew=0, alpha=0.7)
    axes.plot(first[marked], second[marked], "o", ms=7, mfc="none", mec=MARK, mew=1.2)
    both = [max(first.min(), second.min()), min(first.max(), second.max())]
    if both[0] < both[1]:
        axes.plot(both, both, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0)
    first_name, second_name = map(short, names)
    axes.set_title(f"{second_name} against {first_name}")
    axes.set_xlabel(f"{first_name} (mm³)")
    axes.set_ylabel(f"{second_name} (mm³)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axis.set_major_formatter(_THOUSANDS)
    axes.grid()


def _centres(exploration: Exploration, screening: Screening) -> Figure:
    labelled = exploration.labelled
    names = list(exploration.labels) if len(exploration.labels) <= _MOST_LABELS_APART else [TOTAL]
    columns = [f"centre_{way}_mm_{name}" for name in names for way in DIRECTIONS]
    known = labelled[columns].to_numpy(float)
    limit = 1.1 * float(np.nanmax(np.abs(known))) if np.isfinite(known).any() else 1.0
    flagged = np.any(
        [_flagged(labelled, screening, f"centre of the foreground towards {way}") for way in DIRECTIONS], axis=0
    )
    colours = _colours(exploration)

    def draw(across: int, up: int, title: str, figure: FigureBase) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=INK, lw=0.8)
        axes.axvline(0, color=INK, lw=0.8)
        for index, name in enumerate(names):
            x, y = (labelled[f"centre_{DIRECTIONS[way]}_mm_{name}"].to_numpy(float) for way in (across, up))
            marker = _MARKERS[index % len(_MARKERS)]
            axes.plot(x, y, marker, color=colours[name], ms=3.6, mew=0, alpha=0.65, label=short(name))
            axes.plot(x[flagged], y[flagged], "o", ms=7, mfc="none", mec=MARK, mew=1.2)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        axes.set_title(title)
        axes.set_xlabel(_WAYS[across])
        axes.set_ylabel(_WAYS[up])
        axes.locator_params(nbins=7)
        axes.grid()
        figure.legend(loc="outside lower center", ncols=2, markerscale=1.6)

    planes = ((1, 2, "Seen from the side"), (0, 2, "Seen from the front"), (0, 1, "Seen from above"))
    panels = [
        Panel(f"centres-{i}", (3.6, 3.9), partial(draw, *plane), f"Centres of the labels in mm, {plane[2].lower()}")
        for i, plane in enumerate(planes)
    ]
    caption = "Centre of mass of each label, a mark for each case, in mm from the centre of the image (lines)."
    if flagged.any():
        caption += " Rings mark cases whose foreground position is an outlier."
    return Figure("centres", "Centre positions", caption, panels)


_WAYS = ("left  ←  mm  →  right", "posterior  ←  mm  →  anterior", "inferior  ←  mm  →  superior")
