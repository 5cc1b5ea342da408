"""A scan that cannot be predicted among others: they are done, the exit code says so, and the message names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
from tiny_dataset import TEST_CASES, UNET, TinyDataset, tiny_case, write_image
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.inference.scans import FailedScans


def image_of(size_mm: float, path: Path, scale: float = 1) -> None:
    """Write a cube of 20 voxels of one size along each edge."""
    image = sitk.GetImageFromArray(scale * (tiny_case(7)[0][:, :20, :20] + 0.1))
    image.SetSpacing((size_mm, size_mm, size_mm))
    sitk.WriteImage(image, str(path), True)


@pytest.fixture
def scans(trained: TinyDataset, tmp_path: Path) -> Path:
    """Two good scans and four bad ones, the first of which overflows in normalisation."""
    folder = Path(shutil.copytree(trained.images, tmp_path / "scans"))
    image_of(1.0, folder / "a_extreme_0000.nii.gz", 3e37)
    image_of(0.01, folder / "fine_0000.nii.gz")
    image_of(1000.0, folder / "metre_0000.nii.gz")
    (folder / "cut_0000.nii.gz").write_bytes((folder / "fine_0000.nii.gz").read_bytes()[:2000])
    return folder


@pytest.mark.filterwarnings("ignore:.*overflow.*|.*invalid value.*:RuntimeWarning")
def test_the_others_are_predicted(trained: TinyDataset, scans: Path, tmp_path: Path) -> None:
    options = ["--input", str(scans), "--output", str(tmp_path / "out"), "--device", "cpu", "--no-mirroring"]
    options += ["--model", str(trained.model(UNET)), "--volumes", str(tmp_path / "v.csv"), "--calibration", "none"]
    result = CliRunner().invoke(app, ["predict", *options, "--backend", "torch"])
    assert result.exit_code == 1
    message = str(result.exception)
    assert message.startswith("4 of 6 scans failed: ") and message.endswith("; the other 2 are done"), message
    for text in (
        "case a_extreme: ",
        "cut_0000.nii.gz: truncated or damaged",
        "fine_0000.nii.gz: its voxels of 0.01 x 0.01 x 0.01 mm are resampled to the model's 1 x 0.01 x 1 mm, from "
        "20 x 20 x 20 to 0 x 20 x 0 voxels, so nothing is left",
        "metre_0000.nii.gz: its voxels of 1000 x 1000 x 1000 mm",
    ):
        assert text in message
    targets = [tmp_path / "out" / f"{case}.nii.gz" for case in TEST_CASES]
    assert [path for path in sorted((tmp_path / "out").iterdir()) if path.suffix == ".gz"] == targets
    assert result.stdout.split() == [str(path) for path in (*targets, tmp_path / "v.csv")]
    assert sorted(set(pd.read_csv(tmp_path / "v.csv")["case"])) == sorted(TEST_CASES)
    alone = predict(trained.images, tmp_path / "alone", [trained.model(UNET)], _quick())
    for one, other in zip(alone, targets, strict=True):
        np.testing.assert_array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (one, other)))


def test_nothing_is_written_if_every_scan_fails(trained: TinyDataset, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(FailedScans, match=r"fine_0000\.nii\.gz: its voxels") as caught:
        predict(scans / "fine_0000.nii.gz", tmp_path / "out", [trained.model(UNET)], _quick())
    assert "scans failed" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_others_are_explained(trained: TinyDataset, scans: Path, tmp_path: Path) -> None:
    for case in TEST_CASES:
        write_image(tiny_case(100)[1], tmp_path / "labels" / f"{case}.nii.gz")
    for name in ("fine", "metre", "a_extreme"):
        (scans / f"{name}_0000.nii.gz").unlink()
    (tmp_path / "labels" / "cut.nii.gz").touch()
    write_image(tiny_case(100)[1][1:], tmp_path / "labels" / f"{TEST_CASES[1]}.nii.gz")
    options = ["--input", str(scans), "--output", str(tmp_path / "out"), "--device", "cpu", "--folds", "0"]
    named = ["--labels", str(tmp_path / "labels"), "--model", str(trained.model(UNET))]
    result = CliRunner().invoke(app, ["explain", *options, *named])
    assert result.exit_code == 1
    message = str(result.exception)
    assert message.startswith("2 of 3 scans failed: ") and message.endswith("; the other 1 are done"), message
    assert f"{TEST_CASES[1]}.nii.gz: shape (22, 26, 19), but" in message
    assert (tmp_path / "out" / f"{TEST_CASES[0]}_prediction.nii.gz").is_file()
    assert pd.read_csv(tmp_path / "out" / "dice.csv")["case"].unique().tolist() == [TEST_CASES[0]]


def _quick() -> PredictOptions:
    return PredictOptions(device="cpu", use_mirroring=False, backend="torch")
