"""Images of the viewed cases that need no browser: the panel for papers, and a still of the surfaces for print."""

from __future__ import annotations

import base64
import io
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LightSource
from matplotlib.figure import Figure as Canvas
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from mpl_toolkits.mplot3d.axes3d import Axes3D

from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.pages.figure import DASHES, EDGE, STYLE, Figure, Panel, short
from hippo_nnunet.pages.palette import REFERENCE, label_colour
from hippo_nnunet.pages.planes import PLANES, largest_slices
from hippo_nnunet.pages.report.viewer_cases import Labels, Viewed, ViewedCase
from hippo_nnunet.pages.report.viewer_surfaces import decimated, smoothed, surface_of
from hippo_nnunet.pages.scene import Scene

_MOST_MODELS = 3
_CELL_INCHES = 2.1
_STILL_FACES = 4000


def case_panel(viewed: Viewed) -> Figure | None:
    """Return the worst, median and best case as rows and up to three models as columns; None without a case.

    The models are the first ones and the ensemble. Each cell is the sagittal slice with the most foreground.
    """
    cases = [case for case in viewed.cases if _ranks(case)]
    if not cases:
        return None
    ensembles = [n for n, model in enumerate(viewed.models) if model.variant == ENSEMBLE]
    others = [n for n in range(len(viewed.models)) if n not in ensembles]
    models = [*others[: _MOST_MODELS - len(ensembles[:1])], *ensembles[:1]]
    names = ", ".join(viewed.models[n].name for n in models)
    *first, last = [_ranks(case) for case in cases]
    ranks = (f"{', '.join(first)} and {last}" if first else last).capitalize()
    caption = (
        f"{ranks} case by the mean Dice of {viewed.models[0].name}, segmented by {names}. White: reference; dashed, in "
        "the colours of the labels: prediction."
    )
    size = (_CELL_INCHES * len(models), _CELL_INCHES * sum(map(_height, cases)) + 0.3 * len(cases) + 0.6)
    draw = partial(_draw_panel, viewed=viewed, cases=cases, models=models)
    return Figure("cases-worst-median-best", "Example cases", caption, [Panel("example-cases", size, draw, caption)])


def surface_still(viewed: Viewed) -> str:
    """Draw the first case's surfaces, reference and first prediction side by side, as a PNG in base64."""
    case = viewed.cases[0]
    position, prediction = next(iter(case.predictions.items()))
    titled = {"Reference": case.reference, viewed.models[position].name: prediction}
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(7.2, 3.0), layout="constrained")
        every = np.argwhere(case.reference > 0) @ case.affine[:3, :3].T + case.affine[:3, 3]
        for place, (name, labels) in enumerate(titled.items(), start=1):
            axes = canvas.add_subplot(1, 2, place, projection="3d")
            _draw_surfaces(axes, labels, case, every)
            axes.set_title(short(name), loc="center", fontweight="normal")
        handles = [
            Line2D([], [], marker="o", ls="", color=label_colour(n), label=short(name))
            for n, name in enumerate(viewed.labels)
        ]
        canvas.legend(handles=handles, loc="outside lower center", ncols=4)
        stream = io.BytesIO()
        canvas.savefig(stream, format="png", dpi=130)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _draw_surfaces(axes: Axes3D, labels: Labels, case: ViewedCase, every: np.ndarray) -> None:
    light = LightSource(azdeg=225, altdeg=45)
    for value in range(1, int(labels.max(initial=0)) + 1):
        surface = surface_of(labels == value, case.affine)
        if surface is None:
            continue
        shown, _ = decimated(smoothed(surface), np.zeros(len(surface.vertices)), _STILL_FACES)
        axes.plot_trisurf(
            *shown.vertices.T, triangles=shown.faces, color=label_colour(value - 1), lightsource=light, linewidth=0
        )
    if len(every):
        low, high = every.min(axis=0), every.max(axis=0)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
        axes.set_box_aspect(np.maximum(high - low, 1.0), zoom=1.35)
    axes.view_init(elev=22, azim=-38)
    axes.set_axis_off()


def _draw_panel(figure: FigureBase, viewed: Viewed, cases: list[ViewedCase], models: list[int]) -> None:
    grid = figure.subplots(len(cases), len(models), squeeze=False, height_ratios=[_height(case) for case in cases])
    plane = PLANES[0]
    for case, row in zip(cases, grid, strict=True):
        scene = Scene(np.asarray(case.image).T, case.affine, case.spacing_mm)
        scene.slices = largest_slices(case.reference > 0)
        for n, axes in zip(models, row, strict=True):
            scene.show_image(axes, plane)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if case is cases[0]:
                axes.set_title(short(viewed.models[n].name), loc="center", fontsize=8.5, fontweight="normal")
            if n in case.predictions:
                _outline(scene, axes, case, n, len(viewed.labels))
                found = [dice for dice in case.dice[n] if dice is not None]
                if found:
                    axes.set_xlabel(f"Dice {np.mean(found):.3f}", fontsize=7.5, labelpad=2)
        row[0].set_ylabel(f"{_ranks(case)}\n{short(case.case)}", fontsize=8)
    handles = [Line2D([], [], color=label_colour(n), ls=DASHES, label=short(v)) for n, v in enumerate(viewed.labels)]
    handles.append(Line2D([], [], color=REFERENCE, path_effects=EDGE, label="Reference"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def _outline(scene: Scene, axes: Axes, case: ViewedCase, model: int, labels: int) -> None:
    prediction = case.predictions[model]
    scene.outline(axes, {str(v): case.reference == v for v in range(1, labels + 1)}, PLANES[0], REFERENCE, width=1.0)
    scene.outline(axes, {str(v): prediction == v for v in range(1, labels + 1)}, PLANES[0], dashes=DASHES, width=1.0)


def _height(case: ViewedCase) -> float:
    """Return the height of a case's sagittal slices, per width."""
    across, up = (case.image.shape[axis] * case.spacing_mm[axis] for axis in (PLANES[0].across, PLANES[0].up))
    return float(np.clip(up / across, 0.3, 2.0))


def _ranks(case: ViewedCase) -> str:
    return " and ".join(reason.rank for reason in case.reasons if reason.rank)
