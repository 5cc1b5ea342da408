"""`predict --volumes` and `--qc`: the volumes of new scans, as they are predicted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.case_volumes import judge
from hippo_nnunet.evaluation.segmentation_shape import MEASURES, Segmentation, measure_labels
from hippo_nnunet.evaluation.volume_calibration import LEVEL, VolumeCalibration, subjects_needed
from hippo_nnunet.files import read_csv, write_table
from hippo_nnunet.models.packaged import PackagedModel
from hippo_nnunet.nnunet.paths import folder_problem
from hippo_nnunet.outputs import check_target, first_line, missing_parents, remove_empty

log = logging.getLogger(__name__)

_COLUMNS = ("case", "label", "volume_mm3", "low_mm3", "high_mm3", "level", "calibration_cases", "flags")
"""First columns of the table."""


class PredictedVolumes:
    """Collects the volumes of cases as they are predicted, and writes them when all are.

    Args:
        target: The table to write; None: nothing is written.
        calibration: What intervals and flags come from.
        extend: Keep the rows of other cases in an earlier table.
    """

    def __init__(self, target: Path | None, calibration: VolumeCalibration, extend: bool = False) -> None:
        self._target = target
        self._extend = extend
        self.calibration = calibration
        self._rows: list[dict[str, str | float]] = []
        self._image_flags: dict[str, Sequence[str]] = {}

    @property
    def cases(self) -> list[str]:
        """The cases that were measured."""
        return list(self._image_flags)

    def add(self, segmentation: Segmentation) -> pd.DataFrame:
        """Measure one case.

        Returns:
            Its rows of `judge`.

        Raises:
            DataError: See `measure_labels`.
        """
        rows = measure_labels(segmentation, self.calibration.labels)
        self._rows += rows
        self._image_flags[segmentation.case] = segmentation.image_flags
        return self._judged(rows)

    def write(self) -> Path | None:
        """Write the table atomically; its columns are described in docs/volumetry.md.

        Raises:
            DataError: It cannot be written.
        """
        if self._target is None:
            return None
        judged = self._judged(self._rows)
        measures = [name for name in MEASURES if name not in _COLUMNS]
        table = judged[[*_COLUMNS, *measures]].round(4)
        if self._extend and self._target.is_file():
            earlier = read_csv(self._target)
            table = pd.concat([earlier[~earlier["case"].isin(table["case"])], table])[table.columns]
        write_table(table.sort_values("case", kind="stable"), self._target)
        flagged = judged.loc[judged["flags"] != "", "case"].nunique()
        log.info("%d of %d cases are flagged for a look", flagged, judged["case"].nunique())
        return self._target

    def _judged(self, rows: list[dict[str, str | float]]) -> pd.DataFrame:
        judged = judge(pd.DataFrame(rows, columns=["case", "label", *MEASURES]), self.calibration)
        of_images = judged["case"].map(lambda case: " ".join(self._image_flags[case]))
        judged["flags"] = (judged["flags"] + " " + of_images).str.strip()
        return judged


def prepare_packaged(
    target: Path | None, model: PackagedModel, level: float = LEVEL, overwrite: bool = False, extend: bool = False
) -> PredictedVolumes:
    """Take the calibration of the packaged model.

    Args:
        target: The table to write; None for none.
        model: The packaged model.
        level: Coverage of the intervals, 0 to 1.
        overwrite: Replace an earlier table of volumes.
        extend: Keep the rows of other cases in an earlier table.

    Raises:
        ConfigError: The level is invalid.
        DataError: The model does not hold a calibration, or the table exists or cannot be written.
    """
    if target is not None:
        check_table(target, overwrite or extend)
    calibration = model.calibration(level)
    tell_of(calibration, "subjects")
    return PredictedVolumes(target, calibration, extend)


def tell_of(calibration: VolumeCalibration, unit: str) -> None:
    """Log how many subjects or cases the intervals come from, or that these are too few."""
    level = calibration.level
    known = min(of_label.subjects for of_label in calibration.by_label.values())
    if known < subjects_needed(level):
        log.warning(
            "%d out-of-fold %s cannot bound intervals of %.0f %%, that takes %d: they are left empty",
            *(known, unit, 100 * level, subjects_needed(level)),
        )
    else:
        log.info("intervals of %.0f %% for each label by itself, from %d out-of-fold %s", 100 * level, known, unit)


def check_table(target: Path, overwrite: bool) -> None:
    """Refuse a target that is no earlier table of volumes, or where none can be written: DataError."""
    header = ",".join(_COLUMNS)
    check_target(target, overwrite, "a table of volumes", lambda path: first_line(path).startswith(header))
    created = missing_parents(target)
    problem = folder_problem(target.parent)
    remove_empty(created)
    if problem:
        raise DataError(f"{target.parent}: cannot write there ({problem}): choose another folder")
