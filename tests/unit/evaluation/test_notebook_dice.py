"""The notebooks' score, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.notebook_dice import notebook_dice, notebook_dice_by_case

N = 16 * 64 * 64  # pixels of a batch


def full(*voxels: tuple[int, int, int, int]) -> np.ndarray:
    volume = np.zeros((64, 64, 64), dtype=np.uint8)
    for z, y, x, value in voxels:
        volume[z, y, x] = value
    return volume


def test_a_missed_voxel() -> None:
    """One batch of four misses its only voxel: background 2(N-1) / (2N-1), anterior 0, posterior absent: 1."""
    batch = (2 * (N - 1) / (2 * N - 1) + 0 + 1) / 3
    assert notebook_dice(full(), full((3, 5, 5, 1))) == pytest.approx((batch + 3) / 4)


def test_one_of_two_voxels_in_the_second_batch() -> None:
    reference = full((16, 0, 0, 1), (31, 0, 0, 1), (20, 9, 9, 2))
    prediction = full((16, 0, 0, 1), (20, 9, 9, 2))
    batch = (2 * (N - 3) / (N - 3 + N - 2) + 2 / 3 + 1) / 3
    assert notebook_dice(prediction, reference) == pytest.approx((batch + 3) / 4)


def test_padding_is_background_around_the_middle() -> None:
    """Slices 31 and 32 of the padded volume lie in two batches; a wrong one spoils its own batch alone."""
    reference = np.ones((2, 2, 2), dtype=np.uint8)
    prediction = reference.copy()
    prediction[0] = 2
    batch = (1 + 0 + 0) / 3
    assert notebook_dice(prediction, reference) == pytest.approx((batch + 3) / 4)
    prediction = np.where(np.arange(2) == 0, 2, 1) * np.ones((2, 2, 1))  # wrong in half of both slices
    batch = (1 + 2 * 2 / (2 + 4) + 0) / 3
    assert notebook_dice(prediction, reference) == pytest.approx((2 * batch + 2) / 4)


def test_it_flatters_and_it_can_rank_the_other_way() -> None:
    """What the notebooks' 0.92 hides: a mask that misses half scores high, and the worse mask can score higher."""
    reference = np.zeros((40, 40, 40), dtype=np.uint8)
    reference[14:26, 10:20, 10:30] = 1
    thin = reference.copy()
    thin[:, :, 20:] = 0  # half of it: Dice 0.667
    assert notebook_dice(thin, reference, n_classes=2) > 0.8
    short = np.zeros_like(reference)
    short[14:20, 10:20, 10:28] = 1  # the half in the other batch is missed: Dice 0.62
    speck = reference.copy()
    speck[:, 10:20, 10:18] = 0
    speck[0, 0, 0] = 1  # Dice 0.75, and a speck in a batch that was empty
    dice = [2 * np.sum(m & reference) / (np.sum(m) + np.sum(reference)) for m in (short, speck)]
    score = [notebook_dice(m, reference, n_classes=2) for m in (short, speck)]
    assert dice[0] < dice[1]
    assert score[0] > score[1]


def test_what_it_refuses() -> None:
    with pytest.raises(DataError, match="64 voxels along an axis"):
        notebook_dice(np.zeros((65, 2, 2)), np.zeros((65, 2, 2)))
    with pytest.raises(DataError, match=r"shape \(2, 2, 3\)"):
        notebook_dice(np.zeros((2, 2, 3)), np.zeros((2, 2, 2)))


def test_files(tmp_path: Path) -> None:
    arrays = {"a": np.ones((3, 4, 5), np.uint8), "b": np.zeros((3, 4, 5), np.uint8)}
    for name, array in arrays.items():
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / f"{name}.nii.gz"))
    files = {name: tmp_path / f"{name}.nii.gz" for name in arrays}
    scores = notebook_dice_by_case(files, {"a": files["b"], "b": files["b"]})
    assert scores["a"] == notebook_dice(arrays["a"], arrays["b"])
    assert scores["b"] == 1
    with pytest.raises(DataError, match=r"c\.nii\.gz: the file is missing"):
        notebook_dice_by_case({"c": tmp_path / "c.nii.gz"}, files)
    files["a"].write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.nii\.gz: truncated or damaged"):
        notebook_dice_by_case({"a": files["a"]}, files)
