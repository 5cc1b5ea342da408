"""Volume, pieces, shape and doubt of one segmentation, one row per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import ndimage

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.metrics import Label, mask_dice

MEASURES = ("volume_mm3", "components", "elongation", "border", "doubt", "disagreement")


@dataclass(frozen=True)
class Segmentation:
    """One segmented case, and what it was made from where that is known.

    Attributes:
        case: Its name.
        array: Integer array of shape (d, h, w) or (h, w).
        spacing_mm: Voxel size along each axis, in the order of the array's axes.
        probabilities: Averaged over the models, shape (c, *array.shape).
        unprocessed: The segmentation before postprocessing, which may have removed pieces; the array's shape.
        of_models: The segmentation of each model of an ensemble by itself, before postprocessing; the array's shape.
        regions: Whether the probabilities are a sigmoid for each region instead of a softmax over the labels.
        image_flags: What is suspicious about the image itself: see `known_images.FLAGS`.
        images: Files of the image's channels.
        written: File of the segmentation.
    """

    case: str
    array: np.ndarray
    spacing_mm: Sequence[float]
    probabilities: np.ndarray | None = field(default=None, repr=False)
    unprocessed: np.ndarray | None = field(default=None, repr=False)
    of_models: Sequence[np.ndarray] = field(default=(), repr=False)
    regions: bool = False
    image_flags: Sequence[str] = ()
    images: Sequence[Path] = ()
    written: Path | None = None


def measure_labels(segmentation: Segmentation, labels: Mapping[str, Label]) -> list[dict[str, str | float]]:
    """Measure every label of a segmentation.

    Args:
        segmentation: The segmented case.
        labels: Name of each foreground label, and its value or, for a region, its values.

    Returns:
        One dict per label, in the order of `labels`: `case`, `label` and
        `volume_mm3`;
        `components`, pieces that touch at no face, edge or corner, counted before postprocessing;
        `elongation`, standard deviation of the voxels' positions along the longest axis of the label over the cube
        root of its volume: 0.28 for a ball (NaN below 4 voxels);
        `border`, whether the label touches the image's border;
        `doubt`, 1 minus the largest probability, averaged over the voxels of all labels: models that disagree, or
        that are unsure alike; with regions min(p, 1 - p) of the least certain one (NaN without probabilities, or
        without a labelled voxel);
        `disagreement`, 1 minus the Dice of every two models' masks, averaged; 0 where all are empty (NaN with fewer
        than two models).

    Raises:
        DataError: Spacing, probabilities or a model's segmentation do not fit the segmentation.
    """
    array, probabilities = segmentation.array, segmentation.probabilities
    spacing = np.asarray(segmentation.spacing_mm, dtype=float)
    if len(spacing) != array.ndim or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise DataError(
            f"case {segmentation.case}: a segmentation of shape {array.shape} cannot have the spacing "
            f"{tuple(map(float, spacing))} mm"
        )
    unprocessed = array if segmentation.unprocessed is None else segmentation.unprocessed
    beside = [m.shape for m in (unprocessed, *segmentation.of_models)]
    beside += [] if probabilities is None else [probabilities.shape[1:]]
    if any(shape != array.shape for shape in beside):
        raise DataError(
            f"case {segmentation.case}: got probabilities or masks of shape "
            f"{next(s for s in beside if s != array.shape)} for a segmentation of shape {array.shape}: give those that "
            "it was made from"
        )
    doubt = _doubt(segmentation)
    rows: list[dict[str, str | float]] = []
    for name, label in labels.items():
        mask = np.isin(array, label)
        volume = float(mask.sum() * np.prod(spacing))
        rows.append(
            {
                "case": segmentation.case,
                "label": name,
                "volume_mm3": volume,
                "components": _components(np.isin(unprocessed, label)),
                "elongation": _elongation(mask, spacing, volume),
                "border": _touches_border(mask),
                "doubt": doubt,
                "disagreement": _disagreement([np.isin(of_model, label) for of_model in segmentation.of_models]),
            }
        )
    return rows


def _components(mask: np.ndarray) -> int:
    return int(ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim))[1])


def _elongation(mask: np.ndarray, spacing: np.ndarray, volume: float) -> float:
    positions = np.argwhere(mask) * spacing
    if len(positions) < 4:
        return np.nan
    variance = np.linalg.eigvalsh(np.cov(positions.T))[-1]
    return float(np.sqrt(variance) / volume ** (1 / mask.ndim))


def _touches_border(mask: np.ndarray) -> bool:
    """Tell whether the outermost slices hold a voxel; an axis of one voxel has no border."""
    axes = [axis for axis, size in enumerate(mask.shape) if size > 1]
    return any(bool(np.take(mask, end, axis).any()) for axis in axes for end in (0, -1))


def _doubt(segmentation: Segmentation) -> float:
    foreground = segmentation.array > 0
    if segmentation.probabilities is None or not foreground.any():
        return np.nan
    p = segmentation.probabilities[:, foreground]
    doubt = np.minimum(p, 1 - p).max(axis=0) if segmentation.regions else 1 - p.max(axis=0)
    return float(doubt.mean())


def _disagreement(masks: Sequence[np.ndarray]) -> float:
    if len(masks) < 2:
        return np.nan
    dice = [mask_dice(one, other) for one, other in combinations(masks, 2)]
    return float(1 - np.nan_to_num(dice, nan=1.0).mean())
