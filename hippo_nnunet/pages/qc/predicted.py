"""`predict --qc`: a record of each case as soon as it is predicted, and the page at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet.analysis.predicted_volumes import PredictedVolumes
from hippo_nnunet.data.cases import InputCase
from hippo_nnunet.data.nifti_file import open_image
from hippo_nnunet.evaluation.case_volumes import flags_in_words
from hippo_nnunet.evaluation.segmentation_shape import Segmentation
from hippo_nnunet.pages.planes import Turn, box_to_show
from hippo_nnunet.pages.qc.page import write_index
from hippo_nnunet.pages.qc.records import ScanRecord, Side, VolumeRow
from hippo_nnunet.pages.qc.scan_files import check_folder, write_scan


class PredictedPage:
    """Writes what a QC page shows of cases as they are predicted.

    Args:
        folder: The page's folder.
        volumes: Measures every case; its calibration gives intervals and flags.
        models: What predicts, for the page.
        overwrite: Replace records of the same cases.
    """

    def __init__(self, folder: Path, volumes: PredictedVolumes, models: Sequence[Path], overwrite: bool) -> None:
        self._folder, self._volumes, self._overwrite = folder, volumes, overwrite
        self._model = ", ".join(model.name for model in models)

    def check(self, cases: Sequence[InputCase]) -> None:
        """Refuse a folder with other content, or with records of these cases, before anything is predicted.

        Raises:
            DataError: Names what is in the way.
        """
        check_folder(self._folder, [case.case for case in cases], self._overwrite)

    def add(self, segmentation: Segmentation) -> None:
        """Write the record of a case whose segmentation is written.

        Raises:
            DataError: A file cannot be read or written.
        """
        judged = self._volumes.add(segmentation)
        assert segmentation.written is not None
        values = self._values()
        side = side_of_files(segmentation.images[0], segmentation.written, list(values))
        level = self._volumes.calibration.level
        record = ScanRecord(
            segmentation.case,
            tuple(values.values()),
            [side],
            [self._row(row, list(values)) for row in judged.to_dict("records")],
            flags_in_words(judged),
            float(judged["doubt"].iloc[0]) if len(judged) else math.nan,
            level=None if math.isnan(level) else level,
            details={
                "image": segmentation.images[0].name,
                "voxels": f"{' × '.join(f'{size:.3g}' for size in side.spacing_mm)} mm",
                "model": self._model,
            },
        )
        write_scan(self._folder, record)

    def fail(self, reasons: Mapping[str, str]) -> None:
        """Write records of cases that could not be predicted."""
        for case, reason in reasons.items():
            write_scan(self._folder, ScanRecord(case, flags=[reason], details={"model": self._model}))

    def write(self) -> Path:
        """Write the page from all records in the folder.

        Raises:
            DataError: See `write_index`.
        """
        return write_index(self._folder)

    def _values(self) -> dict[int, str]:
        """Return the values of a segmentation, and the name of each: a value that only regions have is called by it."""
        names: dict[int, str] = {}
        for name, label in self._volumes.calibration.labels.items():
            values = np.atleast_1d(np.asarray(label)).tolist()
            for value in values:
                names.setdefault(value, str(value))
            if len(values) == 1:
                names[values[0]] = name
        return dict(sorted(names.items()))

    def _row(self, row: Mapping[Any, Any], values: list[int]) -> VolumeRow:
        own = np.atleast_1d(np.asarray(self._volumes.calibration.labels[row["label"]])).tolist()
        low, high = (None if math.isnan(row[end]) else row[end] for end in ("low_mm3", "high_mm3"))
        position = values.index(own[0]) if len(own) == 1 else None
        return VolumeRow(row["label"], row["volume_mm3"], low, high, position)


def side_of_files(image: Path, written: Path, values: Sequence[int]) -> Side:
    """Read an image and its segmentation, which lie on one grid, along the body's axes as the header has them.

    Args:
        image: The image.
        written: The segmentation.
        values: Its values, in the order of the record's labels.
    """
    opened = open_image(image)
    header = opened.header
    turn = Turn(opened.affine)
    spacing_mm = turn.spacing(np.linalg.norm(opened.affine[:3, :3], axis=0).tolist())
    found = turn.array(np.asanyarray(open_image(written).dataobj))
    labels = np.zeros(found.shape, np.uint8)
    for position, value in enumerate(values):
        labels[found == value] = position + 1
    box = box_to_show(labels > 0, spacing_mm)
    shown = turn.array(np.asanyarray(opened.dataobj))[box]
    known = bool(header["sform_code"] or header["qform_code"])
    return Side(shown, labels[box], spacing_mm, letters=known)
