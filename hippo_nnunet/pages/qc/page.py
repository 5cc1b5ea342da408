"""The QC page: every scan of a folder in one self-contained file, rebuilt from the records on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hippo_nnunet.files import write_text
from hippo_nnunet.pages.palette import LABEL_COLOURS
from hippo_nnunet.pages.qc.montage import outline_colour
from hippo_nnunet.pages.qc.scan_files import StoredScan, check_folder, read_scans
from hippo_nnunet.pages.templating import PAGE, read_template, render_template


def write_index(folder: Path) -> Path:
    """Write `index.html` from all records found in the folder, atomically.

    Its heading is the folder's name, or that of the one above if it is called qc.

    Args:
        folder: Has the scans of `write_scan`; those of earlier runs are shown as well.

    Returns:
        The page.

    Raises:
        DataError: Another page is in the way, or a record is damaged.
    """
    check_folder(folder)
    place = folder.resolve()
    page = render(read_scans(folder), (place.parent if place.name.lower() == "qc" else place).name)
    return write_text(folder / PAGE, page)


def render(scans: Sequence[StoredScan], title: str) -> str:
    """Return the page.

    Args:
        scans: In the order of the page.
        title: Its heading.
    """
    return render_template(
        "qc",
        "qc.html",
        {"number": _number, "colour": outline_colour, "interval": _interval},
        scans=scans,
        title=title,
        label_colours=LABEL_COLOURS,
        style=read_template("qc", "qc.css"),
        script=read_template("qc", "qc.js"),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _interval(low: float | None, high: float | None) -> str:
    """Write an interval, an end that is not known as an open one; empty if neither is known."""
    if low is None and high is None:
        return ""
    if low is None or high is None:
        return f"at least {_number(low)}" if low is not None else f"at most {_number(high or 0.0)}"
    return f"{_number(low)} to {_number(high)}"
