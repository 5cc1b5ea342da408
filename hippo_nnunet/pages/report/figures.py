"""The report's figures for papers, drawn by matplotlib from the same prepared tables as the page."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from hippo_nnunet.analysis.tables import number
from hippo_nnunet.analysis.verdicts import NOT_JUDGED
from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.pairing import SUBSETS
from hippo_nnunet.evaluation.statistics import ALPHA, CANNOT_TELL
from hippo_nnunet.pages.figure import Figure, Panel, drawable, short
from hippo_nnunet.pages.palette import GREY, INK, LINE, PAPER
from hippo_nnunet.pages.report.charts import chart_data
from hippo_nnunet.pages.report.content import Content
from hippo_nnunet.pages.report.forest import QUESTIONS, Forest, prepare_forest, signed
from hippo_nnunet.pages.report.panel import case_panel
from hippo_nnunet.pages.report.style import colour, marker
from hippo_nnunet.pages.report.viewer_cases import Viewed

BAND = "#dceaf4"
_WIDTH = 6.4
_BROKEN = " The axis is broken at the dashed lines; beyond them, its scale is smaller."
_CASES = "Dice of each case, mean over labels, under each model. Grey lines connect a case, black lines mark the means."


def report_figures(content: Content, viewed: Viewed | None = None) -> list[Figure]:
    """Return the figures that the experiment's content and the cases of its viewers allow."""
    charts = chart_data(content)
    names = [str(model) for model in content.models]
    found: list[Figure] = []
    pairs = content.comparison.pairs
    forest = prepare_forest(pairs, {*QUESTIONS} - {*SUBSETS}) or prepare_forest(pairs, SUBSETS)
    if forest:
        found.append(_forest_figure(forest))
    if charts["cases"]:
        draw = partial(_draw_cases, data=charts["cases"], names=names)
        size = (_WIDTH, 0.9 + 0.55 * len(names))
        found.append(_single("cases", "Case by case", _CASES, size, draw))
    if charts["sizes"]:
        found.append(_sizes_figure(charts["sizes"], charts["metric"]))
    if charts["notebook"]:
        draw = partial(_draw_notebook, data=charts["notebook"], names=names)
        caption = "The notebooks' score of each case against its Dice: the same masks."
        found.append(_single("notebook", "The notebooks' score and ours", caption, (4.8, 5.2), draw))
    if charts["curves"]:
        found.append(_curves_figure(charts["curves"], names))
    if charts["volumes"]:
        found += _volume_figures(charts["volumes"], list(content.label_dice))
    panel = case_panel(viewed) if viewed else None
    return [*found, panel] if panel else found


def _single(name: str, title: str, caption: str, size: tuple[float, float], draw: Any) -> Figure:
    return Figure(name, title, caption, [Panel(name, size, draw, caption)])


def _forest_figure(forest: Forest) -> Figure:
    count = sum(len(rows) + 1 for rows in forest.groups.values())
    caption = (
        f"Mean paired differences in {QUALITY[forest.metric].heading} with {1 - forest.alpha:.0%} (thin) and "
        f"{1 - 2 * forest.alpha:.0%} (thick) bootstrap intervals; right of 0, the first model is better. Band: "
        f"equivalent within ±{forest.rope:g}.{_BROKEN if forest.breaks else ''}"
    )
    size = (_WIDTH + 1.2, 0.8 + 0.27 * count)
    return _single("differences", "Differences", caption, size, partial(_draw_forest, forest=forest))


def _draw_forest(figure: FigureBase, forest: Forest) -> None:
    axes = figure.subplots()
    at = forest.percent
    axes.axvspan(at(-forest.rope), at(forest.rope), color=BAND, lw=0)
    axes.axvline(at(0), color=GREY, lw=0.8)
    for cut in forest.breaks:
        axes.axvspan(cut - 1, cut + 1, color=PAPER, lw=0, zorder=3)
        axes.axvline(cut, color=GREY, lw=0.8, ls=(0, (2, 2)), zorder=3)
    labels, place = [], 0
    for kind, rows in forest.groups.items():
        labels.append((place, QUESTIONS[kind], "bold"))
        for row in rows:
            place += 1
            text = f"{row.one} against {row.other}" if row.first else row.scope
            labels.append((place, drawable(text), "normal"))
            size = 6.5 if row.first else 4.5
            if np.isfinite(row.low):
                axes.plot([at(row.low), at(row.high)], [place] * 2, color=INK, lw=0.9)
                ends = [at(row.narrow_low), at(row.narrow_high)]
                axes.plot(ends, [place] * 2, color=INK, lw=2.4, solid_capstyle="butt")
            if np.isfinite(row.difference):
                look: dict[str, Any] = {
                    "marker": row.marker.matplotlib,
                    "mfc": _face(row.verdict),
                    "mec": INK,
                    "mew": 0.7,
                }
                axes.plot(at(row.difference), place, ms=size, zorder=4, **look)
        place += 1
    axes.set_yticks([p for p, _, _ in labels], [text for _, text, _ in labels])
    for tick, (_, _, weight) in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_fontweight(weight)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(place - 0.4, -0.7), xlim=(0, 100))
    axes.set_xticks([at(tick) for tick in forest.ticks], [signed(tick) for tick in forest.ticks])
    direction = "" if QUALITY[forest.metric].sign > 0 else " (lower is better; the sign is reversed)"
    axes.set_xlabel(f"difference in {QUALITY[forest.metric].heading}{direction}; right of 0: the first model is better")
    axes.spines["left"].set_visible(False)
    shapes = {row.verdict: row.marker.matplotlib for rows in forest.groups.values() for row in rows}
    handles = [_handle(shape, _face(verdict), verdict) for verdict, shape in shapes.items()]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(handles), borderpad=0)


