"""The packaged model's files: what is missing, damaged or of another version is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaged_files import made_calibration, made_description, write_files

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.volume_calibration import calibration_from, calibration_json
from hippo_nnunet.models.packaged import DESCRIPTION, LICENCE, MODEL, SUMS, VERSION, open_packaged


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        open_packaged(folder).calibration()
    assert "\n" not in str(error.value)
    assert "install hippo_nnunet again" in str(error.value)
    assert str(folder) in str(error.value)


def test_what_is_read(tmp_path: Path) -> None:
    model = open_packaged(write_files(tmp_path))
    assert model.path == tmp_path / MODEL
    assert model.title == "test model 7"
    calibration = model.calibration(0.9)
    assert calibration == made_calibration()
    # of 39 subjects, the second smallest and second largest error bound 90 %
    assert calibration.by_label["total"].interval(1000.0, 0.9) == (982.0, 1018.0)
    assert model.calibration(0.5).by_label["total"].interval(1000.0, 0.5) == (990.0, 1010.0)
    with pytest.raises(ConfigError, match="coverage 1: expected"):
        model.calibration(1.0)


@pytest.mark.parametrize("name", [MODEL, DESCRIPTION, LICENCE, SUMS])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    (write_files(tmp_path) / name).unlink()
    refuse(tmp_path, f"{name}: .*missing")


@pytest.mark.parametrize("name", [MODEL, DESCRIPTION, LICENCE])
def test_a_damaged_file(tmp_path: Path, name: str) -> None:
    path = write_files(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refuse(tmp_path, f"{name}: .*damaged or of another version")


def test_damaged_sums(tmp_path: Path) -> None:
    (write_files(tmp_path) / SUMS).write_bytes(b"\xff\xfe")
    refuse(tmp_path, f"{SUMS}: .*missing or damaged")


def test_a_model_of_another_version_than_its_description(tmp_path: Path) -> None:
    (write_files(tmp_path / "new", b"newer") / MODEL).replace(write_files(tmp_path / "old") / MODEL)
    refuse(tmp_path / "old", f"{MODEL}: .*of another version")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format_version": VERSION + 1}, f"version {VERSION + 1} of the format, expected {VERSION}"),
        ({"format": "other"}, "does not belong to this hippo_nnunet"),
        ({"name": 3}, "does not say name"),
        ({"calibration": None}, "calibration cannot be read"),
        ({"calibration": {"labels": {"a": [1]}, "by_label": {}}}, "calibration cannot be read"),
        ({"calibration": {"labels": {"a": [1]}, "by_label": {"a": {"new": 1}}}}, "calibration cannot be read"),
    ],
)
def test_another_version(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    refuse(write_files(tmp_path, **changed), message)


def test_calibration_is_the_same_after_json() -> None:
    content = made_description()["calibration"]
    assert calibration_json(calibration_from(content)) == content
    with pytest.raises(ValueError, match="number of weights"):
        entry = content["by_label"]["total"] | {"weights": [0.5]}
        calibration_from({"labels": {"total": [1]}, "by_label": {"total": entry}})


def test_model_and_title_are_read_without_torch_and_pandas(tmp_path: Path) -> None:
    write_files(tmp_path)
    code = f"""
import sys
from pathlib import Path
from hippo_nnunet.models.packaged import open_packaged
assert open_packaged(Path({str(tmp_path)!r})).title
assert not {{"torch", "nnunetv2", "pandas", "scipy", "onnxruntime"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
