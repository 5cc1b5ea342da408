"""Slices reach the encoder in the radiological convention, whatever order of voxels a file has."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from hippo_nnunet.clip.orientation import axis_directions, slice_view
from hippo_nnunet.networks.guidance import SliceView

READERS = (SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient)
# x to the right, y to the front, z up: a voxel's value is 100 x + 10 y + z
HEAD = np.fromfunction(lambda x, y, z: 100 * x + 10 * y + z, (4, 3, 2)).astype(np.float32)


def stored_as(codes: str, path: Path) -> Path:
    """Write HEAD in another order of voxels, with the affine that says so."""
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    affine = np.diag([1.0, 2.0, 3.0, 1.0]) @ inv_ornt_aff(change, HEAD.shape)
    nib.save(nib.Nifti1Image(nib.apply_orientation(HEAD, change), affine), path)
    return path


def shown(image: np.ndarray, properties: dict[str, Any], transpose: tuple[int, ...], across: str) -> np.ndarray:
    """Show the middle of the slices across a direction (or its opposite), as the guidance cache does."""
    image = image[0].transpose(transpose)
    directions = axis_directions(properties, transpose)
    axis = next(number for number, letter in enumerate(directions) if letter in across)
    ascending = image if directions[axis] == across[0] else np.flip(image, axis)
    return slice_view(directions, axis).show(torch.from_numpy(ascending.take(1, axis).copy())).numpy()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_any_file_is_shown_alike(reader: type, transpose: tuple[int, ...], tmp_path: Path) -> None:
    orders = ["RAS", "LPS", "LAS", "SRP", "ASL", "PIR"]
    for codes in orders:
        image, properties = reader().read_images([str(stored_as(codes, tmp_path / f"{codes}.nii.gz"))])
        # rows from the front, columns from the patient's right
        assert np.array_equal(shown(image, properties, transpose, "SI"), HEAD[::-1, ::-1, 1].T), codes
        assert np.array_equal(shown(image, properties, transpose, "AP"), HEAD[::-1, 1, ::-1].T), codes
        assert np.array_equal(shown(image, properties, transpose, "RL"), HEAD[1, ::-1, ::-1].T), codes


def test_task04s_slices_are_turned_upright() -> None:
    """All its files are RAS, so that a stored axial slice has the back of the head on top."""
    properties = {"sitk_stuff": {"direction": (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)}}
    assert axis_directions(properties, (0, 1, 2)) == "SAR"
    assert slice_view("SAR", 0) == SliceView(False, True, True)


def test_every_view_can_be_undone() -> None:
    piece = torch.arange(12).view(1, 3, 4)
    for order in permutations(("RL", "AP", "SI")):
        for directions in product(*order):
            view = slice_view("".join(directions), 0)
            assert torch.equal(view.restore(view.show(piece)), piece)


def test_an_oblique_scan_is_shown_by_its_nearest_axes() -> None:
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.25).GetMatrix()
    direction = np.array(turn).reshape(3, 3) @ np.diag([1.0, 1.0, -1.0])
    assert axis_directions({"sitk_stuff": {"direction": tuple(direction.ravel())}}, (0, 1, 2)) == "IPL"


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"spacing": (999, 1, 1)},  # PNG
        {"sitk_stuff": {"direction": (1.0, 0.0, 0.0, 1.0)}},  # a 2D image
        {"sitk_stuff": {"direction": (0.0,) * 9}},
        {"nibabel_stuff": {"original_affine": np.full((4, 4), np.nan)}},
    ],
)
def test_without_an_orientation_slices_stay_as_they_are(properties: dict[str, Any]) -> None:
    assert axis_directions(properties, (0, 1, 2)) == ""
    piece = torch.arange(6).view(2, 3)
    assert torch.equal(slice_view("", 0).show(piece), piece)


def test_a_time_series_has_the_orientation_of_its_volumes() -> None:
    direction = np.eye(4)
    direction[:3, :3] = np.diag([-1, -1, 1])
    assert axis_directions({"sitk_stuff": {"direction": tuple(direction.ravel())}}, (0, 1, 2)) == "SAR"
