"""The experiment's copies of its split and subjects, which cannot be recomputed if the user provided them."""

from __future__ import annotations

import json
from pathlib import Path

from hippo_nnunet.data.subjects import TABLE, write_subjects
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.subjects import split_subjects
from hippo_nnunet.files import read_json, write_text
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.splits import read_splits, splits_file


def restore_split(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Restore nnU-Net's splits_final.json, and the table of subjects beside it, from the copies where missing."""
    copy, target = ExperimentPaths(folder).split, splits_file(experiment.dataset, folders)
    if copy.is_file() and not target.exists():
        write_text(target, copy.read_text())
    subjects, table = split_subjects(experiment, folders, folder), target.with_name(TABLE)
    if subjects and not table.exists():
        write_subjects(subjects, table)


def save_split(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Copy the split that nnU-Net uses, unless the experiment has a copy already."""
    copy, splits = ExperimentPaths(folder).split, read_splits(experiment.dataset, folders)
    if splits is not None and not copy.is_file():
        write_text(copy, json.dumps(splits, indent=4))


def check_split(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Refuse a split that is not the one that the experiment began with.

    Raises:
        ConfigError: It is another one.
        DataError: It, or the copy, cannot be read.
    """
    copy, splits = ExperimentPaths(folder).split, read_splits(experiment.dataset, folders)
    if splits is None or not copy.is_file() or read_json(copy) == splits:
        return
    raise ConfigError(
        f"{splits_file(experiment.dataset, folders)} is not the split that this experiment began with: delete it and "
        "run again, which restores the experiment's own; or take another folder for the new split"
    )
