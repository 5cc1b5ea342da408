"""Small files of nnU-Net's that an experiment needs and that have a source: put back before anything is computed."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import DONE
from hippo_nnunet.experiment.split_copy import restore_split
from hippo_nnunet.experiment.stale import validation_cases
from hippo_nnunet.nnunet.partial import restore_description
from hippo_nnunet.nnunet.paths import NnunetFolders

log = logging.getLogger(__name__)


def put_back(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Put back what is gone of split, dataset.json and reference segmentations of an experiment that was planned.

    Args:
        experiment: What was asked.
        folders: nnU-Net's folders; what the raw one lacks stays missing.
        folder: The experiment's folder, which holds the split.

    Raises:
        DataError: The split cannot be read.
        OSError: A file cannot be written.
    """
    if not (folder / DONE / "plan").exists():
        return
    restore_split(experiment, folders, folder)
    raw, preprocessed = folders.raw / experiment.dataset, folders.preprocessed / experiment.dataset
    if preprocessed.is_dir() and (raw / "dataset.json").is_file():
        restore_description(experiment.dataset, folders)
    references = preprocessed / "gt_segmentations"
    for case in sorted(validation_cases(experiment, folders)):
        if any(references.glob(f"{case}.*")):
            continue
        for label in (raw / "labelsTr").glob(f"{case}.*"):
            log.warning("the reference of %s is gone; it is copied from %s", case, label)
            references.mkdir(parents=True, exist_ok=True)
            temporary = references / f".{label.name}.tmp"
            shutil.copy2(label, temporary)
            temporary.replace(references / label.name)
