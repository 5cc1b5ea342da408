"""`segment` on the real crops: the masks of `predict`, with the packaged model."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app

pytestmark = pytest.mark.real


def test_crops_get_the_masks_of_predict(task04: Path, tmp_path: Path) -> None:
    images = task04 / "imagesTs"
    names = [path.name.removesuffix(".nii.gz") for path in sorted(images.glob("[!.]*.nii.gz"))]
    assert len(names) == 40
    for command in (
        ["predict", "--input", images, "--output", tmp_path / "predict"],
        ["segment", images, "--output", tmp_path / "segment", "--no-qc"],
    ):
        done = CliRunner().invoke(app, [str(word) for word in command])
        assert done.exit_code == 0, done.output
    for name in names:
        one = nib.load(tmp_path / "predict" / f"{name}.nii.gz")
        other = nib.load(tmp_path / "segment" / f"{name}_desc-hippocampus_dseg.nii.gz")
        np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
        np.testing.assert_array_equal(one.affine, other.affine)
