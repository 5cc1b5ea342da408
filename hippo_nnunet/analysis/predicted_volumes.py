"""`predict --volumes` and `--qc`: the volumes of new scans, as they are predicted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hippo_nnunet.analysis.volumes import Members, ensemble_volumes, measure_volumes
from hippo_nnunet.data.subjects import Subjects
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.case_volumes import judge
from hippo_nnunet.evaluation.labels import named_labels
from hippo_nnunet.evaluation.metrics import Label
from hippo_nnunet.evaluation.segmentation_shape import MEASURES, Segmentation, measure_labels
from hippo_nnunet.evaluation.volume_calibration import (
    LEVEL,
    VolumeCalibration,
    calibrate,
    subjects_needed,
    uncalibrated,
    with_total,
)
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.subjects import load_subjects
from hippo_nnunet.files import read_object, write_table
from hippo_nnunet.models.model_file import FOLDER_REMEDY, open_model
from hippo_nnunet.models.onnx_file import SUFFIX, open_onnx
from hippo_nnunet.models.packaged import PackagedModel
from hippo_nnunet.nnunet.paths import folder_problem
from hippo_nnunet.outputs import check_target, first_line, missing_parents, remove_empty

log = logging.getLogger(__name__)

NO_CALIBRATION = Path("none")
"""Value of `--calibration` for volumes without intervals."""
_COLUMNS = ("case", "label", "volume_mm3", "low_mm3", "high_mm3", "level", "calibration_cases", "flags")
"""First columns of the table."""


class PredictedVolumes:
    """Collects the volumes of cases as they are predicted, and writes them when all are.

    Args:
        target: The table to write; None: nothing is written.
        calibration: What intervals and flags come from.
    """

    def __init__(self, target: Path | None, calibration: VolumeCalibration) -> None:
        self._target = target
        self.calibration = calibration
        self._rows: list[dict[str, str | float]] = []
        self._image_flags: dict[str, Sequence[str]] = {}

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
        write_table(judged[[*_COLUMNS, *measures]].sort_values("case", kind="stable").round(4), self._target)
        flagged = judged.loc[judged["flags"] != "", "case"].nunique()
        log.info("%d of %d cases are flagged for a look", flagged, judged["case"].nunique())
        return self._target

    def _judged(self, rows: list[dict[str, str | float]]) -> pd.DataFrame:
        judged = judge(pd.DataFrame(rows, columns=["case", "label", *MEASURES]), self.calibration)
        of_images = judged["case"].map(lambda case: " ".join(self._image_flags[case]))
        judged["flags"] = (judged["flags"] + " " + of_images).str.strip()
        return judged


def prepare_packaged(
    target: Path | None, model: PackagedModel, level: float = LEVEL, overwrite: bool = False
) -> PredictedVolumes:
    """Take the calibration of the packaged model.

    Args:
        target: The table to write; None for none.
        model: The packaged model.
        level: Coverage of the intervals, 0 to 1.
        overwrite: Replace an earlier table of volumes.

    Raises:
        ConfigError: The level is invalid.
        DataError: The model does not hold a calibration, or the table exists or cannot be written.
    """
    if target is not None:
        _check_target(target, overwrite)
    calibration = model.calibration(level)
    _tell(calibration, "subjects")
    return PredictedVolumes(target, calibration)


def prepare_volumes(
    target: Path | None,
    models: Sequence[Path],
    experiment: Path | None,
    calibration: Path | None,
    level: float = LEVEL,
    root: Path | None = None,
    overwrite: bool = False,
) -> PredictedVolumes:
    """Calibrate, before anything is predicted.

    Args:
        target: The table to write; None: no table, and intervals only where a calibration is named.
        models: The model folders or model files that will predict together.
        experiment: Folder of the experiment whose ensemble they are: see `ensemble_models`. None: see `calibration`.
        calibration: Folder of the experiment that they were trained in, or NO_CALIBRATION: volumes without intervals.
        level: Coverage of the intervals, 0 to 1.
        root: nnU-Net's root folder, which wins over its variables; None: its variables, else `nnunet` in the folder.
        overwrite: Replace an earlier table of volumes.

    Raises:
        ConfigError: Both or neither of the two was named, the experiment has no such model, or the level is invalid.
        DataError: The out-of-fold predictions are missing or invalid, or the table exists or cannot be written.
    """
    if target is not None and experiment is None and calibration is None:
        raise ConfigError(
            "--volumes with --model: intervals need these models' out-of-fold predictions; name their experiment with "
            "--calibration EXPERIMENT, or give --calibration none for volumes without intervals"
        )
    if experiment is not None and calibration is not None:
        raise ConfigError("--calibration is for --model: the experiment calibrates the volumes of its own ensemble")
    if target is not None:
        _check_target(target, overwrite)
    labels = with_total(named_labels(_opened(models[0])[1])[0])
    if calibration == NO_CALIBRATION:
        log.warning("volumes without intervals, as asked: only missing labels and several pieces are flagged")
        return PredictedVolumes(target, uncalibrated(labels))
    folder = experiment or calibration
    if folder is None:
        log.info("the QC page has no intervals, as no --calibration is named")
        return PredictedVolumes(target, uncalibrated(labels))
    paths = ExperimentPaths(folder)
    asked = Experiment.load(paths.request)
    folders = paths.nnunet(root)
    if experiment is not None:
        measured = ensemble_volumes(asked, folders, folder)
    else:
        measured = measure_volumes(_members(models, asked, folder), asked, folders)
    subjects = load_subjects(folder, measured["case"])
    return PredictedVolumes(target, _calibrate(measured, labels, level, subjects))


def _members(models: Sequence[Path], experiment: Experiment, folder: Path) -> dict[int, Members]:
    trained = {experiment.model(v, c): set(folds) for c, folds in experiment.folds.items() for v in experiment.variants}
    names = tuple(_opened(model)[0] for model in models)
    for name in names:
        if name not in trained:
            raise ConfigError(
                f"{name} is no model of {folder}, so nothing calibrates its volumes; name one of "
                f"{', '.join(trained)}, or give --calibration none"
            )
    folds = sorted(set.intersection(*(trained[name] for name in names)))
    if not folds:
        raise ConfigError(f"{', '.join(names)} have no fold in common in {folder}: predict with one of them")
    return dict.fromkeys(folds, Members(names, "none"))


def _opened(model: Path) -> tuple[str, Mapping[str, Any]]:
    """Return what nnU-Net calls a model's folder, and the content of its dataset.json."""
    if model.is_file():
        shared = open_onnx(model) if model.suffix == SUFFIX else open_model(model)
        return shared.folder_name, shared.dataset_json
    return model.absolute().name, read_object(model / "dataset.json", FOLDER_REMEDY)


def _calibrate(
    measured: pd.DataFrame, labels: Mapping[str, Label], level: float, subjects: Subjects | None
) -> VolumeCalibration:
    calibration = calibrate(measured, labels, level, subjects)
    _tell(calibration, "cases" if subjects is None else "subjects")
    return calibration


def _tell(calibration: VolumeCalibration, unit: str) -> None:
    level = calibration.level
    known = min(of_label.subjects for of_label in calibration.by_label.values())
    if known < subjects_needed(level):
        log.warning(
            "%d out-of-fold %s cannot bound intervals of %.0f %%, that takes %d: they are left empty",
            *(known, unit, 100 * level, subjects_needed(level)),
        )
    else:
        log.info("intervals of %.0f %% for each label by itself, from %d out-of-fold %s", 100 * level, known, unit)


def _check_target(target: Path, overwrite: bool) -> None:
    header = ",".join(_COLUMNS)
    check_target(target, overwrite, "a table of volumes", lambda path: first_line(path).startswith(header))
    created = missing_parents(target)
    problem = folder_problem(target.parent)
    remove_empty(created)
    if problem:
        raise DataError(f"{target.parent}: cannot write there ({problem}): choose another folder")
