"""Markers and colours of the models: the same on the page and in the figures for papers.

Every model has a colour and a marker of its own, so that colours need not be distinguished.
"""

from __future__ import annotations

from dataclasses import dataclass

from hippo_nnunet.analysis.verdicts import NOT_JUDGED
from hippo_nnunet.evaluation.statistics import BETTER, CANNOT_TELL, EQUIVALENT, WORSE
from hippo_nnunet.pages.palette import MODEL_COLOURS


@dataclass(frozen=True)
class Marker:
    """One shape, as each drawing program names it.

    Attributes:
        plotly: Plotly's symbol.
        matplotlib: matplotlib's marker.
        path: SVG path within -6 to 6 in both directions.
    """

    plotly: str
    matplotlib: str
    path: str


MARKERS = (
    Marker("circle", "o", "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z"),
    Marker("square", "s", "M-4.5 -4.5h9v9h-9z"),
    Marker("triangle-up", "^", "M0 -5.5L5.5 4.5H-5.5z"),
    Marker("diamond", "D", "M0 -6L6 0L0 6L-6 0z"),
    Marker("cross", "P", "M-2 -5.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z"),
    Marker("triangle-down", "v", "M0 5.5L5.5 -4.5H-5.5z"),
    Marker("x", "X", "M-5 -2.5L-2.5 -5L0 -2.5L2.5 -5L5 -2.5L2.5 0L5 2.5L2.5 5L0 2.5L-2.5 5L-5 2.5L-2.5 0z"),
    Marker("pentagon", "p", "M0 -5.7L5.4 -1.8L3.4 4.6H-3.4L-5.4 -1.8z"),
)

VERDICT_MARKERS = {
    **{BETTER: MARKERS[2], WORSE: MARKERS[5], EQUIVALENT: MARKERS[0]},
    **{CANNOT_TELL: MARKERS[3], NOT_JUDGED: MARKERS[6]},
}
"""Shape of each verdict in the plot of differences."""


def marker(index: int) -> Marker:
    """Return the marker of the model at a position; after eight, colours go on and markers shift by one."""
    return MARKERS[(index + index // len(MARKERS)) % len(MARKERS)]


def series(index: int) -> int:
    """Return the number, from 1, of the page's colour `--series-N` of the model at a position."""
    return index % len(MODEL_COLOURS) + 1


def colour(index: int) -> str:
    """Return the colour, on white, of the model at a position."""
    return MODEL_COLOURS[index % len(MODEL_COLOURS)]
