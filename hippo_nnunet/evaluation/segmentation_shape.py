"""Volume, pieces, shape and doubt of one segmentation, one row per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.metrics import Label

MEASURES = ("volume_mm3", "components", "elongation", "doubt")


def measure_labels(
    segmentation: np.ndarray,
    spacing_mm: Sequence[float],
    labels: Mapping[str, Label],
    probabilities: np.ndarray | None = None,
) -> list[dict[str, str | float]]:
    """Measure every label of a segmentation.

    Args:
        segmentation: Integer array of shape (d, h, w) or (h, w).
        spacing_mm: Voxel size along each axis, in the order of the array's axes.
        labels: Name of each foreground label, and its value or, for a region, its values.
        probabilities: Averaged over the members of an ensemble, shape (c, *segmentation.shape), softmax or sigmoid.

    Returns:
        One dict per label, in the order of `labels`: `label` and
        `volume_mm3`;
        `components`, pieces that touch at no face, edge or corner;
        `elongation`, standard deviation of the voxels' positions along the longest axis of the label over the cube
        root of its volume: 0.28 for a ball (NaN below 4 voxels);
        `doubt`, 1 minus the largest probability, averaged over the voxels of all labels: members that disagree, or
        that are unsure alike (NaN without probabilities, or without a labelled voxel).

    Raises:
        DataError: Spacing or probabilities do not fit the segmentation.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    if len(spacing) != segmentation.ndim or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise DataError(f"a segmentation of shape {segmentation.shape} cannot have the spacing {tuple(spacing)} mm")
    if probabilities is not None and probabilities.shape[1:] != segmentation.shape:
        raise DataError(
            f"got probabilities of shape {probabilities.shape} for a segmentation of shape {segmentation.shape}: "
            "give those that it was made from"
        )
    foreground = segmentation > 0
    doubt = np.nan
    if probabilities is not None and foreground.any():
        doubt = float(1 - probabilities.max(axis=0)[foreground].mean())
    rows: list[dict[str, str | float]] = []
    for name, label in labels.items():
        mask = np.isin(segmentation, np.atleast_1d(np.asarray(label)))
        pieces = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim))[1]
        volume = float(mask.sum() * np.prod(spacing))
        shape = {"volume_mm3": volume, "components": int(pieces), "elongation": _elongation(mask, spacing, volume)}
        rows.append({"label": name, **shape, "doubt": doubt})
    return rows


def _elongation(mask: np.ndarray, spacing: np.ndarray, volume: float) -> float:
    positions = np.argwhere(mask) * spacing
    if len(positions) < 4:
        return np.nan
    variance = np.linalg.eigvalsh(np.cov(positions.T))[-1]
    return float(np.sqrt(variance) / volume ** (1 / mask.ndim))
