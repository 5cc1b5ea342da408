"""Tables: volumes of all scans of an output folder, made from their records; and intracranial volumes, given."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from hippo_nnunet.errors import DataError
from hippo_nnunet.files import write_text
from hippo_nnunet.outputs import check_target, first_line, writing
from hippo_nnunet.segment.outputs import DESCRIPTION, FORMAT

TABLE = "volumes.csv"
INTRACRANIAL = ("scan", "intracranial_mm3")
INTRACRANIAL_MM3 = (300_000.0, 3_000_000.0)
"""Intracranial volumes outside of which the unit is another one, such as cm3."""
COLUMNS = (
    "scan",
    "side",
    "label",
    "volume_mm3",
    "low_mm3",
    "high_mm3",
    "level",
    "calibration_cases",
    "flags",
    "mask_mm3",
    "asymmetry_percent",
    "intracranial_mm3",
    "intracranial_percent",
    "components",
    "elongation",
    "border",
    "doubt",
)


def check_table(output: Path) -> None:
    """Refuse to replace a table that is not one of ours.

    Raises:
        DataError: Names it.
    """
    check_target(output / TABLE, True, "a table of segment", lambda path: first_line(path) == ",".join(COLUMNS))


def write_table(output: Path) -> Path:
    """Write `volumes.csv` from the records of all scans in an output folder, those of other processes included.

    Raises:
        DataError: It cannot be written.
    """
    path, written = output / TABLE, None
    while written != (files := sorted(output.rglob(f"[!.]*_{DESCRIPTION}_dseg.json"))):
        _write(path, files)  # again, if another process has added a record meanwhile
        written = files
    return path


def _write(path: Path, files: Sequence[Path]) -> None:
    records = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # the next start makes the scan again, and says so
        if isinstance(content, dict) and content.get("format") == FORMAT:
            records.append(content)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for record in sorted(records, key=lambda one: str(one["scan"])):
        for row in record["volumes"]:
            cells = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
            writer.writerow(cells)
    with writing(path):
        write_text(path, text.getvalue())


def read_intracranial(path: Path) -> dict[str, float]:
    """Read a CSV table with the columns of INTRACRANIAL.

    Raises:
        DataError: It cannot be read, lacks a column, names a scan twice, or a volume is not within INTRACRANIAL_MM3.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV table ({error}): name another file") from error
    if not rows or not set(INTRACRANIAL) <= set(rows[0]):
        found = ", ".join(map(str, rows[0])) if rows else "nothing"
        raise DataError(f"{path}: has the columns {found}; expected {' and '.join(INTRACRANIAL)}, a row for each scan")
    volumes: dict[str, float] = {}
    for row in rows:
        name = str(row["scan"]).strip()
        if name in volumes:
            raise DataError(f"{path}: names {name} twice: remove one of the rows")
        try:
            volume = float(row["intracranial_mm3"] or "")
        except ValueError:
            volume = math.nan
        if not INTRACRANIAL_MM3[0] <= volume <= INTRACRANIAL_MM3[1]:
            got = row["intracranial_mm3"]
            raise DataError(f"{path}: the intracranial volume of {name} is {got!r}: expected mm3, such as 1450000")
        volumes[name] = volume
    return volumes
