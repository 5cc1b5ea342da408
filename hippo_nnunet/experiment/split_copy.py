"""The experiment's copy of its split, which cannot be recomputed if the user provided it."""

from __future__ import annotations

import json
from pathlib import Path

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_json, write_text
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.splits import read_splits, splits_file


def restore_split(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Restore nnU-Net's splits_final.json from the copy where it is missing."""
    copy, target = ExperimentPaths(folder).split, splits_file(experiment.dataset, folders)
    if copy.is_file() and not target.exists():
        write_text(target, copy.read_text())


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
