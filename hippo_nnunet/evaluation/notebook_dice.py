"""The score of the published Task04_Hippocampus notebooks, for comparison with the Dice per volume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hippo_nnunet.data.nifti import read_volume
from hippo_nnunet.errors import DataError

EDGE = 64
"""Voxels along each axis of the padded volume."""
BATCH = 16
"""Consecutive slices of a batch; EDGE is a multiple, so that no batch spans two volumes."""


def notebook_dice(prediction: np.ndarray, reference: np.ndarray, n_classes: int = 3) -> float:
    """Score the segmentation of one case as the notebooks did.

    The volume is padded with background to 64x64x64 and cut into 64 slices along its first axis. Dice is taken over all
    pixels of 16 consecutive slices at once, for background and each label; a class absent from both counts 1. The
    classes are averaged with equal weight, then the batches. Background (about 0.99) and slices without any label (1.0)
    lift it: it cannot be compared with a Dice per volume. Every volume has as many batches, so the score of many cases
    is the mean of theirs.

    Args:
        prediction: Integers of shape (z, y, x), 0 to `n_classes - 1`. Cut along z, as here, masks with a volume Dice of
            0.875 have 0.926, next to the notebooks' 0.922 and 0.860; along x they would have 0.950.
        reference: Likewise.
        n_classes: Background and labels.

    Returns:
        The score, 0 to 1.

    Raises:
        DataError: Shapes differ, are not 3D or larger than 64.

    Source:
        The notebooks' protocol. They do not document their padding; here the volume is centred.
    """
    if prediction.shape != reference.shape or prediction.ndim != 3 or max(prediction.shape) > EDGE:
        raise DataError(
            f"notebook_dice: got a prediction of shape {prediction.shape} and a reference of {reference.shape}, "
            f"expected the same 3D shape, {EDGE} voxels along an axis at most: leave this score out"
        )
    sides = [((EDGE - n) // 2, (EDGE - n + 1) // 2) for n in prediction.shape]
    one, other = (np.pad(volume, sides).reshape(EDGE // BATCH, -1) for volume in (prediction, reference))
    scores = []
    for value in range(n_classes):
        p, r = one == value, other == value
        total = p.sum(axis=1) + r.sum(axis=1)
        scores.append(np.where(total == 0, 1.0, 2 * (p & r).sum(axis=1) / np.maximum(total, 1)))
    return float(np.mean(scores))


def notebook_dice_by_case(
    predictions: Mapping[str, Path], references: Mapping[str, Path], n_classes: int = 3
) -> dict[str, float]:
    """Score label images that SimpleITK reads, cut along z, one score per case.

    Args:
        predictions: Case to file.
        references: Case to file; additional cases are ignored.
        n_classes: See `notebook_dice`.

    Raises:
        DataError: A file is missing or unreadable, or `notebook_dice` refuses it.
    """
    scores = {}
    for case, path in predictions.items():
        scores[case] = notebook_dice(read_volume(path).array, read_volume(references[case]).array, n_classes)
    return scores
