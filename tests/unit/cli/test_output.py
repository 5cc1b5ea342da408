"""Text of files does not reach a terminal with the sequences that it would obey."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from hippo_nnunet.cli.output import LogFormatter, Printable, echo
from hippo_nnunet.data.finding import Finding, print_findings
from hippo_nnunet.errors import DataError

EVIL = "a\x1b]0;title\x07\x1b[31mb\r\u202ec"
CLEAN = "a ]0;title  [31mb  c"


def test_tables_and_lines_that_rich_prints() -> None:
    table = Table("label")
    table.add_row(EVIL, style="bold")
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system="standard")
    console.print(Printable(table), highlight=False, markup=False)
    console.print(Printable(f"[b]{EVIL}"), highlight=False, markup=False)
    assert "\x1b[1m" in file.getvalue(), "rich's own colours are kept"
    for sequence in ("\x1b]", "\x1b[31m", "\x07", "\r", "\u202e"):
        assert sequence not in file.getvalue()
    assert "[b]a ]0;title [31mb c" in file.getvalue()


def test_long_lines_of_run_are_not_wrapped() -> None:
    file = io.StringIO()
    Console(file=file, width=20).print(Printable("x" * 50), soft_wrap=True)
    assert file.getvalue() == "x" * 50 + "\n"


def test_findings(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding(Path(EVIL), EVIL, "label-values", EVIL, EVIL)], Path())
    assert "\x1b" not in capsys.readouterr().out


def test_errors_and_the_log() -> None:
    assert str(DataError(f"{EVIL}\nb")) == f"{CLEAN} b"
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "%s\n\tb", (EVIL,), None)
    assert LogFormatter("%(levelname)s %(message)s").format(record) == f"INFO {CLEAN}\n\tb"


@pytest.mark.parametrize(("terminal", "shown"), [(True, CLEAN), (False, EVIL)])
def test_paths_stay_exact_for_programs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool, shown: str
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    echo(EVIL)
    assert capsys.readouterr().out == f"{shown}\n"
