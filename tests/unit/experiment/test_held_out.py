"""The data of the results, from the published archive."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from experiments.held_out import hold_out, main
from hippo_nnunet.data.layout import read_dataset
from hippo_nnunet.errors import ConfigError, DataError


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task of five labelled cases and a test image; the files hold their names."""
    folder = tmp_path / "Task04_Hippocampus"
    cases = [f"hippocampus_{number:03}.nii.gz" for number in range(1, 6)]
    for name in [f"{kind}/{case}" for kind in ("imagesTr", "labelsTr") for case in cases] + [
        "imagesTs/hippocampus_009.nii.gz"
    ]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    training = [{"image": f"./imagesTr/{case}", "label": f"./labelsTr/{case}"} for case in cases]
    description = {
        **{"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior"}},
        **{"numTraining": 5, "numTest": 1, "training": training, "test": ["./imagesTs/hippocampus_009.nii.gz"]},
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize("archived", [False, True])
def test_the_other_labelled_cases_become_test_images_without_labels(task: Path, tmp_path: Path, archived: bool) -> None:
    source = task
    if archived:
        source = tmp_path / "Task04_Hippocampus.tar"
        with tarfile.open(source, "w") as archive:
            archive.add(task, arcname=task.name)
    output = tmp_path / "held_out" / "Task04_Hippocampus"
    said = hold_out(source, output, ["hippocampus_001", "hippocampus_004"])
    assert said == f"{output}: 2 labelled cases, 3 test images"
    dataset = read_dataset(output)
    assert [case.id for case in dataset.training] == ["hippocampus_001", "hippocampus_004"]
    assert [case.id for case in dataset.test] == ["hippocampus_002", "hippocampus_003", "hippocampus_005"]
    assert (output / "imagesTs" / "hippocampus_003.nii.gz").read_text() == "imagesTr/hippocampus_003.nii.gz"
    assert len(list(output.rglob("*.nii.gz"))) == 2 * 2 + 3


def test_missing_cases_and_an_existing_folder_are_refused(task: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks 1 labelled cases, such as hippocampus_100"):
        hold_out(task, tmp_path / "out", ["hippocampus_001", "hippocampus_100"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="exists: choose a new folder"):
        hold_out(task, tmp_path, ["hippocampus_001"])
    with pytest.raises(SystemExit, match=r"error: .*lacks 217 labelled cases"):
        main([str(task), str(tmp_path / "out")])
