"""Folds by subject are written before nnU-Net writes its own, and never replace other folds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hippo_nnunet.data.subjects import grouped_splits, write_subjects
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.nnunet.folds import check_subject_folds, find_subjects, make_splits
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.splits import read_splits, split_record
from hippo_nnunet.nnunet.subset import stored_subjects, trained_split

NAME = "Dataset004_X"
CASES = [f"case_{number:02d}" for number in range(20)]
PAIRS = {case: f"subject {number // 2}" for number, case in enumerate(CASES)}


@pytest.fixture
def folders(tmp_path: Path) -> NnunetFolders:
    found = NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    for folder in (found.preprocessed / NAME, found.raw / NAME / "labelsTr", found.raw / NAME / "imagesTs"):
        folder.mkdir(parents=True)
    (found.raw / NAME / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    for case in CASES:
        (found.raw / NAME / "labelsTr" / f"{case}.nii.gz").touch()
    (found.raw / NAME / "imagesTs" / "test_01_0000.nii.gz").touch()
    return found


def trained(folders: NnunetFolders, fold: int, split: dict[str, list[str]], trainer: str = "UNetTrainer_fast") -> Path:
    folder = folders.results / NAME / f"{trainer}__CompactPlans__2d" / f"fold_{fold}"
    folder.mkdir(parents=True)
    (folder / "checkpoint_final.pth").touch()
    (folder / "hippo_training.json").write_text(json.dumps({"split": split_record(**split)}))
    return folder


def test_folds_by_subject_are_written_once(folders: NnunetFolders) -> None:
    make_splits(NAME, {*CASES}, folders, PAIRS)
    assert read_splits(NAME, folders) == grouped_splits(PAIRS, 5)
    make_splits(NAME, {*CASES}, folders)  # as a later step does, which does not know of subjects
    assert read_splits(NAME, folders) == grouped_splits(PAIRS, 5)
    check_subject_folds(NAME, PAIRS, True, folders)
    assert stored_subjects(folders.preprocessed / NAME) == PAIRS


def test_nnunets_own_folds_where_no_subjects_are_known(folders: NnunetFolders) -> None:
    make_splits(NAME, {*CASES}, folders)
    splits = read_splits(NAME, folders)
    assert splits is not None
    assert [len(split["val"]) for split in splits] == [4] * 5
    assert splits != grouped_splits(PAIRS, 5)
    check_subject_folds(NAME, PAIRS, False, folders)
    assert stored_subjects(folders.preprocessed / NAME) == {}


def test_a_split_that_breaks_subjects_apart_is_refused_and_kept(folders: NnunetFolders) -> None:
    make_splits(NAME, {*CASES}, folders)
    before = read_splits(NAME, folders)
    with pytest.raises(ConfigError, match=r"splits_final.json: fold 0 validates 'case_\d\d' and trains on .*delete"):
        check_subject_folds(NAME, PAIRS, True, folders)
    assert read_splits(NAME, folders) == before


def test_another_split_that_keeps_subjects_together_is_used(folders: NnunetFolders) -> None:
    own = grouped_splits(PAIRS, 4)
    (folders.preprocessed / NAME / "splits_final.json").write_text(json.dumps(own))
    check_subject_folds(NAME, PAIRS, True, folders)
    make_splits(NAME, {*CASES}, folders, PAIRS)
    assert read_splits(NAME, folders) == own


def test_nnunets_own_folds_leave_no_table_of_subjects_behind(folders: NnunetFolders) -> None:
    make_splits(NAME, {*CASES}, folders, PAIRS)
    assert stored_subjects(folders.preprocessed / NAME)
    (folders.preprocessed / NAME / "splits_final.json").unlink()
    make_splits(NAME, {*CASES}, folders)
    assert stored_subjects(folders.preprocessed / NAME) == {}


def test_folds_by_subject_are_not_nnunets_own(folders: NnunetFolders) -> None:
    make_splits(NAME, {*CASES}, folders, PAIRS)
    with pytest.raises(ConfigError, match="holds folds by subject, and --subjects none requests nnU-Net's own; delete"):
        check_subject_folds(NAME, PAIRS, False, folders)


def test_fewer_subjects_than_folds_are_refused_before_there_is_a_split(folders: NnunetFolders) -> None:
    few = {case: str(number % 4) for number, case in enumerate(CASES)}
    with pytest.raises(DataError, match="20 cases of 4 subjects, fewer than the 5 folds"):
        check_subject_folds(NAME, few, True, folders)
    check_subject_folds(NAME, few, False, folders)


@pytest.mark.parametrize(("subjects", "remedy"), [(PAIRS, "none for nnU-Net's own"), (None, "auto for folds by")])
def test_folds_that_were_trained_on_a_lost_split_are_not_mixed_with_another(
    folders: NnunetFolders, subjects: dict[str, str] | None, remedy: str
) -> None:
    other = {"train": CASES[4:], "val": CASES[:4]}
    folder = trained(folders, 1, other)
    with pytest.raises(ConfigError, match="was trained with another split") as caught:
        make_splits(NAME, {*CASES}, folders, subjects)
    assert str(folder) in str(caught.value)
    assert f"give --subjects {remedy}" in str(caught.value)
    assert read_splits(NAME, folders) is None


def test_folds_that_were_trained_on_the_same_split_are_used_again(folders: NnunetFolders) -> None:
    trained(folders, 3, grouped_splits(PAIRS, 5)[3])
    make_splits(NAME, {*CASES}, folders, PAIRS)
    assert read_splits(NAME, folders) == grouped_splits(PAIRS, 5)


def test_trainings_on_subsets_are_compared_with_their_subsets(folders: NnunetFolders) -> None:
    split, trainer = grouped_splits(PAIRS, 5)[3], "UNetTrainer_fast_6cases_seed1"
    trained(folders, 3, trained_split(trainer, 3, split, PAIRS), trainer)
    make_splits(NAME, {*CASES}, folders, PAIRS)
    (folders.preprocessed / NAME / "splits_final.json").unlink()
    trained(folders, 3, split, "UNetTrainer_fast_6cases")
    with pytest.raises(ConfigError, match=r"UNetTrainer_fast_6cases__.*'case_\d\d' is no longer in train"):
        make_splits(NAME, {*CASES}, folders, PAIRS)


def test_subjects_of_splits_of_earlier_versions_are_written(folders: NnunetFolders) -> None:
    (folders.preprocessed / NAME / "splits_final.json").write_text(json.dumps(grouped_splits(PAIRS, 5)))
    make_splits(NAME, {*CASES}, folders, PAIRS)
    assert stored_subjects(folders.preprocessed / NAME) == PAIRS


@pytest.mark.parametrize("choice", ["auto", "none", "elsewhere.csv"])
def test_subjects_of_a_dataset(folders: NnunetFolders, tmp_path: Path, choice: str) -> None:
    table = tmp_path / choice if choice.endswith(".csv") else folders.raw / NAME / "subjects.csv"
    write_subjects({**PAIRS, "test_01": "subject 0"}, table)
    found = find_subjects(NAME, str(table) if choice.endswith(".csv") else choice, folders)
    assert found == PAIRS
    assert find_subjects(NAME, "auto", folders) == (None if choice.endswith(".csv") else PAIRS)
