"""The dataset check and the conversion on the real Task04."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.convert import convert_msd
from hippo_nnunet.data.layout import read_dataset
from hippo_nnunet.data.same_scan import same_scan_cases, subjects_of_groups
from hippo_nnunet.data.subjects import grouped_splits

pytestmark = pytest.mark.real


def test_check_finds_no_error_in_less_than_a_minute(task04: Path) -> None:
    start = time.process_time()
    findings = check_dataset(task04)
    assert time.process_time() - start < 60
    assert [finding.describe() for finding in findings if finding.severity == "error"] == []
    # two published labels are stored as float32
    assert {finding.problem for finding in findings} == {"float-label", "same-scan"}
    (pairs,) = (finding.message for finding in findings if finding.problem == "same-scan")
    assert pairs.startswith("90 pairs of cases are crops of one scan each")


def test_folds_by_subject(task04: Path) -> None:
    cases = [case.id for case in read_dataset(task04).training]
    found = same_scan_cases({case: task04 / "imagesTr" / f"{case}.nii.gz" for case in cases})
    assert found is not None
    assert (len(found.groups), len(found.shares)) == (64, 50)
    assert min(found.shares.values()) > 0.8
    assert found.others < 0.02
    assert found.contradicting == (("hippocampus_245", "hippocampus_299"), ("hippocampus_245", "hippocampus_300"))
    subjects = subjects_of_groups(found.groups, cases)
    published = {case: (int(case[-3:]) + 1) // 2 for case in cases}
    assert all((subjects[a] == subjects[b]) == (published[a] == published[b]) for a in cases for b in cases)
    splits = grouped_splits(subjects, 5)
    assert [len(split["val"]) for split in splits] == [45, 44, 44, 43, 44]
    pairs = {case for group in found.groups for case in group}
    assert [len(pairs & {*split["val"]}) for split in splits] == [26, 26, 26, 24, 26]
    numbers = [[int(case[-3:]) for case in split["val"]] for split in splits]
    # of StratifiedGroupKFold(5, shuffle=True, random_state=12345) with groups (number + 1) // 2
    assert hashlib.sha256(repr(numbers).encode()).hexdigest().startswith("39f5b3bf13043834")


def test_cases_are_those_of_the_published_list(task04: Path) -> None:
    dataset = read_dataset(task04)
    assert len(dataset.training) == dataset.description["numTraining"]
    assert len(dataset.test) == dataset.description["numTest"]
    assert all(case.listed for case in [*dataset.training, *dataset.test])


def test_convert(task04: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.delenv("nnUNet_results", raising=False)
    target = convert_msd(task04, tmp_path, dataset_id=4)
    assert target.name == "Dataset004_Hippocampus"
    content = json.loads((target / "dataset.json").read_text())
    assert content["licence"] == "CC-BY-SA 4.0"
    assert len(list((target / "imagesTr").iterdir())) == content["numTraining"]
    assert [f for f in check_dataset(target) if f.severity == "error"] == []
