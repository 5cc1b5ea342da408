"""What jobs do with results of an earlier run, which may be damaged."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hippo_nnunet.data.convert import convert_msd
from hippo_nnunet.data.synth import make_phantom
from hippo_nnunet.errors import DataError
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.inference.submission import verify_submission
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.workflow import steps


def test_earlier_predictions_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "UNet"
    steps.delete_predictions(folder)
    (folder / "mine").mkdir(parents=True)
    for name in ("a.nii.gz", "b.nii", "dataset.json", "plans.json", "volumes.csv", "mine/a.nii.gz"):
        (folder / name).touch()
    steps.delete_predictions(folder)
    assert {path.name for path in folder.rglob("*")} == {"volumes.csv", "mine", "a.nii.gz"}
    assert not (folder / "a.nii.gz").exists()


def test_a_damaged_submission_is_written_again(tmp_path: Path) -> None:
    folders = NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    experiment = Experiment("Dataset004_Hippocampus", "laptop", ("UNet",), {"2d": (0,)})
    paths, raw = ExperimentPaths(tmp_path), folders.raw / experiment.dataset
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4))
    for file in (raw / "imagesTs" / "a_0000.nii.gz", paths.predictions / "ensemble" / "a.nii.gz"):
        file.parent.mkdir(parents=True)
        nib.save(image, file)
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1}}))
    archive = paths.submission(experiment.task)
    archive.parent.mkdir()
    archive.write_bytes(b"PK damaged")
    steps.submission(experiment, folders, tmp_path)
    assert verify_submission(archive, raw / "imagesTs", {0, 1}, experiment.task) == []


def test_another_task_than_the_datasets_is_refused(tmp_path: Path) -> None:
    folders = NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    task = make_phantom(tmp_path, num_training=3, num_test=1)
    raw = convert_msd(task, folders.raw)
    experiment = Experiment(raw.name, "laptop", ("UNet",), {"2d": (0,)})
    steps.data(experiment, folders, task)
    steps.data(experiment, folders, None)
    next((task / "labelsTr").glob("*.nii.gz")).unlink()
    with pytest.raises(DataError, match="leave --task out, or take another --root"):
        steps.data(experiment, folders, task)
