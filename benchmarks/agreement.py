"""Agreement of two folders of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet.errors import DataError

CLOSE = 1e-3
"""Probabilities nearer than this count as equal. Source: ours; nnU-Net itself sums in half precision."""


def compare_labels(first: Path, other: Path, ending: str) -> dict[str, Any]:
    """Compare segmentations of the same cases, file by file.

    Args:
        first: Folder of label images.
        other: Folder of label images with the same names.
        ending: File ending, such as `.nii.gz`.

    Returns:
        `cases`; `equal_share`: share of voxels with the same label, over all cases; `worst_case_equal_share`;
        `foreground_share`: share of voxels of `first` that are not background, as empty masks would prove nothing.

    Raises:
        DataError: The folders hold different files or shapes, or none.
    """
    import nibabel

    equal = voxels = foreground = 0
    worst = 1.0
    names = _same_names(first, other, ending)
    for name in names:
        one, two = (np.asanyarray(nibabel.load(folder / name).dataobj) for folder in (first, other))
        if one.shape != two.shape:
            raise DataError(f"{name}: got shape {two.shape} in {other}, but {one.shape} in {first}: predict again")
        same = int((one == two).sum())
        equal, voxels, foreground = equal + same, voxels + one.size, foreground + int((one != 0).sum())
        worst = min(worst, same / one.size)
    return {
        "cases": len(names),
        "equal_share": equal / voxels,
        "worst_case_equal_share": worst,
        "foreground_share": foreground / voxels,
    }


def compare_probabilities(first: Path, other: Path) -> dict[str, float]:
    """Compare the probabilities (`<case>.npz`, nnU-Net's form) of the same cases.

    Returns:
        `largest_difference`, from 0 to 1, and `close_share`: share of values that differ by less than CLOSE.

    Raises:
        DataError: The folders hold different files or shapes, or none.
    """
    largest, close, values = 0.0, 0, 0
    for name in _same_names(first, other, ".npz"):
        with np.load(first / name) as one, np.load(other / name) as two:
            a, b = one["probabilities"], two["probabilities"]
        if a.shape != b.shape:
            raise DataError(f"{name}: got shape {b.shape} in {other}, but {a.shape} in {first}: predict again")
        difference = np.abs(a.astype(np.float32) - b)
        largest = max(largest, float(difference.max()))
        close, values = close + int((difference < CLOSE).sum()), values + difference.size
    return {"largest_difference": largest, "close_share": close / values}


def _same_names(first: Path, other: Path, ending: str) -> list[str]:
    found = [sorted(p.name for p in folder.glob(f"[!.]*{ending}")) for folder in (first, other)]
    if found[0] != found[1] or not found[0]:
        raise DataError(
            f"{first} and {other} hold {len(found[0])} and {len(found[1])} files *{ending}, and not the same ones: "
            "predict the same images with both"
        )
    return found[0]
