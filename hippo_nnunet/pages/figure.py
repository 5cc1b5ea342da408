"""What all figures of matplotlib share: style, and how they are saved.

A figure is made of panels. A page shows each panel as a separate image, so that they can be stacked on a phone; the
files for papers hold them side by side.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.patheffects as effects
from markupsafe import escape
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.figure import FigureBase
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hippo_nnunet.pages.palette import INK, LINE, MARK, PAPER

DASHES = (0, (2.6, 1.4))
EDGE: list[effects.AbstractPathEffect] = [effects.withStroke(linewidth=2.4, foreground="#000000b0")]
"""The dark edge of outlines, in matplotlib."""
_PAGE_COLOURS = {INK: "var(--ink)", LINE: "var(--line)", PAPER: "var(--paper)", MARK: "var(--mark)"}
_DOTS_PER_INCH = 200
ENDINGS = (".png", ".svg", ".pdf")
"""The files of a saved figure."""
_LONGEST = 26
STEPS = (1, 2, 2.5, 5, 10)
_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))

# matplotlib types the keys as literals, differently from version to version.
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "text.parse_math": False,  # names may hold any characters, also two dollars
    "axes.formatter.limits": (-4, 5),
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "svg.hashsalt": "hippo_nnunet",
}


@dataclass(frozen=True)
class Panel:
    """One part of a figure.

    Args:
        name: unique among the panels of a page; letters, digits and hyphens.
        size: width and height in inches.
        draw: draws it into an empty figure or subfigure.
        alt: what it shows, in words, for those who cannot see it.
        note: text that a page shows below it.
    """

    name: str
    size: tuple[float, float]
    draw: Callable[[FigureBase], None]
    alt: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Panels that belong together.

    Args:
        name: file name without ending.
        title: heading on a page.
        caption: what it shows and how to read it, in plain text.
        panels: at least one.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]

    @property
    def columns(self) -> int:
        """Number of panels in a row, where there is room: two where that fills the rows, else three."""
        return min(len(self.panels), 2 if len(self.panels) == 4 else 3)


def drawable(name: str) -> str:
    """Return a name without characters that matplotlib cannot draw, and with a space before an underscore.

    Matplotlib leaves names that begin with an underscore out of legends.
    """
    name = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return f" {name}" if name.startswith("_") else name


def short(name: str) -> str:
    """Truncate a name that would take the space of the data; also see `drawable`."""
    name = drawable(name)
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def plain_log_ticks(axis: Axis) -> None:
    """Name the ticks of a logarithmic axis in plain numbers: matplotlib's own are mathematics, which is switched off.

    Below two decades, 2 and 5 are named too.
    """
    low, high = axis.get_view_interval()
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    axis.set_major_formatter(plain)
    axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axis.set_minor_formatter(plain if high < 100 * low else NullFormatter())


def save_figure(figure: Figure, folder: Path) -> None:
    """Write ``NAME.png`` (200 dots an inch), ``NAME.svg`` and ``NAME.pdf``: panels in rows of at most three, on white.

    Text stays text in the vector files, so that a journal can edit it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    panels = figure.panels
    columns = figure.columns
    rows = -(-len(panels) // columns)
    widths = [max(panel.size[0] for panel in panels[column::columns]) for column in range(columns)]
    heights = [max(panel.size[1] for panel in panels[row * columns : (row + 1) * columns]) for row in range(rows)]
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports every table of every font of a PDF
    with mpl.rc_context({**STYLE, "svg.fonttype": "none"}):
        canvas = Canvas(figsize=(sum(widths), sum(heights)), layout="constrained")
        grid = canvas.subfigures(rows, columns, squeeze=False, width_ratios=widths, height_ratios=heights)
        for panel, part in zip(panels, grid.flat, strict=False):
            panel.draw(part)
        canvas.savefig(folder / f"{figure.name}.png", dpi=_DOTS_PER_INCH)
        canvas.set_layout_engine("none")  # keeps the layout: each file would compute it again, and draw twice for it
        canvas.savefig(folder / f"{figure.name}.svg", metadata={"Date": None}, dpi=_DOTS_PER_INCH)
        canvas.savefig(folder / f"{figure.name}.pdf", metadata={"CreationDate": None}, dpi=_DOTS_PER_INCH)


def inline_svg(panel: Panel) -> str:
    """Draw a panel as an ``<svg>`` element whose colours follow the page's variables, light or dark.

    The page has to define ``--ink``, ``--line``, ``--paper`` and ``--mark``.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": panel.name}):
        canvas = Canvas(figsize=panel.size, layout="constrained")
        panel.draw(canvas)
        stream = io.StringIO()
        canvas.savefig(stream, format="svg", transparent=True, metadata=_METADATA, dpi=_DOTS_PER_INCH)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in _PAGE_COLOURS.items():
        text = text.replace(f": {colour}", f": {variable}")
    # Equal images get equal ids, which nothing refers to.
    text = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", text)
    # Several drawings share a page: each gets its own ids.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{panel.name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(panel.alt)}" ', 1)
