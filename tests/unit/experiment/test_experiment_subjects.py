"""The subjects of an experiment: requested, kept, recorded, and refused before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hippo_nnunet.data.subjects import grouped_splits, read_subjects, write_subjects
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.manifest import build_manifest
from hippo_nnunet.experiment.request import Request, resolve
from hippo_nnunet.experiment.split_copy import restore_split
from hippo_nnunet.experiment.subjects import check_subjects, check_subsets, keep_subjects, load_subjects, split_subjects
from hippo_nnunet.nnunet.folds import make_splits
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.subset import stored_subjects

NAME = "Dataset004_Hippocampus"
CASES = [f"hippocampus_{number:03d}" for number in range(1, 13)]
PAIRS = {case: f"s{number // 2}" for number, case in enumerate(CASES)}


@pytest.fixture
def folders(tmp_path: Path) -> NnunetFolders:
    """A raw dataset whose cases 2k-1 and 2k are crops of one scan."""
    found = NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    for part in ("imagesTr", "labelsTr"):
        (found.raw / NAME / part).mkdir(parents=True)
    (found.preprocessed / NAME).mkdir(parents=True)
    (found.raw / NAME / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    rng = np.random.default_rng(0)
    for number, case in enumerate(CASES):
        factor = 4 + 0.31937 * (number // 2)
        image = (rng.integers(0, 120, (8, 8, 8)) * factor).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), found.raw / NAME / "imagesTr" / f"{case}_0000.nii.gz")
        (found.raw / NAME / "labelsTr" / f"{case}.nii.gz").touch()
    return found


def experiment(subjects: str = "auto") -> Experiment:
    return Experiment(NAME, "laptop", ("UNet",), {"2d": (0, 1, 2, 3, 4)}, subjects=subjects)


def test_a_new_experiment_splits_by_subject_and_an_old_one_keeps_its_folds(
    folders: NnunetFolders, tmp_path: Path
) -> None:
    folder = tmp_path / "exp"
    new = resolve(Request(dataset="4"), folder, folders, "cpu")
    assert new.subjects == "auto"
    assert resolve(Request(dataset="4", subjects="none"), folder, folders, "cpu").subjects == "none"
    assert resolve(Request(dataset="4", subjects="my/table.csv"), folder, folders, "cpu").subjects == "file"
    path = folder / "experiment.yaml"
    new.save(path)
    assert Experiment.load(path) == new
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("subjects")))
    assert Experiment.load(path).subjects == "none"  # of a version that did not record it
    with pytest.raises(ConfigError, match="subjects is none there, auto now"):
        resolve(Request(subjects="auto"), folder, folders, "cpu")


@pytest.mark.parametrize(("subjects", "by"), [("auto", "by subject"), ("none", "by case")])
def test_subjects_are_kept_and_recorded(folders: NnunetFolders, tmp_path: Path, subjects: str, by: str) -> None:
    found = keep_subjects(experiment(subjects), folders, tmp_path / "exp")
    assert found is not None
    assert [found[case] == found[CASES[0]] for case in CASES[:3]] == [True, True, False]
    assert read_subjects(tmp_path / "exp" / "subjects.csv", CASES) == found
    manifest = build_manifest(experiment(subjects), tmp_path / "exp", folders, "cpu")
    assert manifest["subjects"] == {"folds": by, "number": 6, "of_several_cases": 6}
    assert manifest["arguments"]["subjects"] == subjects
    assert len(manifest["sha256"]["subjects"]) == 64
    assert load_subjects(tmp_path / "exp", CASES[2:]) == found


def test_nothing_is_kept_where_no_cases_belong_together(folders: NnunetFolders, tmp_path: Path) -> None:
    for case in CASES:
        image = np.random.default_rng(int(case[-3:])).integers(0, 200, (8, 8, 8)).astype(np.uint8)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folders.raw / NAME / "imagesTr" / f"{case}_0000.nii.gz")
    assert keep_subjects(experiment(), folders, tmp_path / "exp") is None
    assert not (tmp_path / "exp").exists()
    assert load_subjects(tmp_path / "exp", CASES) is None
    manifest = build_manifest(experiment(), tmp_path / "exp", folders, "cpu")
    assert manifest["subjects"] == {"folds": "by case", "number": None, "of_several_cases": None}


def test_a_users_table_is_checked_kept_and_not_exchanged(folders: NnunetFolders, tmp_path: Path) -> None:
    folder, table = tmp_path / "exp", tmp_path / "mine.csv"
    write_subjects(PAIRS, table)
    by_file = experiment("file")
    assert check_subjects(by_file, folders, folder, str(table), None) == PAIRS
    assert not folder.exists()
    with pytest.raises(ConfigError, match=r"subjects.csv is missing: restore it, or name the table again"):
        check_subjects(by_file, folders, folder, None, None)
    write_subjects(PAIRS, folder / "subjects.csv")
    assert keep_subjects(by_file, folders, folder) == PAIRS
    (folder / ".done").mkdir()
    (folder / ".done" / "splits_final.json").write_text(json.dumps(grouped_splits(PAIRS, 5)))
    check_subjects(by_file, folders, folder, None, None)
    check_subjects(by_file, folders, folder, str(table), None)
    write_subjects({**PAIRS, CASES[0]: "x"}, table)
    with pytest.raises(ConfigError, match=r"mine.csv is not the table that this experiment began with"):
        check_subjects(by_file, folders, folder, str(table), None)


def test_the_table_beside_the_splits_is_restored_where_folds_are_by_subject(
    folders: NnunetFolders, tmp_path: Path
) -> None:
    write_subjects(PAIRS, tmp_path / "exp" / "subjects.csv")
    restore_split(experiment("none"), folders, tmp_path / "exp")
    assert stored_subjects(folders.preprocessed / NAME) == {}
    assert split_subjects(experiment("none"), folders, tmp_path / "exp") == {}
    assert split_subjects(experiment(), folders, tmp_path / "exp") == PAIRS
    restore_split(experiment(), folders, tmp_path / "exp")
    assert stored_subjects(folders.preprocessed / NAME) == PAIRS
    assert split_subjects(experiment("none"), folders, tmp_path / "exp") == PAIRS, "which trainings read"


def test_numbers_of_training_cases_are_checked_as_far_as_folds_are_known(
    folders: NnunetFolders, tmp_path: Path
) -> None:
    def check(variant: str, subjects: dict[str, str] | None = PAIRS) -> None:
        asked = Experiment(NAME, "laptop", ("UNet", variant), {"2d": (0, 1, 2, 3, 4)})
        check_subsets(asked, folders, tmp_path / "exp", subjects)

    check("UNet_9cases")
    with pytest.raises(ConfigError, match=r"UNet_10cases: of 12 cases in 5 folds at most 9 train each fold"):
        check("UNet_10cases")
    make_splits(NAME, {*CASES}, folders, PAIRS)  # six subjects: a fold has two of them, and eight training cases
    check("UNet_8cases")
    with pytest.raises(ConfigError, match=r"UNetTrainer_fast_9cases, fold \d: got 9 .* are 8"):
        check("UNet_9cases")
    with pytest.raises(ConfigError, match=r"UNetTrainer_fast_1cases, fold 0: .* has 2; take at least 2"):
        check("UNet_1cases")
    (folders.preprocessed / NAME / "subjects.csv").unlink()
    check("UNet_1cases", {})


def test_existing_splits_are_checked_against_what_the_images_show(folders: NnunetFolders, tmp_path: Path) -> None:
    make_splits(NAME, {*CASES}, folders)
    with pytest.raises(ConfigError, match=r"fold 0 validates .* of the same subject.*--subjects none to keep it"):
        check_subjects(experiment(), folders, tmp_path / "exp", None, None)
    assert check_subjects(experiment("none"), folders, tmp_path / "exp", None, None) is None


@pytest.mark.parametrize("packed", ["", "tar", "zip"])
def test_a_table_is_checked_against_a_task_that_is_not_converted_yet(tmp_path: Path, packed: str) -> None:
    folders = NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    task = tmp_path / "Task04_Hippocampus"
    for part in ("labelsTr", "imagesTs"):
        (task / part).mkdir(parents=True)
    for case in CASES:
        (task / "labelsTr" / f"{case}.nii.gz").touch()
    (task / "labelsTr" / "._x.nii.gz").touch()
    (task / "imagesTs" / "hippocampus_900.nii.gz").touch()
    source = task
    if packed:
        source = Path(shutil.make_archive(str(tmp_path / "Task04_Hippocampus"), packed, tmp_path, task.name))
    table = write_subjects({**PAIRS, "hippocampus_900": "s0"}, tmp_path / "mine.csv")
    arguments = (folders, tmp_path / "exp", str(table), source)
    assert check_subjects(experiment("file"), *arguments) == PAIRS
    write_subjects({**PAIRS, "hippocampus_901": "s0"}, table)
    with pytest.raises(DataError, match="names 1 unknown cases, first 'hippocampus_901'"):
        check_subjects(experiment("file"), *arguments)


def test_a_table_that_the_manifest_counts_must_be_there(folders: NnunetFolders, tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    keep_subjects(experiment(), folders, folder)
    (folder / "manifest.json").write_text(json.dumps(build_manifest(experiment(), folder, folders, "cpu")))
    with pytest.raises(DataError, match=r"subjects.csv lacks 1 of 13 cases, first 'other'"):
        load_subjects(folder, [*CASES, "other"])
    (folder / "subjects.csv").unlink()
    with pytest.raises(DataError, match=r"subjects.csv is missing, but the manifest counts its subjects"):
        load_subjects(folder, CASES)
