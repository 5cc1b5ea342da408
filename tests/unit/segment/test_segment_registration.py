"""Registration: heads made from the template are found again, and what is no T1 of a head is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from head_phantom import save
from scipy import ndimage

from hippo_nnunet.errors import DataError
from hippo_nnunet.segment.boxes import PLACES_MM
from hippo_nnunet.segment.checks import check_box, check_registration, registration_flags
from hippo_nnunet.segment.registration import Registration, register, rotation_matrix
from hippo_nnunet.segment.scan import Scan, read_scan
from hippo_nnunet.segment.template import BRAIN, coarse_template, load_template


def head(matrix: np.ndarray, folder: Path, change=lambda voxels: voxels) -> Scan:
    """A scan of 3 mm voxels in which MNI coordinates lie as a matrix (MNI to frame) says."""
    template = load_template()
    shape = (72, 80, 70)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -3 * (np.array(shape) - 1) / 2
    to_index = np.linalg.inv(matrix @ template.affine) @ affine
    brain = np.where(template.image >= BRAIN, template.image, 0)
    voxels = ndimage.affine_transform(brain, to_index[:3, :3], to_index[:3, 3], shape, order=1)
    noise = np.random.default_rng(0).normal(scale=4, size=shape)
    return read_scan(save(nib.Nifti1Image(change(voxels + noise).astype(np.float32), affine), folder / "head.nii"))


def matrix(angles: tuple[float, float, float], scales: tuple[float, float, float], shift: list[float]) -> np.ndarray:
    made = np.eye(4)
    made[:3, :3] = rotation_matrix(*angles) * scales
    made[:3, 3] = shift
    return made


@pytest.mark.parametrize(
    ("angles", "scales", "shift"),
    [
        ((24.0, 3.0, -8.0), (0.9, 0.95, 0.85), [20.0, -12.0, 18.0]),
        ((-9.0, -20.0, 22.0), (1.0, 1.0, 1.0), [-30.0, 5, 0]),
    ],
)
def test_a_turned_head_is_found(angles, scales, shift, tmp_path: Path) -> None:
    expected = matrix(angles, scales, shift)
    found = register(head(expected, tmp_path))
    check_registration(found, "head")
    assert not registration_flags(found)
    for place in PLACES_MM.values():
        point = [*place, 1.0]
        assert np.linalg.norm((found.matrix @ point - expected @ point)[:3]) < 1.5
    np.testing.assert_allclose(found.rotation, rotation_matrix(*angles), atol=0.02)
    np.testing.assert_allclose(sorted(found.scales), sorted(scales), atol=0.02)


def test_an_inverted_contrast_is_refused(tmp_path: Path) -> None:
    scan = head(np.diag([0.93, 0.95, 0.9, 1.0]), tmp_path, lambda v: np.where(v > 20, 260 - np.minimum(v, 255), 0))
    with pytest.raises(DataError, match=r"no brain of a human head in a T1 was found.*--roi MASK"):
        check_registration(register(scan), "head")


def test_noise_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    scan = head(np.eye(4), tmp_path, lambda voxels: rng.normal(100, 20, voxels.shape))
    with pytest.raises(DataError, match="no brain of a human head in a T1 was found"):
        check_registration(register(scan), "noise")


GOOD = Registration(np.diag([0.9, 0.95, 0.88, 1.0]), 0.8, 0.6, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"similarity": 0.3}, "similarity with a T1 of a brain 0.30"),
        ({"contrast": 0.1}, "contrast within the brain like a T1's 0.10"),
        ({"matrix": np.diag([0.4, 0.45, 0.4, 1.0])}, "size 0.40 x 0.40 x 0.45"),
        ({"matrix": np.diag([0.9, 0.9, 1.6, 1.0])}, "size 0.90 x 0.90 x 1.60"),
        ({"matrix": matrix((80.0, 0.0, 0.0), (0.9, 0.9, 0.9), [0, 0, 0])}, "turned by 80 degrees"),
        ({"inside": 0.4}, "40% of the brain"),
    ],
)
def test_what_is_outside_of_humans_is_refused(changes, message: str) -> None:
    check_registration(GOOD, "scan")
    with pytest.raises(DataError, match=message):
        check_registration(replace(GOOD, **changes), "scan")


def test_doubtful_registrations_are_flagged() -> None:
    assert not registration_flags(GOOD)
    (flag,) = registration_flags(replace(GOOD, similarity=0.55))
    assert "similarity 0.55" in flag
    (flag,) = registration_flags(replace(GOOD, contrast=0.35))
    assert "contrast within the brain 0.35" in flag
    (flag,) = registration_flags(replace(GOOD, inside=0.8))
    assert "20% of the brain" in flag


def test_a_box_outside_is_refused() -> None:
    check_box(0.95, "left", "scan")
    with pytest.raises(DataError, match="only 50% of the box around the left hippocampus"):
        check_box(0.5, "left", "scan")


def test_resolutions_of_the_template_agree() -> None:
    fine, coarse = load_template(), coarse_template(4)
    assert fine.affine[0, 0] == 2
    assert coarse.affine[0, 0] == 8
    np.testing.assert_allclose(fine.points_mm().mean(axis=0), coarse.points_mm().mean(axis=0), atol=1)
    assert fine.image[fine.mask].mean() == pytest.approx(coarse.image[coarse.mask].mean(), rel=0.05)
