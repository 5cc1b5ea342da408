"""Training refuses data that is not there, not complete, or of another plan, before anything heavy starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.nnunet import preprocessed, splits
from hippo_nnunet.nnunet.api import TrainJob, resolve_device, train_fold, worker_processes
from hippo_nnunet.nnunet.finished import is_finished
from hippo_nnunet.nnunet.partial import record_axes
from hippo_nnunet.nnunet.paths import FOLDER_VARIABLES, NnunetFolders
from hippo_nnunet.threads import cpu_count
from hippo_nnunet.training.schedule import STOCK

NAME = "Dataset004_X"
CASES = [f"case_{i}" for i in range(5)]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NnunetFolders:
    """A dataset that is planned and preprocessed, in name."""
    found = NnunetFolders(*(tmp_path / variable for variable in FOLDER_VARIABLES))
    for variable, folder in zip(FOLDER_VARIABLES, (found.raw, found.preprocessed, found.results), strict=True):
        monkeypatch.setenv(variable, str(folder))
        (folder / NAME).mkdir(parents=True)
    plans = {
        "plans_name": "P",
        "dataset_name": NAME,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "2d": {"data_identifier": "P_2d", "spacing": [1.0, 1.0], "patch_size": [8, 8]},
            "2d_wide": {"inherits_from": "2d", "batch_size": 9},
        },
    }
    folder = found.preprocessed / NAME
    (folder / "P.json").write_text(json.dumps(plans))
    (folder / "P_2d").mkdir()
    for case in CASES:
        (folder / "P_2d" / f"{case}.pkl").write_bytes(b"x")
    preprocessed.signature_file(folder / "P_2d").write_text(preprocessed.signature(plans, "2d") + "\n")
    splits = [{"train": [c for c in CASES if c != case], "val": [case]} for case in CASES]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return found


def test_sound_data_passes(folders: NnunetFolders) -> None:
    assert preprocessed.check_preprocessed(NAME, "P", "2d", folders)["plans_name"] == "P"
    preprocessed.check_preprocessed(NAME, "P", "2d_wide", folders)
    splits.check_fold(NAME, 4, len(CASES), folders)


def change_plan(folder: Path) -> None:
    plans = json.loads((folder / "P.json").read_text())
    plans["configurations"]["2d"]["spacing"] = [2.0, 2.0]
    (folder / "P.json").write_text(json.dumps(plans))


@pytest.mark.parametrize(
    ("damage", "job", "says"),
    [
        (lambda f: None, {"dataset": "5"}, "dataset '5' is not in"),
        (lambda f: None, {"dataset": "hippo"}, "neither an id"),
        (lambda f: None, {"plans": "Q"}, "there are P"),
        (lambda f: None, {"configuration": "3d_fullres"}, "it has 2d"),
        (lambda f: None, {"fold": 5}, "folds 0 to 4"),
        (lambda f: None, {"fold": "x"}, "neither a number"),
        (lambda f: None, {"fold": "+1"}, "neither a number"),  # nnU-Net would train fold 1
        (lambda f: (f / "P_2d").rename(f / "Q_2d"), {}, "not preprocessed for P 2d"),
        (lambda f: (f / "P_2d" / "case_3.pkl").unlink(), {}, "first 'case_3'"),
        (change_plan, {}, "other plans"),
    ],
)
def test_refused_before_training(
    folders: NnunetFolders, damage: Callable[[Path], object], job: dict[str, object], says: str
) -> None:
    damage(folders.preprocessed / NAME)
    values = {"dataset": "4", "configuration": "2d", "fold": 0, "trainer": "UNetTrainer", "plans": "P", "device": "cpu"}
    with pytest.raises(ConfigError, match=says) as caught:
        train_fold(TrainJob(**{**values, **job}))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not list((folders.results / NAME).iterdir())


def test_fewer_cases_than_folds(folders: NnunetFolders) -> None:
    (folders.preprocessed / NAME / "splits_final.json").unlink()
    with pytest.raises(DataError, match="4 labelled cases, fewer than the 5 folds"):
        splits.check_fold(NAME, 0, 4, folders)


def test_ambiguous_dataset_id(folders: NnunetFolders) -> None:
    (folders.raw / "Dataset004_Y").mkdir()
    with pytest.raises(ConfigError, match="Dataset004_X, Dataset004_Y"):
        preprocessed.dataset_name(4, folders)


@pytest.fixture
def finished_fold(folders: NnunetFolders) -> Path:
    """A fold with the files of a finished training of `UNetTrainer`, and its record."""
    fold = folders.results / NAME / "UNetTrainer__P__2d" / "fold_0"
    (fold / "validation").mkdir(parents=True)
    for name in ("checkpoint_final.pth", "validation/case_0.npz", "validation/case_1.npz"):
        (fold / name).touch()
    (fold / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": [{}, {}]}))
    (fold / "hippo_training.json").write_text(json.dumps({"schedule": asdict(STOCK)}))
    (fold.parent / "plans.json").write_bytes((folders.preprocessed / NAME / "P.json").read_bytes())
    (fold.parent / "dataset.json").write_text("{}")
    return fold


def test_a_finished_fold_is_left_alone(finished_fold: Path) -> None:
    assert train_fold(TrainJob("4", "2d", 0, "UNetTrainer", "P", "cpu")) == finished_fold


def test_a_fold_without_the_softmax_of_every_case_is_not_finished(finished_fold: Path) -> None:
    assert is_finished(finished_fold)
    (finished_fold / "validation" / "case_1.npz").unlink()
    assert not is_finished(finished_fold)
    assert is_finished(finished_fold, npz=False)


def test_a_finished_fold_of_another_schedule_is_refused(finished_fold: Path) -> None:
    record = finished_fold / "hippo_training.json"
    record.write_text(json.dumps({"schedule": {**asdict(STOCK), "epochs": 7}}))
    with pytest.raises(ConfigError, match="epochs was 7, is now 1000"):
        train_fold(TrainJob("4", "2d", 0, "UNetTrainer", "P", "cpu"))
    assert (finished_fold / "checkpoint_final.pth").exists()


def test_a_finished_fold_of_other_plans_is_refused(finished_fold: Path) -> None:
    stored = json.loads((finished_fold.parent / "plans.json").read_text())
    stored["configurations"]["2d"]["patch_size"] = [7, 7]
    (finished_fold.parent / "plans.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match="other plans: patch_size was"):
        train_fold(TrainJob("4", "2d", 0, "UNetTrainer", "P", "cpu"))


def test_validation_of_an_untrained_fold(folders: NnunetFolders) -> None:
    with pytest.raises(ConfigError, match="not trained completely"):
        train_fold(TrainJob("4", "2d", 0, "UNetTrainer", "P", "cpu"), validation_only=True)


def test_unknown_device() -> None:
    with pytest.raises(ConfigError, match="device 'gpu'"):
        resolve_device("gpu")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_axes_of_the_training_images_are_recorded_once(tmp_path: Path, ending: str) -> None:
    folders = NnunetFolders(*(tmp_path / variable for variable in FOLDER_VARIABLES))
    raw, pre = folders.raw / "Dataset901_Tiny", folders.preprocessed / "Dataset901_Tiny"
    description = {"labels": {"background": 0, "one": 1}, "file_ending": ending}
    for folder in (raw, pre):
        (folder / "imagesTr").mkdir(parents=True)
        (folder / "dataset.json").write_text(json.dumps(description))
    for case, sign in (("a", 1), ("b", -1), ("c", 1)):
        image = nib.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.diag([sign, 1.0, 1, 1]))
        nib.save(image, raw / "imagesTr" / f"{case}_0000{ending}")
    odd = nib.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.eye(4))
    odd.set_sform(np.diag([2.0, 1, 1, 1]), 1)
    (raw / "labelsTr").mkdir()
    nib.save(odd, raw / "labelsTr" / f"b{ending}")
    with pytest.raises(DataError, match=r"labelsTr/b\.nii.*two voxel sizes: 1 x 1 x 1 mm in pixdim.*2 x 1 x 1 mm"):
        record_axes("Dataset901_Tiny", {"a", "b", "c"}, "SimpleITKIO", folders)
    (raw / "labelsTr" / f"b{ending}").unlink()
    record_axes("Dataset901_Tiny", {"a", "b", "c"}, "SimpleITKIO", folders)
    recorded = json.loads((pre / "dataset.json").read_text())
    assert recorded == {**description, "axis_codes": {"RAS": 2, "LAS": 1}}
    (raw / "imagesTr" / f"a_0000{ending}").unlink()
    record_axes("Dataset901_Tiny", {"a", "b", "c"}, "NibabelIO", folders)
    assert json.loads((pre / "dataset.json").read_text()) == recorded


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            0.01,
            r"c_0000\.nii\.gz: its voxels of 0\.02 x 0\.01 x 0\.01 mm .* 3d's 2 x 1 x 3 mm, from 9 x 9 x 9 to 0 x 0",
        ),
        (1000, r"c_0000\.nii\.gz: its voxels of 2000 x 1000 x 1000 mm .* voxels, which takes .* GiB of memory"),
    ],
)
def test_a_case_that_cannot_be_resampled_is_found_before_preprocessing(
    tmp_path: Path, size: float, message: str
) -> None:
    folders = NnunetFolders(*(tmp_path / variable for variable in FOLDER_VARIABLES))
    raw, pre = folders.raw / NAME, folders.preprocessed / NAME
    raw.mkdir(parents=True)
    pre.mkdir(parents=True)
    content = {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(content))
    plans = {"transpose_forward": [1, 2, 0], "transpose_backward": [2, 0, 1]}
    plans["configurations"] = {"3d": {"spacing": [1.0, 2.0, 3.0]}, "2d": {"spacing": [2.0, 3.0]}}

    def fingerprint(last: float) -> None:
        spacings = [[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [last, last, 2 * last]]
        (pre / "dataset_fingerprint.json").write_text(
            json.dumps({"shapes_after_crop": [[9, 9, 9]] * 3, "spacings": spacings})
        )

    fingerprint(1)
    preprocessed.check_sizes(NAME, plans, ["3d", "2d"], {"a", "b", "c"}, folders)
    fingerprint(size)
    with pytest.raises(DataError, match=message):
        preprocessed.check_sizes(NAME, plans, ["3d", "2d"], {"a", "b", "c"}, folders)


def test_planning_and_evaluation_take_the_users_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_def_n_proc", "3")
    assert worker_processes() == 3
    monkeypatch.delenv("nnUNet_def_n_proc")
    assert worker_processes() == min(8, cpu_count())
