"""`segment` on crops: the masks of `predict_onnx`, with the packaged model."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from head_phantom import save
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.data.phantom import make_case
from hippo_nnunet.inference.onnx_predict import predict_onnx
from hippo_nnunet.models.packaged import open_packaged

pytestmark = pytest.mark.slow


def test_crops_get_the_masks_of_predict(tmp_path: Path) -> None:
    """On the grid of the training images, and on an anisotropic and oblique one."""
    crop = make_case(np.random.default_rng(0)).image
    turn, _ = np.linalg.qr([[1, 0.2, 0], [-0.2, 1, 0.1], [0.05, -0.1, 1]])
    oblique = np.eye(4)
    oblique[:3, :3] = turn * np.sign(np.diag(turn)) * [1.2, 0.9, 1.1]
    scans, grids = tmp_path / "scans", {"usual": np.eye(4), "oblique": oblique}
    for name, affine in grids.items():
        save(nib.Nifti1Image(crop, affine), scans / f"{name}.nii.gz")
    words = ["segment", scans, "--kind", "crop", "--output", tmp_path / "segment", "--no-qc"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output + repr(done.exception)
    predict_onnx(scans, tmp_path / "predict", [open_packaged().path])
    for name in grids:
        ours = nib.load(tmp_path / "segment" / f"{name}_desc-hippocampus_dseg.nii.gz")
        expected = nib.load(tmp_path / "predict" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(expected.dataobj))
        np.testing.assert_array_equal(ours.affine, expected.affine)
        assert set(np.unique(ours.dataobj)) == {0, 1, 2}, "an empty mask proves nothing"
