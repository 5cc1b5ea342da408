"""What commands print: text that comes from files reaches a terminal without the characters that it would obey."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import typer

from hippo_nnunet.errors import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

_LAYOUT = "\n\t"


class Printable:
    """A renderable of rich without control characters other than rich's own colours; a string is not markup."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the inner renderable, and clean the text of every segment."""
        from rich.segment import Segment
        from rich.text import Text

        shown = Text(self._renderable) if isinstance(self._renderable, str) else self._renderable
        for segment in console.render(shown, options):
            yield Segment(printable(segment.text, _LAYOUT), segment.style, segment.control)


class LogFormatter(logging.Formatter):
    """Formats records of the log without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record; tracebacks keep their lines."""
        return printable(super().format(record), _LAYOUT)


def echo(text: object) -> None:
    """Print a line on stdout: as it is if a program reads it, else without control characters."""
    typer.echo(printable(str(text), _LAYOUT) if sys.stdout.isatty() else text, color=True)
