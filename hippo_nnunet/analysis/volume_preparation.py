"""`predict --volumes` and `--qc` with models of this machine: their calibration, before anything is predicted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hippo_nnunet.analysis.predicted_volumes import PredictedVolumes, check_table, tell_of
from hippo_nnunet.analysis.volumes import Members, ensemble_volumes, measure_volumes
from hippo_nnunet.data.subjects import Subjects
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.evaluation.labels import named_labels
from hippo_nnunet.evaluation.metrics import Label
from hippo_nnunet.evaluation.volume_calibration import LEVEL, VolumeCalibration, calibrate, uncalibrated, with_total
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.subjects import load_subjects
from hippo_nnunet.files import read_object
from hippo_nnunet.models.model_file import FOLDER_REMEDY, open_model
from hippo_nnunet.models.onnx_file import SUFFIX, open_onnx

log = logging.getLogger(__name__)

NO_CALIBRATION = Path("none")
"""Value of `--calibration` for volumes without intervals."""


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
        root: See `ExperimentPaths.nnunet`.
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
        check_table(target, overwrite)
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
    trained = {
        experiment.model(cell.variant, cell.configuration): set(experiment.folds[cell.configuration])
        for cell in experiment.cells()
    }
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
    tell_of(calibration, "cases" if subjects is None else "subjects")
    return calibration
