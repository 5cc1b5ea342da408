"""The tables of volumes that `compare` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.table import Table

from hippo_nnunet.analysis.volumes import VolumeChecks


def volumetry_table(agreement: pd.DataFrame) -> Table:
    """Build a table of the agreement of volumes: see `agreement_table`."""
    table = Table(title="volumes out of fold: predicted minus reference, mm3 (95 % intervals)")
    for column in ("variant", "configuration", "label"):
        table.add_column(column)
    for column in ("cases", "bias", "SD", "limits of agreement", "ICC(A,1)"):
        table.add_column(column, justify="right")
    before = None
    for row in agreement.to_dict("records"):
        model = (str(row["variant"]), str(row["configuration"]))
        if before not in (None, model):
            table.add_section()
        table.add_row(
            *(model if model != before else ("", "")),
            str(row["label"]),
            str(row["n"]),
            f"{_number(row['bias_mm3'], '+.0f')} {_span(row, 'bias', '+.0f', '_mm3')}",
            _number(row["sd_mm3"], ".0f"),
            f"{_number(row['lower_mm3'], '+.0f')} to {_number(row['upper_mm3'], '+.0f')}",
            f"{_number(row['icc'], '.3f')} {_span(row, 'icc', '.3f')}",
        )
        before = model
    return table


def check_parts(checks: VolumeChecks) -> Iterator[Table | str]:
    """Yield what `compare --volumes` prints: agreement, coverage of intervals, worth of flags, notes."""
    yield volumetry_table(checks.agreement)
    yield _coverage(checks)
    yield _flags(checks)
    yield from (f"note: {note}" for note in checks.notes)


def _coverage(checks: VolumeChecks) -> Table:
    table = Table(title=f"intervals of {checks.level:.0%}, each fold calibrated on the others")
    table.add_column("label")
    for column in ("cases", "reference inside", "mean width mm3", "of the volume"):
        table.add_column(column, justify="right")
    for row in checks.coverage.to_dict("records"):
        table.add_row(
            str(row["label"]),
            str(row["n"]),
            f"{_number(row['coverage'], '.1%')} {_span(row, 'coverage', '.1%')}",
            _number(row["width_mm3"], ".0f"),
            _number(row["width_share"], ".0%"),
        )
    return table


def _flags(checks: VolumeChecks) -> Table:
    first = checks.flags.iloc[0]
    table = Table(title=f"flags and the {first['n']} worst of {checks.cases} cases by Dice ({first['worst']:.0%})")
    table.add_column("flag")
    for column in ("worst cases flagged", "cases flagged, and by chance", "flagged among the worst", "p, by chance"):
        table.add_column(column, justify="right")
    for row in checks.flags.to_dict("records"):
        table.add_row(
            str(row["flag"]),
            f"{_number(row['hit_rate'], '.0%')} {_span(row, 'hit_rate', '.0%')}",
            _number(row["flagged"], ".1%"),
            f"{_number(row['precision'], '.0%')} {_span(row, 'precision', '.0%')}",
            _number(row["p"], ".2g"),
        )
    return table


def _span(row: dict[Any, Any], name: str, form: str, unit: str = "") -> str:
    low, high = row[f"{name}_low{unit}"], row[f"{name}_high{unit}"]
    return "" if pd.isna(low) or pd.isna(high) else f"({format(low, form)} to {format(high, form)})"


def _number(value: Any, form: str) -> str:
    return "-" if value is None or pd.isna(value) else format(value, form)
