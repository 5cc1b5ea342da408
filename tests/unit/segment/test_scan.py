"""A scan is the same whatever way it is stored, and what cannot be read is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from head_phantom import ORDERS, balls, save

from hippo_nnunet.errors import DataError
from hippo_nnunet.segment.registration import rotation_matrix
from hippo_nnunet.segment.scan import read_scan


@pytest.fixture(scope="module")
def oblique() -> nib.Nifti1Image:
    return balls((3.0, 4.0, 5.0), rotation_matrix(12.0, -7.0, 20.0))


def test_every_axis_order_gives_the_same_scan(oblique: nib.Nifti1Image, tmp_path: Path) -> None:
    expected = read_scan(save(oblique, tmp_path / "ras.nii"))
    np.testing.assert_array_equal(expected.image, oblique.get_fdata(dtype=np.float32))
    for number, order in enumerate(ORDERS):
        stored = oblique.as_reoriented(order)
        scan = read_scan(save(stored, tmp_path / f"{number}.nii"))
        np.testing.assert_array_equal(scan.image, expected.image)
        np.testing.assert_array_equal(scan.matrix, expected.matrix)
        np.testing.assert_array_equal(scan.as_stored(scan.image), np.asarray(stored.dataobj))


def test_the_frame_is_the_world_around_the_middle(oblique: nib.Nifti1Image, tmp_path: Path) -> None:
    scan = read_scan(save(oblique, tmp_path / "scan.nii"))
    voxel = np.array([3.0, 20.0, 11.0, 1.0])
    middle = [*((np.array(oblique.shape) - 1) / 2), 1.0]
    world = oblique.affine @ voxel - oblique.affine @ middle
    np.testing.assert_allclose((scan.to_frame @ voxel)[:3], world[:3], atol=1e-3)
    assert scan.spacing_mm == pytest.approx((3, 4, 5), abs=1e-4)
    assert scan.voxel_mm3 == pytest.approx(60, abs=1e-2)


def test_qform_and_sform_that_disagree_are_named(tmp_path: Path) -> None:
    image = balls((4.0, 4.0, 4.0))
    image.set_sform(image.affine, 2)
    flipped = image.affine.copy()
    flipped[:3, 0] *= -1
    flipped[0, 3] *= -1
    image.set_qform(flipped, 1)
    nib.save(image, tmp_path / "two.nii.gz")
    (note,) = read_scan(tmp_path / "two.nii.gz").notes
    assert "sform (RAS, code 2)" in note
    assert "qform (LAS, code 1)" in note
    assert "the sform is used" in note


def test_a_scaled_sform_is_not_used(tmp_path: Path) -> None:
    image = balls((4.0, 4.0, 4.0))
    image.set_sform(np.diag([1.1, 1.1, 1.2, 1.0]) @ image.affine, 4)  # as after a registration to a template
    image.set_qform(balls((4.0, 4.0, 4.0)).affine, 1)
    nib.save(image, tmp_path / "scaled.nii.gz")
    scan = read_scan(tmp_path / "scaled.nii.gz")
    assert scan.voxel_mm3 == pytest.approx(64)
    (note,) = scan.notes
    assert "the qform is used, as the sform has voxels of 4.4 x 4.4 x 4.8 mm, and pixdim 4 x 4 x 4 mm" in note
    image.set_qform(None, 0)
    image.header.set_zooms((4.0, 4.0, 4.0))
    nib.save(image, tmp_path / "two.nii.gz")
    with pytest.raises(DataError, match="two voxel sizes"):
        read_scan(tmp_path / "two.nii.gz")


def test_a_header_without_orientation(tmp_path: Path) -> None:
    image = balls((4.0, 5.0, 6.0))
    image.header.set_sform(None, 0)
    image.header.set_qform(None, 0)
    image = nib.Nifti1Image(image.dataobj, None, image.header)
    image.header.set_zooms((4.0, 5.0, 6.0))
    nib.save(image, tmp_path / "none.nii")
    with pytest.raises(DataError, match=r"no orientation.*--assume-ras"):
        read_scan(tmp_path / "none.nii")
    scan = read_scan(tmp_path / "none.nii", assume_ras=True)
    assert scan.spacing_mm == (4, 5, 6)
    np.testing.assert_array_equal(scan.image, image.get_fdata(dtype=np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda voxels: np.stack([voxels, voxels], -1), "4D image"),
        (lambda voxels: voxels[..., 0], "2D image"),
        (np.zeros_like, "every voxel is 0"),
        (lambda voxels: np.where(voxels > 500, np.nan, voxels), "NaN or infinite"),
        (lambda voxels: voxels.astype(np.complex64), "expected real numbers"),
    ],
)
def test_what_is_no_scan_is_refused(change, message: str, tmp_path: Path) -> None:
    image = balls((4.0, 4.0, 4.0))
    changed = nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine)
    nib.save(changed, tmp_path / "bad.nii.gz")
    with pytest.raises(DataError, match=message):
        read_scan(tmp_path / "bad.nii.gz")


def test_a_fourth_axis_of_one_is_no_matter(tmp_path: Path) -> None:
    image = balls((4.0, 4.0, 4.0))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine), tmp_path / "one.nii.gz")
    np.testing.assert_array_equal(read_scan(tmp_path / "one.nii.gz").image, np.asarray(image.dataobj))


@pytest.mark.parametrize("edge", [0.004, 12.0])
def test_an_impossible_voxel_size_is_refused(edge: float, tmp_path: Path) -> None:
    image = balls((4.0, 4.0, 4.0))
    with pytest.raises(DataError, match=r"expected edges of 0\.2 to 6 mm"):
        read_scan(save(nib.Nifti1Image(image.dataobj, np.diag([edge, 4, 4, 1])), tmp_path / "size.nii"))
