"""The dataset check and the conversion on the real Task04."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.convert import convert_msd
from hippo_nnunet.data.layout import read_dataset

pytestmark = pytest.mark.real


def test_check_finds_no_error_in_less_than_a_minute(task04: Path) -> None:
    start = time.process_time()
    findings = check_dataset(task04)
    assert time.process_time() - start < 60
    assert [finding.describe() for finding in findings if finding.severity == "error"] == []
    # two published labels are stored as float32
    assert {finding.problem for finding in findings} == {"float-label"}


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
