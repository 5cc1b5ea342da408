"""The findings of a dataset check: one record for each problem, as table or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from hippo_nnunet.errors import DataError, printable


@dataclass(frozen=True)
class Finding:
    """One problem of one file or dataset.

    Args:
        path: the file or folder that has the problem.
        case: the case id, or None if the problem belongs to the whole dataset.
        problem: short code that scripts may rely on, such as ``label-values``.
        message: what was found and what was expected, without the path.
        remedy: what to do about it.
        severity: ``error`` stops a conversion; ``warning`` does not.
    """

    path: Path
    case: str | None
    problem: str
    message: str
    remedy: str
    severity: Literal["error", "warning"] = "error"

    def describe(self, base: Path | None = None) -> str:
        """Return one line, with the path relative to ``base`` if it lies there."""
        inside = base is not None and self.path.is_relative_to(base)
        path = self.path.relative_to(base) if base is not None and inside else self.path
        return f"{path}: {self.message}; {self.remedy}"


class FoundProblem(DataError):  # noqa: N818 - it carries a finding
    """A problem that makes it impossible to continue reading; the finding's description is the error message."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.describe())
        self.finding = finding


def print_findings(findings: list[Finding], folder: Path) -> None:
    """Print a table of findings and a count on stdout, paths relative to ``folder`` if they lie in it."""
    console = Console()
    if not console.is_terminal:
        console.width = 160  # rich's default is 80 columns
    if findings:
        table = Table("severity", "file", "problem", "finding", "remedy")
        for finding in findings:
            path = finding.path.relative_to(folder) if finding.path.is_relative_to(folder) else finding.path
            row = (finding.severity, str(path), finding.problem, finding.message, finding.remedy)
            table.add_row(*(printable(cell).replace("[", r"\[") for cell in row))
        console.print(table)
    errors = sum(finding.severity == "error" for finding in findings)
    summary = f"{printable(str(folder))}: {errors} errors, {len(findings) - errors} warnings"
    console.print(summary, markup=False, highlight=False)


def findings_json(findings: list[Finding]) -> str:
    """Return the findings as a JSON list of objects with the fields of ``Finding``."""
    return json.dumps([{**asdict(finding), "path": str(finding.path)} for finding in findings], indent=1)