def _face(verdict: str) -> str:
    return PAPER if verdict in (CANNOT_TELL, NOT_JUDGED) else GREY


def _draw_cases(figure: FigureBase, data: dict[str, Any], names: list[str]) -> None:
    axes = figure.subplots()
    order = data["order"]
    values = np.array(data["values"], dtype=float)[order]
    shift = (np.arange(values.shape[1]) * 0.618034 % 1 - 0.5) * 0.3
    rows = range(len(order))
    for case in range(values.shape[1]):
        places = [row + shift[case] for row in rows]
        axes.plot(values[:, case], places, color=GREY, lw=0.4, alpha=0.35, zorder=1)
    for row, k in enumerate(order):
        axes.scatter(values[row], row + shift, s=14, zorder=2, alpha=0.7, lw=0, **_look(k))
        if data["means"][k] is not None:
            axes.plot([data["means"][k]] * 2, [row - 0.3, row + 0.3], color=INK, lw=1.8, zorder=3)
    texts = [f"{short(names[k])}\n{number(data['means'][k])}" for k in order]
    axes.set_yticks(rows, texts)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(len(order) - 0.5, -0.5), xlabel="Dice of the case, mean of labels; line: mean of cases")


def _draw_notebook(figure: FigureBase, data: dict[str, Any], names: list[str]) -> None:
    axes = figure.subplots()
    for own in data["models"]:
        axes.scatter(own["dice"], own["score"], s=12, alpha=0.5, lw=0, **_look(own["model"]))
    xs = [value for own in data["models"] for value in own["dice"]]
    ys = [value for own in data["models"] for value in own["score"]]
    low, high = min(xs) - 0.01, max(*xs, *ys) + 0.01
    axes.plot([low, high], [low, high], color=GREY, lw=0.8, ls="--", label="equal scores")
    for own in data["models"]:
        k = own["model"]
        if own["mean"][0] is not None:
            named = f"{short(names[k])}: {own['mean'][0]:.4f}, {own['mean'][1]:.4f}"
            axes.plot(*own["mean"], ms=8, ls="", mec=INK, label=named, **_look(k))
    if data["measured"]:
        x, y = [p[2] for p in data["measured"]], [p[1] for p in data["measured"]]
        axes.plot(x, y, "*", mfc=PAPER, mec=INK, ms=9, label="the notebooks' own network")
    axes.set(xlim=(low, max(xs) + 0.01), ylim=(min(ys) - 0.02, max(ys) + 0.02))
    axes.set(xlabel="Dice per volume, mean of labels", ylabel="the notebooks' score")
    axes.grid()
    figure.legend(loc="outside lower center", fontsize=7, ncols=1 if max(map(len, names)) > 24 else 2)


def _sizes_figure(data: dict[str, Any], metric: str) -> Figure:
    caption = (
        f"{metric} against the number of training cases, on a logarithmic axis: means over the same out-of-fold cases "
        f"with {1 - ALPHA:.0%} intervals."
    )
    draw = partial(_draw_sizes, **data, metric=metric)
    return _single("training-cases", f"{metric} against number of training cases", caption, (4.8, 3.6), draw)


