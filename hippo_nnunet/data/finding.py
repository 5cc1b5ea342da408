"""What a check of a dataset can find: one record for each problem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hippo_nnunet.errors import DataError


@dataclass(frozen=True)
class Finding:
    """One problem of one file or dataset.

    Args:
        path: the file or folder that has the problem.
        case: the case id, or None where the problem belongs to the whole dataset.
        problem: short code that scripts may rely on, such as ``label-values``.
        message: what was found and what was expected, without the path.
        remedy: what to do about it.
        severity: ``error`` stops a conversion; ``warning`` is for the user to judge.
    """

    path: Path
    case: str | None
    problem: str
    message: str
    remedy: str
    severity: Literal["error", "warning"] = "error"

    def describe(self, base: Path | None = None) -> str:
        """Say it in one line, with the path relative to ``base`` where that is given and holds it."""
        inside = base is not None and self.path.is_relative_to(base)
        path = self.path.relative_to(base) if base is not None and inside else self.path
        return f"{path}: {self.message}; {self.remedy}"


class FoundProblem(DataError):  # noqa: N818 - it carries a finding, and reads as what it is
    """A problem that makes it impossible to read on.

    Args:
        finding: the problem; its description is the error message.
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.describe())
        self.finding = finding
