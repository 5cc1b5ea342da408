"""What all figures share."""

from __future__ import annotations

import logging
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure as Canvas
from matplotlib.figure import FigureBase

from hippo_nnunet.pages.figure import ENDINGS, STYLE, Figure, Panel, plain_log_ticks, save_figure


@pytest.mark.parametrize(
    ("high", "shown", "hidden"),
    [(50_000.0, {"10", "100", "1,000"}, {"20", "50"}), (300.0, {"20", "50", "100"}, {"30"})],
)
def test_logarithmic_ticks_are_plain_numbers(high: float, shown: set[str], hidden: set[str]) -> None:
    with mpl.rc_context(STYLE):
        canvas = Canvas()
        axes = canvas.subplots()
        axes.plot([1, 2], [9.0, high])
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        canvas.draw_without_rendering()
        texts = {label.get_text() for label in axes.get_yticklabels(which="both")}
    assert shown <= texts
    assert not hidden & texts
    assert not any("$" in text for text in texts)


def test_vector_files_keep_text_as_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def draw(figure: FigureBase) -> None:
        figure.subplots().set_title("a_b $1$ and $2$")

    save_figure(Figure("x", "title", "caption", [Panel("x", (2.0, 2.0), draw, "alt")]), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == set(ENDINGS)
    assert "a_b $1$ and $2$" in (tmp_path / "x.svg").read_text()
    assert b"/FontFile2" in (tmp_path / "x.pdf").read_bytes(), "a TrueType font, not outlines"
    assert not caplog.records, "fontTools would log every table of a font"
