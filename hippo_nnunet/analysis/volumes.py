"""An experiment's out-of-fold volumes: measured, saved, and used to test intervals and flags."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.case_volumes import coverage_by_part, coverage_table, cross_validated, hit_rates
from hippo_nnunet.evaluation.out_of_fold_volumes import COLUMNS, OutOfFoldVolumes
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.evaluation.probabilities import out_of_fold_files
from hippo_nnunet.evaluation.selection import EnsembleChoice
from hippo_nnunet.evaluation.volume_calibration import LEVEL, subjects_needed
from hippo_nnunet.evaluation.volumetry import agreement_table
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.subjects import load_subjects
from hippo_nnunet.files import read_json, read_table, write_table
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.progress import tracked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Members:
    """The models that predict a fold's cases together.

    Attributes:
        models: Names of nnU-Net's folders, in the order in which they are averaged.
        postprocessing: One of POSTPROCESSINGS.
    """

    models: tuple[str, ...]
    postprocessing: str


@dataclass(frozen=True)
class VolumeChecks:
    """How the ensemble's volumes perform on cases that it has not seen.

    Attributes:
        level: Coverage that the intervals were made for.
        cases: Out-of-fold cases.
        agreement: See `agreement_table`; the total is a label too.
        coverage: See `coverage_table`.
        parts: See `coverage_by_part`.
        flags: See `hit_rates`.
        notes: What could not be checked.
    """

    level: float
    cases: int
    agreement: pd.DataFrame
    coverage: pd.DataFrame
    parts: pd.DataFrame
    flags: pd.DataFrame
    notes: tuple[str, ...]


def check_volumes(folder: Path, level: float = LEVEL, root: Path | None = None) -> VolumeChecks:
    """Calibrate intervals and flags on all folds but one, and test them on that one, for each fold.

    Volumes that have to be measured first are saved in `ensemble/volumes.csv`.

    Args:
        folder: The experiment's folder.
        level: Coverage of the intervals, 0 to 1.
        root: nnU-Net's root folder: see `ExperimentPaths.nnunet`.

    Raises:
        ConfigError: No experiment there, it has no ensemble, or the level is invalid.
        DataError: Its metrics or its out-of-fold predictions are missing or invalid.
    """
    paths = ExperimentPaths(folder)
    experiment = Experiment.load(paths.request)
    measured = _saved_volumes(folder)
    if measured is None:
        measured = save_volumes(experiment, paths.nnunet(root), folder)
    per_case = _ensemble_rows(folder)
    subjects = load_subjects(folder, measured["case"])
    judged = cross_validated(measured, dict.fromkeys(measured["label"], 0), level, subjects)
    dice = per_case.groupby("case")["dice"].mean().dropna()
    notes = []
    if judged["covered"].isna().all():
        unit = "cases" if subjects is None else "subjects"
        notes.append(
            f"{measured['case'].nunique()} cases in {measured['fold'].nunique()} folds: calibrating on the others "
            f"takes {subjects_needed(level)} {unit} for intervals of {level:.0%}."
        )
    unknown = measured["volume_ref_mm3"].isna()
    if unknown.any():
        cases = measured.loc[unknown, "case"].nunique()
        notes.append(f"{cases} cases have voxels of the ignore label: their volumes are not known.")
    named = measured[~unknown].assign(variant=ENSEMBLE, configuration=per_case["configuration"].iloc[0])
    return VolumeChecks(
        level,
        int(measured["case"].nunique()),
        agreement_table(named, subjects=subjects),
        coverage_table(judged, subjects),
        coverage_by_part(judged, subjects),
        hit_rates(judged[judged["case"].isin(dice.index)], dice, subjects=subjects),
        tuple(notes),
    )


def ensemble_volumes(experiment: Experiment, folders: NnunetFolders, folder: Path) -> pd.DataFrame:
    """Return the ensemble's out-of-fold volumes: the saved ones if they are of this ensemble, else measured.

    Args:
        experiment: The request.
        folders: nnU-Net's folders, which need not exist where the volumes are saved.
        folder: The experiment's folder.

    Returns:
        A row for each case and label, and the total: COLUMNS.

    Raises:
        ConfigError: There is no ensemble.
        DataError: Metrics, choice or out-of-fold predictions are missing or invalid.
    """
    saved = _saved_volumes(folder)
    return measure_volumes(_members_by_fold(folder), experiment, folders) if saved is None else saved


def save_volumes(experiment: Experiment, folders: NnunetFolders, folder: Path) -> pd.DataFrame:
    """Measure the ensemble's out-of-fold volumes, replace `ensemble/volumes.csv` atomically, and return them.

    Raises:
        ConfigError: There is no ensemble.
        DataError: See `ensemble_volumes`; or the file cannot be written.
    """
    measured = measure_volumes(_members_by_fold(folder), experiment, folders)
    write_table(measured.round(6), ExperimentPaths(folder).volumes)
    return measured


def measure_volumes(by_fold: Mapping[int, Members], experiment: Experiment, folders: NnunetFolders) -> pd.DataFrame:
    """Measure out-of-fold predictions from the probabilities that validation has left.

    Returns:
        See `ensemble_volumes`.

    Raises:
        DataError: A model lacks a fold or a case, or a file cannot be read.
    """
    preprocessed = folders.preprocessed / experiment.dataset
    measuring = OutOfFoldVolumes(preprocessed / "gt_segmentations", read_json(preprocessed / "dataset.json"))
    jobs = []
    for fold, members in by_fold.items():
        of_models = {m: out_of_fold_files(folders.results / experiment.dataset / m, [fold])[0] for m in members.models}
        for case in sorted(set().union(*of_models.values())):
            lacking = [model for model, files in of_models.items() if case not in files]
            if lacking:
                raise DataError(f"{lacking[0]}: no probabilities of case {case} in fold {fold}: validate it again")
            jobs.append((case, fold, [files[case] for files in of_models.values()], members.postprocessing))
    if not jobs:
        raise DataError(f"{folders.results / experiment.dataset}: no out-of-fold probabilities: train with --npz")
    shown = tracked(jobs, "measuring out-of-fold volumes")
    return pd.concat([measuring.measure(*job) for job in shown], ignore_index=True)


def _members_by_fold(folder: Path) -> dict[int, Members]:
    path = ExperimentPaths(folder).choice
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing: volumes are calibrated on the ensemble's out-of-fold predictions, and this experiment "
            "has none; train all folds of a configuration"
        )
    choice = EnsembleChoice.from_json(path)
    return {entry.fold: Members(entry.members, entry.postprocessing) for entry in choice.per_fold}


def _saved_volumes(folder: Path) -> pd.DataFrame | None:
    """Read `ensemble/volumes.csv`; None if it is missing, or not of the ensemble in the table of metrics."""
    paths = ExperimentPaths(folder)
    saved = read_table(paths.volumes, COLUMNS)
    if saved is None:
        return None
    evaluated = _ensemble_rows(folder)[["case", "fold", "label", "volume_mm3"]]
    both = evaluated.merge(saved, on=["case", "fold", "label"], how="left", suffixes=("", "_saved"))
    if np.allclose(both["volume_mm3"], both["volume_mm3_saved"], rtol=1e-5, atol=1e-5):
        return saved
    log.warning("%s is not of the ensemble in %s: measuring again", paths.volumes, paths.per_case)
    return None


def _ensemble_rows(folder: Path) -> pd.DataFrame:
    path = ExperimentPaths(folder).per_case
    per_case = read_per_case(path)
    rows = per_case[per_case["variant"] == ENSEMBLE]
    if rows.empty:
        raise ConfigError(f"{path} holds no ensemble: train all folds of a configuration")
    return rows
