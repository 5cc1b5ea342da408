"""A segmentation that was written in part, as SimpleITK does without a word on a full disk."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.prediction_files import segmentation_file
from hippo_nnunet.segment.outputs import is_full


def test_a_file_that_is_cut_off_does_not_take_the_place_of_a_mask(tmp_path: Path) -> None:
    target = tmp_path / "mask.nii.gz"
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 3, (20, 20, 20), np.uint8), np.eye(4))
    with segmentation_file(target) as path:
        nib.save(image, path)
    whole = target.read_bytes()
    with pytest.raises(DataError, match=r"written in part, as on a full disk.*make room") as raised:  # noqa: SIM117
        with segmentation_file(target) as path:
            path.write_bytes(whole[:1024])
    assert is_full(raised.value), "which stops segment"
    assert [file.name for file in tmp_path.iterdir()] == ["mask.nii.gz"]
    assert target.read_bytes() == whole
