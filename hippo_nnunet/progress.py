"""Progress and remaining time: a bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import logging
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import TypeVar

log = logging.getLogger(__name__)

LINE_INTERVAL_S = 30.0
"""Seconds between two plain lines."""
RECENT = 5
"""Number of last epochs from which the time of the next is estimated."""

T = TypeVar("T")


def tracked(items: Iterable[T], what: str, total: int | None = None, bar: bool = True) -> Iterator[T]:
    """Yield the items, and show how many are done and the remaining time.

    Args:
        items: What to iterate over.
        what: Name of the work: `predicting`.
        total: Number of items; None: the length of `items`.
        bar: Whether to draw a bar on a terminal. The thread that draws it takes time from what is measured.

    Yields:
        The items, unchanged.
    """
    if total is None:
        assert isinstance(items, Sized)
        total = len(items)
    if bar and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, what, total, console=Console(stderr=True))
        return
    started = logged = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - logged >= LINE_INTERVAL_S:
            logged = now
            log.info(_line(what, done, total, now - started))
        yield item


@contextmanager
def counted(count: Callable[[], int], what: str, total: int) -> Iterator[None]:
    """Log the progress of the block in plain lines, for work of a library that draws its own bar on a terminal.

    Args:
        count: Returns how many of `total` are done; called from a thread.
        what: Name of the work.
        total: Number of items.
    """
    if sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    started = time.monotonic()

    def log_lines() -> None:
        while not ended.wait(LINE_INTERVAL_S):
            log.info(_line(what, count(), total, time.monotonic() - started))

    thread = threading.Thread(target=log_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def seconds_per_epoch(epochs: Sequence[float]) -> float:
    """Return the median seconds of the last epochs; NaN if there is none."""
    return statistics.median(epochs[-RECENT:]) if epochs else math.nan


def epochs_left(starts: Sequence[float], ends: Sequence[float], left: int) -> str:
    """Return in words how long the remaining epochs will take.

    Args:
        starts: Start of each epoch, in seconds.
        ends: End of each completed epoch.
        left: Number of remaining epochs.
    """
    seconds = [end - start for start, end in zip(starts, ends, strict=False)]
    return f"{left} epochs left, about {duration(left * seconds_per_epoch(seconds))}"


def duration(seconds: float) -> str:
    """Return seconds in words: `45 s`, `12 min`, `1 h 40 min`; `an unknown time` for NaN."""
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _line(what: str, done: int, total: int, elapsed_s: float) -> str:
    left = f", about {duration(elapsed_s / done * (total - done))} left" if done else ""
    return f"{what}: {done} of {total}{left}"
