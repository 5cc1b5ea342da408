"""Show findings: a table for people, JSON for scripts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hippo_nnunet.data.finding import Finding


def print_findings(findings: list[Finding], folder: Path) -> None:
    """Print one row a finding and a closing count on stdout, paths relative to ``folder`` where they lie in it."""
    console = Console()
    if not console.is_terminal:
        console.width = 160  # else rich would squeeze the table into 80 columns
    if findings:
        table = Table("severity", "file", "problem", "finding", "remedy")
        for finding in findings:
            path = finding.path.relative_to(folder) if finding.path.is_relative_to(folder) else finding.path
            row = (finding.severity, str(path), finding.problem, finding.message, finding.remedy)
            table.add_row(*(_printable(cell).replace("[", r"\[") for cell in row))
        console.print(table)
    errors = sum(finding.severity == "error" for finding in findings)
    summary = f"{_printable(str(folder))}: {errors} errors, {len(findings) - errors} warnings"
    console.print(summary, markup=False, highlight=False)


def _printable(text: str) -> str:
    """Replace what a terminal would obey, or could not show: a file may be called anything."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def findings_json(findings: list[Finding]) -> str:
    """Return the findings as a JSON list of objects with the fields of ``Finding``."""
    return json.dumps([{**asdict(finding), "path": str(finding.path)} for finding in findings], indent=1)
