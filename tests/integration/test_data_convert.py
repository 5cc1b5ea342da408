"""Conversion through nnU-Net's own converter, and what happens where it cannot be done."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.convert import convert_msd
from hippo_nnunet.data.synth import make_phantom
from hippo_nnunet.errors import ConfigError, DataError, UpstreamError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("source"), 5, 1, name="Task04_Hippocampus")


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "Task04_Hippocampus"))


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)


def pack(source: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w") as tar:
        tar.add(source, arcname=source.name)
    return archive


def nothing_written(raw: Path) -> bool:
    return not raw.exists() or not list(raw.iterdir())


def test_folder(source: Path, tmp_path: Path) -> None:
    (source / "imagesTr" / "._hippocampus_001.nii.gz").write_bytes(b"macOS")
    table = "case,subject\n" + "".join(f"hippocampus_{number:03d},{number // 2}\n" for number in range(1, 6))
    (source / "subjects.csv").write_text(table)
    raw = tmp_path / "deep" / "nnUNet_raw"
    target = convert_msd(source, raw)
    assert target == raw / "Dataset004_Hippocampus"
    assert [p.name for p in raw.iterdir()] == ["Dataset004_Hippocampus"]
    assert check_dataset(target) == []
    assert (target / "subjects.csv").read_text() == table
    content = json.loads((target / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert content["channel_names"] == {"0": "MRI"}
    assert (content["file_ending"], content["numTraining"]) == (".nii.gz", 5)
    before = json.loads((source / "dataset.json").read_text())
    for key in ("name", "licence", "reference", "description", "release"):
        assert content[key] == before[key]
    for path in (source / "imagesTr").glob("h*.nii.gz"):
        copy = target / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz")
        assert copy.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in (target / "imagesTs").iterdir()) == ["hippocampus_901_0000.nii.gz"]


def test_nnunet_accepts_the_result(source: Path, tmp_path: Path) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases, verify_labels
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    cases = get_filenames_of_train_images_and_targets(str(convert_msd(source, tmp_path / "raw")))
    assert len(cases) == 5
    for case in cases.values():
        assert check_cases(case["images"], case["label"], 1, SimpleITKIO)
        assert verify_labels(case["label"], SimpleITKIO, [0, 1, 2])


def test_archive_other_name_and_id(source: Path, tmp_path: Path) -> None:
    renamed = source.rename(tmp_path / "Task07_My_Data")
    shutil.rmtree(renamed / "imagesTs")
    content = json.loads((renamed / "dataset.json").read_text()) | {"test": [], "numTest": 0}
    (renamed / "dataset.json").write_text(json.dumps(content))
    archive = pack(renamed, tmp_path / "data.tar")
    target = convert_msd(archive, tmp_path / "raw", dataset_id=12)
    assert target.name == "Dataset012_My_Data"
    assert len(list((target / "labelsTr").iterdir())) == 5


def test_relative_source_without_test_images(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    content = json.loads(Path("dataset.json").read_text())
    del content["test"]
    Path("dataset.json").write_text(json.dumps(content))
    shutil.rmtree("imagesTs")
    target = convert_msd(Path(), tmp_path / "raw")
    assert target.name == "Dataset004_Hippocampus"
    assert "test" not in json.loads((target / "dataset.json").read_text())


@pytest.mark.parametrize(("name", "says"), [("雪", "its name '雪' has no letter or digit"), ("", "has no name")])
def test_names_that_leave_nothing_for_a_folder(source: Path, tmp_path: Path, name: str, says: str) -> None:
    content = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps({**content, "name": name}))
    with pytest.raises(DataError, match=f"{says}.* rename the folder to TaskXX_Name"):
        convert_msd(source.rename(tmp_path / "other"), tmp_path / "raw")


def test_existing_target(source: Path, tmp_path: Path) -> None:
    old = tmp_path / "raw" / "Dataset004_Hippocampus"
    old.mkdir(parents=True)
    (old / "subjects.csv").write_text("kept")
    with pytest.raises(DataError, match="--overwrite"):
        convert_msd(source, tmp_path / "raw")
    with pytest.raises(DataError, match=r"holds 'subjects\.csv', which this command does not write"):
        convert_msd(source, tmp_path / "raw", overwrite=True)
    assert [p.name for p in old.iterdir()] == ["subjects.csv"]
    (old / "subjects.csv").rename(old / "dataset.json")
    (source / "labelsTr" / "hippocampus_001.nii.gz").unlink()
    with pytest.raises(DataError, match="missing"):
        convert_msd(source, tmp_path / "raw", overwrite=True)
    assert [p.name for p in old.iterdir()] == ["dataset.json"]


def test_overwrite(source: Path, tmp_path: Path) -> None:
    old = tmp_path / "raw" / "Dataset004_Hippocampus"
    (old / "imagesTr").mkdir(parents=True)
    (old / "imagesTr" / "other_0000.nii.gz").write_text("gone")
    assert convert_msd(source, tmp_path / "raw", overwrite=True) == old
    assert not (old / "imagesTr" / "other_0000.nii.gz").exists()
    assert [p.name for p in (tmp_path / "raw").iterdir()] == [old.name]


@pytest.mark.parametrize("where", ["preprocessed", "results"])
def test_id_of_another_dataset(source: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    (tmp_path / where / "Dataset004_Phantom").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"Dataset004_Phantom.*--dataset-id"):
        convert_msd(source, tmp_path / "raw")


def test_wrong_folders(tmp_path: Path, source: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", source / "imagesTr"):
        with pytest.raises(DataError, match=folder.name):
            convert_msd(folder, tmp_path / "raw")
    assert nothing_written(tmp_path / "raw")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that even root cannot write")
def test_unwritable_file_system(source: Path) -> None:
    with pytest.raises(DataError, match="cannot write there"):
        convert_msd(source, Path("/proc/hippo"))


def test_converter_that_fails(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hippo_nnunet.data.convert._CONVERTER", "raise RuntimeError('changed')")
    with pytest.raises(UpstreamError, match="changed"):
        convert_msd(source, tmp_path / "raw")
    assert nothing_written(tmp_path / "raw")


def test_leaves_the_environment_and_modules_alone(source: Path, tmp_path: Path) -> None:
    before = dict(os.environ)
    loaded = "nnunetv2.dataset_conversion.convert_MSD_dataset" in sys.modules
    convert_msd(source, tmp_path / "raw")
    assert dict(os.environ) == before
    assert ("nnunetv2.dataset_conversion.convert_MSD_dataset" in sys.modules) == loaded
