"""Splits are refused when they are read; a trained fold remembers its cases, and is refused with others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.nnunet.finished import check_finished
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.splits import check_split_cases, read_splits, split_record
from hippo_nnunet.training.recipes import parse
from hippo_nnunet.training.schedule import schedule_for

NAME = "Dataset004_X"
CASES = ("case_001", "case_002", "case_003")
PLANS: dict[str, Any] = {"configurations": {"2d": {"patch_size": [8, 8]}}}
SCHEDULE = asdict(schedule_for(parse("UNetTrainer_fast"), 2))
SPLITS = [{"train": [c for c in CASES if c != case], "val": [case]} for case in CASES]


@pytest.fixture
def folders(tmp_path: Path) -> NnunetFolders:
    found = NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    (found.preprocessed / NAME).mkdir(parents=True)
    return found


def write(folders: NnunetFolders, splits: object) -> None:
    (folders.preprocessed / NAME / "splits_final.json").write_text(json.dumps(splits))


def changed(change: Callable[[list[dict[str, list[str]]]], object]) -> list[dict[str, list[str]]]:
    splits: list[dict[str, list[str]]] = json.loads(json.dumps(SPLITS))
    change(splits)
    return splits


def test_sound_splits_are_read(folders: NnunetFolders) -> None:
    assert read_splits(NAME, folders) is None
    write(folders, SPLITS)
    assert read_splits(NAME, folders) == SPLITS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s[1]["val"].clear(), "fold 1 has no case in val"),
        (lambda s: s[2]["train"].clear(), "fold 2 has no case in train"),
        (lambda s: s[0]["val"].append("case_002"), "fold 0 has 'case_002' in train and val"),
        (
            lambda s: s[0].update(train=["case_003"], val=["case_001", "case_002"]),
            "'case_002' is in val of folds 0 and 1, but a case is validated once",
        ),
        (lambda s: s[0]["val"].append("case_001"), "'case_001' is in val of fold 0 twice"),
    ],
)
def test_unsound_splits_are_refused_when_they_are_read(
    folders: NnunetFolders, change: Callable[[Any], object], says: str
) -> None:
    write(folders, changed(change))
    with pytest.raises(DataError, match=says) as caught:
        read_splits(NAME, folders)
    assert "splits_final.json" in str(caught.value)
    assert "delete" in str(caught.value) or "remove it" in str(caught.value)


@pytest.mark.parametrize("name", ["case_002_0000", "case_002.nii.gz", "case_002_0000.nii.gz", "case_02"])
def test_a_name_that_is_no_case_is_answered_by_the_case_that_was_meant(folders: NnunetFolders, name: str) -> None:
    write(folders, changed(lambda s: s[1].update(val=[name])))
    with pytest.raises(DataError, match=f"names '{name}', which is no case .* did you mean 'case_002'"):
        check_split_cases(NAME, CASES, folders)


def test_cases_that_are_in_no_fold_are_named(folders: NnunetFolders, caplog: pytest.LogCaptureFixture) -> None:
    write(folders, SPLITS)
    check_split_cases(NAME, CASES, folders)
    assert caplog.text == ""
    check_split_cases(NAME, [*CASES, "case_004", "case_005"], folders)
    assert "leaves out 2 cases of Dataset004_X, first 'case_004'" in caplog.text


def test_a_name_that_resembles_no_case(folders: NnunetFolders) -> None:
    write(folders, changed(lambda s: s[1].update(val=["elsewhere"])))
    with pytest.raises(DataError, match=r"names 'elsewhere', which is no case .* correct the file, or delete"):
        check_split_cases(NAME, CASES, folders)
    check_split_cases(NAME, {*CASES, "elsewhere"}, folders)


@pytest.fixture
def fold(tmp_path: Path) -> Path:
    """A fold of nnU-Net's own network, trained with SPLITS[0] and validated."""
    folder = tmp_path / "UNetTrainer_fast__P__2d" / "fold_0"
    (folder / "validation").mkdir(parents=True)
    (folder.parent / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    validated = [{"prediction_file": f"/elsewhere/{case}.nii.gz"} for case in SPLITS[0]["val"]]
    (folder / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": validated}))
    return folder


def recorded(fold: Path, split: object) -> None:
    (fold / "hippo_training.json").write_text(json.dumps({"schedule": SCHEDULE, "split": split}))


def check(fold: Path, trainer: str, split: dict[str, list[str]]) -> None:
    check_finished(fold, trainer, PLANS, "2d", split)


def test_a_fold_with_other_cases_than_its_record_is_refused(fold: Path) -> None:
    recorded(fold, split_record(**SPLITS[0]))
    check(fold, "UNetTrainer_fast", SPLITS[0])
    check(fold, "UNetTrainer_fast", {part: names[::-1] for part, names in SPLITS[0].items()})
    with pytest.raises(ConfigError, match=r"fold_0 was trained with another split: 'case_001' is no longer in val"):
        check(fold, "UNetTrainer_fast", SPLITS[1])
    with pytest.raises(ConfigError, match=r"'case_003' is no longer in train; restore the splits_final.json"):
        check(fold, "UNetTrainer_fast", {"train": ["case_002"], "val": ["case_001"]})
    recorded(fold, ["case_001"])
    with pytest.raises(DataError, match=r"hippo_training.json holds no split; delete it"):
        check(fold, "UNetTrainer_fast", SPLITS[0])


@pytest.mark.parametrize("trainer", ["UNetTrainer_fast", "nnUNetTrainer"])
def test_a_fold_without_a_record_is_known_by_its_validated_cases(fold: Path, trainer: str) -> None:
    recorded(fold, None)
    check(fold, trainer, SPLITS[0])
    check(fold, trainer, {"train": ["case_002"], "val": ["case_001"]})  # nobody knows what it was trained with
    with pytest.raises(ConfigError, match="'case_001' is no longer in val"):
        check(fold, trainer, SPLITS[1])
    (fold / "validation" / "summary.json").unlink()
    check(fold, trainer, SPLITS[1])
