"""`predict --volumes`: the volumes are those of the masks, calibrated by the models' own out-of-fold predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
from tiny_dataset import ATTENTION, TEST_CASES, UNET, TinyDataset
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.inference.predict import PredictOptions, predict

LABELS = ("anterior", "posterior")


def test_an_ensemble_with_its_calibration(trained: TinyDataset, experiment: Path, tmp_path: Path) -> None:
    models = [
        experiment / "nnunet" / "nnUNet_results" / trained.name / f"{t}__CompactPlans__2d" for t in (UNET, ATTENTION)
    ]
    options = ["--input", str(trained.images), "--output", str(tmp_path / "out"), "--device", "cpu", "--no-mirroring"]
    options += ["--volumes", str(tmp_path / "volumes.csv"), "--coverage", "0.5", "--root", str(experiment / "nnunet")]
    named = [text for model in models for text in ("--model", str(model))]
    result = CliRunner().invoke(app, ["predict", *options, *named, "--calibration", str(experiment)])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(tmp_path / "volumes.csv")
    table = pd.read_csv(tmp_path / "volumes.csv").set_index(["case", "label"])
    assert table.index.tolist() == [(case, label) for case in TEST_CASES for label in (*LABELS, "total")]
    assert table["calibration_cases"].unique().tolist() == [4]
    assert (table["level"] == 0.5).all()
    for model in models:
        predict(trained.images, tmp_path / model.name, [model], PredictOptions(device="cpu", use_mirroring=False))
    for case in TEST_CASES:
        image = sitk.ReadImage(str(tmp_path / "out" / f"{case}.nii.gz"))
        mask, voxel = sitk.GetArrayFromImage(image), float(np.prod(image.GetSpacing()))
        apart = [sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / m.name / f"{case}.nii.gz"))) for m in models]
        for value, label in enumerate(LABELS, start=1):
            row = table.loc[(case, label)]
            assert row["volume_mm3"] == pytest.approx((mask == value).sum() * voxel, rel=1e-4)
            one, other = (segmentation == value for segmentation in apart)
            total = one.sum() + other.sum()
            dice = 2 * (one & other).sum() / total if total else 1
            assert row["disagreement"] == pytest.approx(1 - dice, abs=1e-3)
        assert table.loc[(case, "total"), "volume_mm3"] == pytest.approx((mask > 0).sum() * voxel, rel=1e-4)
    held = table.dropna(subset=["low_mm3"])
    assert len(held) == (table["volume_mm3"] > 0).sum() > 0
    assert (held["low_mm3"] <= held["high_mm3"]).all()


def test_refused_before_anything_is_predicted(trained: TinyDataset, experiment: Path, tmp_path: Path) -> None:
    options = ["--input", str(trained.images), "--output", str(tmp_path / "out"), "--volumes", str(tmp_path / "v.csv")]
    result = CliRunner().invoke(app, ["predict", *options, "--model", str(trained.model(UNET))])
    assert "--calibration EXPERIMENT" in str(result.exception)
    named = ["--model", str(trained.model(UNET)), "--calibration", str(experiment)]
    assert "is no model of" in str(CliRunner().invoke(app, ["predict", *options, *named]).exception)
    ensemble = CliRunner().invoke(app, ["predict", *options, "--experiment", str(experiment)])
    assert "has chosen no ensemble yet" in str(ensemble.exception)
    assert not list(tmp_path.iterdir())
