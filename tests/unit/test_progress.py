"""Progress: plain lines where there is no terminal, a bar where there is one, the items unchanged."""

from __future__ import annotations

import io
import logging
import math
import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks.ratios import turns
from hippo_nnunet import progress
from hippo_nnunet.progress import counted, duration, epochs_left, seconds_per_epoch, tracked


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """A line for every item."""
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO)
    yield caplog


def test_lines_say_what_is_left(always: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    assert list(tracked([10, 20, 30], "predicting")) == [10, 20, 30]
    assert [record.getMessage()[:18] for record in always.records] == ["predicting: 1 of 3", "predicting: 2 of 3"]
    assert always.records[0].getMessage().endswith("about 0 s left")
    assert capfd.readouterr().out == ""


def test_a_generator_needs_its_number_and_is_not_read_ahead(always: pytest.LogCaptureFixture) -> None:
    taken = []
    items = tracked((taken.append(i) or i for i in range(3)), "writing", 3)
    assert next(items) == 0
    assert taken == [0]
    with pytest.raises(AssertionError):
        next(tracked((i for i in range(3)), "writing"))


def test_nothing_is_shown_for_quick_work(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    assert list(tracked([1, 2], "checking")) == [1, 2]
    assert not caplog.records
    assert capfd.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, always: pytest.LogCaptureFixture) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(tracked([1, 2], "checking")) == [1, 2]
    assert "checking" in terminal.getvalue()
    assert "\x1b" in terminal.getvalue()
    assert not always.records


def test_benchmarks_draw_no_bar(monkeypatch: pytest.MonkeyPatch, always: pytest.LogCaptureFixture) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(turns(["a", "b"], 2)) == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert terminal.getvalue() == ""
    assert len(always.records) == 3


def test_somebody_elses_work_is_counted(always: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.01)
    with counted(lambda: 3, "preprocessing", 12):
        end = time.monotonic() + 5
        while not always.records and time.monotonic() < end:
            time.sleep(0.01)
    said = len(always.records)
    time.sleep(0.05)
    assert len(always.records) == said
    assert always.records[0].getMessage().startswith("preprocessing: 3 of 12, about ")


def test_recent_epochs_say_how_long_the_next_take() -> None:
    assert seconds_per_epoch([100, 100, 100, 1, 1, 1, 2, 2]) == 1
    assert math.isnan(seconds_per_epoch([]))
    assert epochs_left([0, 100], [60, 160], 10) == "10 epochs left, about 10 min"
    assert epochs_left([0], [], 3) == "3 epochs left, about an unknown time"


def test_duration_in_words() -> None:
    assert [duration(s) for s in (45, 720, 6000, math.nan)] == ["45 s", "12 min", "1 h 40 min", "an unknown time"]