def _draw_sizes(figure: FigureBase, lines: list[dict[str, Any]], ticks: list[int], metric: str) -> None:
    axes = figure.subplots()
    for position, line in enumerate(lines):
        shift = 1.025 ** (position - (len(lines) - 1) / 2)  # keeps the models' whiskers apart
        mean = np.array(line["mean"], dtype=float)
        ends = np.abs(np.array([line["low"], line["high"]], dtype=float) - mean)
        x = shift * np.array(line["cases"])
        look = {**_look(line["model"]), "label": short(line["name"])}
        axes.errorbar(x, mean, ends, lw=1.3, ms=5.5, elinewidth=0.9, capsize=2.5, **look)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="training cases", ylabel=f"{metric}, mean of labels")
    axes.grid()
    axes.legend(loc="best")


def _curves_figure(curves: list[dict[str, Any]], names: list[str]) -> Figure:
    panels = []
    for position, configuration in enumerate(dict.fromkeys(fold["configuration"] for fold in curves)):
        own = [fold for fold in curves if fold["configuration"] == configuration]
        for kind, keys in (("loss", ("train_loss", "val_loss")), ("pseudo-Dice", ("pseudo_dice",))):
            draw = partial(_draw_curves, folds=own, keys=keys, title=f"{configuration}: {kind}", names=names)
            panels.append(Panel(f"curves-{position}-{keys[0]}", (3.6, 3.0), draw, f"{kind} by epoch, {configuration}"))
    caption = (
        "Loss and pseudo-Dice by epoch, one line per fold. Solid: training patches; dotted: validation patches. "
        "Pseudo-Dice is computed over validation patches."
    )
    return Figure("curves", "Training curves", caption, panels)


def _draw_curves(
    figure: FigureBase, folds: list[dict[str, Any]], keys: tuple[str, ...], title: str, names: list[str]
) -> None:
    axes = figure.subplots()
    for fold in folds:
        k = fold["model"]
        for key in keys:
            dotted = ":" if key == "val_loss" else "-"
            values = np.array(fold[key], dtype=float)
            every = max(1, len(values) // 4)
            axes.plot(fold["epochs"], values, ls=dotted, lw=1, ms=3.5, markevery=every, alpha=0.85, **_look(k))
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    if len(keys) == 1:
        shown = dict.fromkeys(fold["model"] for fold in folds)
        axes.legend(handles=[_handle(marker(k).matplotlib, colour(k), short(names[k])) for k in shown], fontsize=7)


def _volume_figures(entries: list[dict[str, Any]], labels: list[str]) -> list[Figure]:
    figures: list[Figure] = []
    for position, label in enumerate(labels):
        reach = _reach(entries, position)
        panels = [
            Panel(
                f"volume-{position}-{column}",
                (3.4, 2.9),
                partial(_draw_volume, entry=entry, position=position, reach=reach),
                f"Bland-Altman plot, {label}, {entry['name']}",
            )
            for column, entry in enumerate(entries)
        ]
        name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or str(position + 1)
        if f"volumes-{name}" in {figure.name for figure in figures}:
            name += f"-{position + 1}"
        caption = (
            "Bland-Altman plots of predicted minus reference volume against their mean, one dot per case. Solid line: "
            "bias; dashed lines: limits of agreement; bands: 95 % confidence intervals."
        )
        figures.append(Figure(f"volumes-{name}", f"Volumes, {label}", caption, panels))
    return figures


def _reach(entries: list[dict[str, Any]], position: int) -> float:
    values = [
        abs(value)
        for entry in entries
        for key in ("difference", "lower", "upper")
        for value in entry["labels"][position][key]
        if value is not None
    ]
    return max([1.0, *values]) * 1.08


def _draw_volume(figure: FigureBase, entry: dict[str, Any], position: int, reach: float) -> None:
    axes: Axes = figure.subplots()
    own = entry["labels"][position]
    for key, dashed in (("bias", "-"), ("lower", "--"), ("upper", "--")):
        value, low, high = own[key]
        if value is None:
            continue
        if low is not None:
            axes.axhspan(low, high, color=BAND, lw=0)
        axes.axhline(value, color=INK, lw=0.9, ls=dashed)
        axes.annotate(
            number(value, "+.0f"), (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=7.5
        )
    axes.scatter(own["mean"], own["difference"], s=12, alpha=0.7, lw=0, **_look(entry["model"]))
    axes.set(ylim=(-reach, reach), title=f"{short(entry['name'])}, {short(own['label'])}")
    axes.set(xlabel="mean of both, mm³", ylabel="predicted - reference, mm³")
    axes.grid(color=LINE)


def _look(index: int) -> dict[str, Any]:
    """Return marker and colour of the model at a position, for matplotlib."""
    return {"marker": marker(index).matplotlib, "color": colour(index)}


def _handle(shape: str, face: str, label: str) -> Line2D:
    return Line2D([], [], marker=shape, mfc=face, mec=INK, ls="", ms=6, label=label)
