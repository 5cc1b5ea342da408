"""What `compare` prints: the verdict first, then one narrow table; everything else on demand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from hippo_nnunet.analysis.curve_tables import curve_table, equal_cases_table
from hippo_nnunet.analysis.tables import (
    ShownTable,
    comparison_table,
    ranks_table,
    results_table,
    retrained,
    summary_table,
)
from hippo_nnunet.analysis.verdicts import NOT_JUDGED, WARNINGS, headline, verdict_sentence
from hippo_nnunet.analysis.volume_tables import coverage_table, flags_table, parts_table, volumes_table
from hippo_nnunet.analysis.volumes import VolumeChecks
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.evaluation.comparison import Comparison
from hippo_nnunet.evaluation.notes import NoteKind
from hippo_nnunet.evaluation.pairing import SUBSETS

_NOTES_IN_SHORT = (
    *(NoteKind.BROKEN_SUBJECTS, NoteKind.LEFT_OUT, NoteKind.SCORED_EMPTY, NoteKind.FEW_CASES, NoteKind.PRECISION),
    *(NoteKind.PUBLISHED, NoteKind.ONE_MODEL, NoteKind.ONE_SEED, NoteKind.SUBSETS),
)
"""Notes that belong to the verdict; the others explain columns that only the full output has."""


def short_parts(comparison: Comparison, gain: str = "") -> Iterator[Table | str]:
    """Yield the default output: headline, warnings, a sentence for each comparison, the narrow tables, notes.

    Args:
        comparison: Of `compare_experiment`.
        gain: Of `ensemble_gain`.
    """
    yield from _verdict(comparison, gain)
    for table in (summary_table(comparison), curve_table(comparison), equal_cases_table(comparison)):
        if table is not None:
            yield _table(table, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    yield from (f"note: {note}" for note in comparison.notes if note.kind in _NOTES_IN_SHORT)


def full_parts(comparison: Comparison, gain: str = "") -> Iterator[Table | str]:
    """Yield everything: also every metric, effect sizes and p-values, ranks, volumes and all notes."""
    yield from _verdict(comparison, gain)
    yield _table(results_table(comparison, mm_form=".4f"))
    further = (comparison_table(comparison, mm_form=".4f"), curve_table(comparison), equal_cases_table(comparison))
    yield from (_table(table) for table in further if table is not None)
    if not comparison.ranks.empty:
        yield _table(ranks_table(comparison.ranks))
    if not comparison.volumes.empty:
        yield _table(volumes_table(comparison.volumes))
    yield from (f"note: {note}" for note in comparison.notes if note.kind not in WARNINGS)


def check_parts(checks: VolumeChecks) -> Iterator[Table | str]:
    """Yield what `compare --volumes` adds: agreement, coverage of intervals, worth of flags, notes."""
    for table in (volumes_table(checks.agreement), coverage_table(checks), parts_table(checks), flags_table(checks)):
        yield _table(table)
    yield from (f"note: {note}" for note in checks.notes)


def _verdict(comparison: Comparison, gain: str) -> Iterator[str]:
    yield headline(comparison.pairs)
    yield from (f"warning: {note}" for note in comparison.notes if note.kind in WARNINGS)
    for row in comparison.pairs.to_dict("records"):
        if row["scope"] == MEAN and row["kind"] not in SUBSETS:  # they have a table
            again = retrained(row)
            differs = row["verdict"] != NOT_JUDGED and again not in ("not known", row["verdict"])
            yield f"- {verdict_sentence(row)}" + (f" If trained again: {again}." if differs else "")
    if gain:
        yield f"- {gain}"


def _table(table: ShownTable, **style: Any) -> Table:
    shown = Table(title=table.caption, title_justify="left", **style)
    for position, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if position < table.words else "right", overflow="fold")
    for position, row in enumerate(table.rows, start=1):
        shown.add_row(*row, end_section=position in table.starts)
    return shown
