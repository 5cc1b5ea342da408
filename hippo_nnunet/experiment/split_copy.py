"""The experiment's own copy of its split: what nobody could compute again, if it was the user's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import DONE
from hippo_nnunet.files import read_json
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import read_splits

KEPT = DONE / "splits_final.json"
"""The copy, relative to the experiment's folder."""


def restore_split(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Put the copy in the place of nnU-Net's splits_final.json where that is gone."""
    target = _used(experiment, folders)
    if (folder / KEPT).is_file() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _write((folder / KEPT).read_text(), target)


def keep_split(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Copy the split that nnU-Net uses, where the experiment has no copy yet."""
    splits = read_splits(experiment.dataset, folders)
    if splits is not None and not (folder / KEPT).is_file():
        _write(json.dumps(splits, indent=4), folder / KEPT)


def check_split(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Refuse a split that is not the one that the experiment began with.

    Raises:
        ConfigError: It is another one.
        DataError: It, or the copy, cannot be read.
    """
    splits = read_splits(experiment.dataset, folders)
    if splits is None or not (folder / KEPT).is_file() or read_json(folder / KEPT) == splits:
        return
    raise ConfigError(
        f"{_used(experiment, folders)} is not the split that this experiment began with: delete it, then run again: "
        "the experiment's own takes its place; or take another folder for the new split"
    )


def _used(experiment: Experiment, folders: NnunetFolders) -> Path:
    return folders.preprocessed / experiment.dataset / "splits_final.json"


def _write(text: str, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
