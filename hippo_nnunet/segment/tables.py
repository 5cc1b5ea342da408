"""Tables: volumes of all scans of an output folder, made from their records; and intracranial volumes, given."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

from hippo_nnunet.errors import DataError
from hippo_nnunet.files import write_text
from hippo_nnunet.outputs import check_target, first_line, writing
from hippo_nnunet.segment.outputs import DESCRIPTION, FORMAT

TABLE = "volumes.csv"
INTRACRANIAL = ("scan", "intracranial_mm3")
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
    """Write `volumes.csv` from the records of all scans in an output folder.

    Raises:
        DataError: It cannot be written.
    """
    records = []
    for path in sorted(output.rglob(f"[!.]*_{DESCRIPTION}_dseg.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
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
    path = output / TABLE
    with writing(path):
        return write_text(path, text.getvalue())


def read_intracranial(path: Path) -> dict[str, float]:
    """Read a CSV table with the columns of INTRACRANIAL.

    Raises:
        DataError: It cannot be read, lacks a column, or a volume is no positive number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV table ({error}): name another file") from error
    if not rows or not set(INTRACRANIAL) <= set(rows[0]):
        found = ", ".join(map(str, rows[0])) if rows else "nothing"
        raise DataError(f"{path}: has the columns {found}; expected {' and '.join(INTRACRANIAL)}, a row for each scan")
    volumes = {}
    for row in rows:
        try:
            volume = float(row["intracranial_mm3"] or "")
        except ValueError:
            volume = math.nan
        if not 0 < volume < math.inf:
            raise DataError(
                f"{path}: the intracranial volume of {row['scan']} is {row['intracranial_mm3']!r}: expected mm3, "
                "such as 1450000"
            )
        volumes[str(row["scan"])] = volume
    return volumes
