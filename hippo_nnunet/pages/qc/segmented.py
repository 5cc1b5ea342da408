"""The QC page of `segment`: a record of each scan as soon as it is segmented, and the page at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from hippo_nnunet.data.description import TOTAL
from hippo_nnunet.pages.qc.page import write_index
from hippo_nnunet.pages.qc.predicted import side_of_files
from hippo_nnunet.pages.qc.records import Registration, ScanRecord, Side, VolumeRow
from hippo_nnunet.pages.qc.scan_files import check_folder, read_scans, write_scan
from hippo_nnunet.segment.boxes import RIGHT
from hippo_nnunet.segment.head import SegmentedHead
from hippo_nnunet.segment.inputs import Input
from hippo_nnunet.segment.outputs import ScanFiles
from hippo_nnunet.segment.run import SegmentedScan
from hippo_nnunet.segment.template import BRAIN, load_template

_EDGE_MM = 2.0
_AROUND = 12
"""Voxels of the head shown around the template's brain."""


class SegmentedPage:
    """Writes what the page shows of scans as they are segmented.

    Args:
        folder: The page's folder; records of earlier runs stay.
        model: Name of the model, for the page.

    Raises:
        DataError: Something else is in the folder's place, or it cannot be written.
    """

    def __init__(self, folder: Path, model: str) -> None:
        check_folder(folder)
        self._folder, self._model = folder, model

    def add(self, one: SegmentedScan) -> None:
        """Write the record of a scan.

        Raises:
            DataError: It cannot be written.
        """
        head = one.result if isinstance(one.result, SegmentedHead) else None
        files = ScanFiles(self._folder.parent, one.source)
        sides = head_sides(head) if head else [side_of_files(one.source.path, files.labels, _values(one))]
        levels = [row["level"] for row in one.rows if not math.isnan(row.get("level", math.nan))]
        record = ScanRecord(
            one.source.name,
            one.parts,
            sides,
            [_row(row, one.parts) for row in one.rows],
            one.flags,
            one.doubt,
            registration_check(head) if head and head.registration is not None else None,
            levels[0] if levels else None,
            details=self._details(one, head),
        )
        write_scan(self._folder, record)

    def fail(self, reasons: Mapping[str, str], scans: Sequence[Input]) -> None:
        """Write records of scans that could not be segmented; one that has an earlier result keeps its own.

        Args:
            reasons: By name.
            scans: All scans.

        Raises:
            DataError: One cannot be written.
        """
        for scan in scans:
            if scan.name in reasons and not ScanFiles(self._folder.parent, scan).record.exists():
                record = ScanRecord(scan.name, flags=[reasons[scan.name]], details={"model": self._model})
                write_scan(self._folder, record)

    def missing(self, scans: Sequence[Input]) -> list[str]:
        """Return the names of the scans that the page does not have: those that were segmented without it before.

        Raises:
            DataError: See `read_scans`.
        """
        shown = {scan.name for scan in read_scans(self._folder)}
        return [scan.name for scan in scans if scan.name not in shown]

    def write(self) -> Path:
        """Write the page from all records in the folder.

        Raises:
            DataError: See `write_index`.
        """
        return write_index(self._folder)

    def _details(self, one: SegmentedScan, head: SegmentedHead | None) -> dict[str, str]:
        details = {"image": one.source.path.name, "model": self._model}
        if head:
            details["voxels"] = f"{' × '.join(f'{edge:.3g}' for edge in head.scan.spacing_mm)} mm"
            if head.registration is not None:
                details["similarity with the template"] = f"{head.registration.similarity:.2f}"
        return details


def head_sides(head: SegmentedHead) -> list[Side]:
    """Return the boxes of a head, along its own axes, each with left on the left."""
    made = []
    for side, one in head.sides.items():
        step = -1 if side == RIGHT else 1  # the right one is mirrored
        made.append(Side(one.image[::step], one.labels[::step], (1.0, 1.0, 1.0), side))
    return made


def registration_check(head: SegmentedHead) -> Registration:
    """Return the head on the template's grid, and the template's brain.

    Args:
        head: One with a registration.
    """
    assert head.registration is not None
    template = load_template()
    brain = np.pad(template.image >= BRAIN, _AROUND)
    affine = template.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, _AROUND)
    to_index = np.linalg.inv(head.scan.to_frame) @ head.registration.matrix @ affine
    moved = ndimage.affine_transform(head.scan.image, to_index[:3, :3], to_index[:3, 3], brain.shape, order=1)
    return Registration(moved, ndimage.binary_closing(brain), (_EDGE_MM,) * 3)


def _values(one: SegmentedScan) -> list[int]:
    return [*range(1, len(one.parts) + 1)]


def _row(row: Mapping[str, Any], parts: tuple[str, ...]) -> VolumeRow:
    low, high = (
        None if row.get(end) is None or math.isnan(row[end]) else float(row[end]) for end in ("low_mm3", "high_mm3")
    )
    label = str(row["label"])
    name = f"{row['side']} {label}".strip()
    return VolumeRow(name, float(row["volume_mm3"]), low, high, parts.index(label) if label != TOTAL else None)
