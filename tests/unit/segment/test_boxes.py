"""Boxes: where they lie, which way they run, and the way back to the scan's grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from head_phantom import BALLS_MM, RADIUS_MM, balls, save

from hippo_nnunet.segment.boxes import (
    OFFSET_MM,
    PITCH_DEGREES,
    PLACES_MM,
    Box,
    mirrored,
    registered_boxes,
    sample,
    to_scan,
)
from hippo_nnunet.segment.registration import Registration, rotation_matrix
from hippo_nnunet.segment.scan import Scan, read_scan

TURN = rotation_matrix(15.0, -8.0, 10.0)


def frame(point: np.ndarray, scan: Scan) -> np.ndarray:
    """World coordinates to the scan's frame."""
    origin = (scan.affine @ [*((np.array(scan.stored_shape) - 1) / 2), 1.0])[:3]
    return point - origin


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_ramp_is_sampled_exactly(axis: int, side: str, tmp_path: Path) -> None:
    image = balls((2.0, 1.5, 2.5), rotation_matrix(5.0, 10.0, -20.0))
    world = np.indices(image.shape).reshape(3, -1).T @ image.affine[:3, :3].T + image.affine[:3, 3]
    ramp = nib.Nifti1Image(world[:, axis].reshape(image.shape).astype(np.float32), image.affine)
    scan = read_scan(save(ramp, tmp_path / "ramp.nii"))
    box = Box(frame(np.array([2.0, -20.0, -8.0]), scan), mirrored(TURN, side))
    sampled, inside = sample(scan, box)
    steps = np.indices(box.size).reshape(3, -1).T - (np.array(box.size) - 1) / 2
    expected = np.array([2.0, -20.0, -8.0]) + steps @ box.axes.T
    np.testing.assert_allclose(sampled.ravel(), expected[:, axis], atol=0.02)
    assert inside == 1


def test_axes_of_both_sides_run_from_lateral_to_medial() -> None:
    found = Registration(np.diag([0.9, 0.95, 0.85, 1.0]), 0.9, 0.6, 1.0)
    left, right = registered_boxes(found).values()
    np.testing.assert_allclose(left.axes[:, 0], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(right.axes[:, 0], [-1, 0, 0], atol=1e-9)
    assert left.axes[2, 1] == pytest.approx(np.sin(np.radians(PITCH_DEGREES)))  # it falls to the front
    np.testing.assert_allclose(left.middle, PLACES_MM["left"] * [0.9, 0.95, 0.85])
    np.testing.assert_allclose(np.abs(np.linalg.det(left.axes)), 1)  # nothing is scaled


def test_the_second_box_has_the_mask_where_training_images_have_theirs() -> None:
    box = Box(np.array([10.0, -5.0, 3.0]), mirrored(TURN, "right"))
    mask = np.zeros(box.size, bool)
    mask[4:21, 11:40, 9:30] = True
    moved = box.around(mask)
    middle = (np.array([4, 11, 9]) + np.array([20, 39, 29])) / 2
    place = box.to_frame[:3, :3] @ middle + box.to_frame[:3, 3]
    again = np.linalg.inv(moved.to_frame) @ [*place, 1.0]
    np.testing.assert_allclose(again[:3], (np.array(box.size) - 1) / 2 - OFFSET_MM, atol=1e-9)


@pytest.mark.parametrize("edges", [(0.7, 0.7, 0.7), (1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_ball_comes_back_where_it_was(edges: tuple[float, float, float], side: str, tmp_path: Path) -> None:
    scan = read_scan(save(balls(edges, rotation_matrix(4.0, -9.0, 6.0)), tmp_path / "scan.nii"))
    middle = frame(BALLS_MM[side], scan)
    box = Box(middle + np.array([1.0, -2.0, 1.5]), mirrored(TURN, side))
    places = np.indices(box.size).reshape(3, -1).T @ box.to_frame[:3, :3].T + box.to_frame[:3, 3]
    inside = (np.linalg.norm(places - middle, axis=1) <= RADIUS_MM).reshape(box.size).astype(np.float32)
    part, back = to_scan(np.stack([1 - inside, inside]), box, scan)
    labels = np.zeros(scan.image.shape, bool)
    labels[part] = back.argmax(axis=0) == 1
    found = np.argwhere(labels) @ scan.to_frame[:3, :3].T + scan.to_frame[:3, 3]
    np.testing.assert_allclose(found.mean(axis=0), middle, atol=0.15)
    volume = 4 / 3 * np.pi * RADIUS_MM**3
    assert labels.sum() * scan.voxel_mm3 == pytest.approx(volume, rel=0.03)
    np.testing.assert_allclose(back.sum(axis=0), 1, atol=1e-5)


def test_a_box_outside_of_the_field_of_view(tmp_path: Path) -> None:
    scan = read_scan(save(balls((3.0, 3.0, 3.0)), tmp_path / "scan.nii"))
    half = Box(np.array([0.0, 0.0, 55.0]), np.eye(3))
    image, inside = sample(scan, half)
    assert inside == pytest.approx(0.5, abs=0.05)
    assert np.isfinite(image).all()
    far = Box(np.array([500.0, 0.0, 0.0]), np.eye(3))
    assert sample(scan, far)[1] == 0
    part, back = to_scan(np.ones((3, *far.size), np.float32), far, scan)
    assert scan.image[part].size == 0
    assert back.size == 0


def test_fine_voxels_are_smoothed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = nib.Nifti1Image(rng.normal(size=(120, 120, 120)).astype(np.float32), np.diag([0.5, 0.5, 0.5, 1]))
    scan = read_scan(save(noise, tmp_path / "noise.nii"))
    sampled, _ = sample(scan, Box(np.zeros(3), np.eye(3)))
    assert sampled.std() < 0.5  # a voxel of 1 mm holds eight of these
