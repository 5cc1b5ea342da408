"""Overlap, surface and volume metrics of one case, one row per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import surface_distance

from hippo_nnunet.errors import DataError

Label = int | tuple[int, ...]
"""One label value, or the values that together make a region."""

METRICS = ("dice", "nsd_1mm", "hd95_mm", "assd_mm", "volume_ref_mm3", "volume_mm3")
"""The metric columns, in the order of `metrics/per_case.csv`."""


class Quality(NamedTuple):
    """A metric that models are compared by.

    Attributes:
        heading: Name with its unit, above a column or along an axis.
        after_number: Unit and name, behind a number.
        sign: 1 where more is better, -1 where less is.
    """

    heading: str
    after_number: str
    sign: int


QUALITY = {
    "dice": Quality("Dice", "Dice", 1),
    "nsd_1mm": Quality("NSD 1 mm", "NSD at 1 mm", 1),
    "hd95_mm": Quality("HD95, mm", "mm HD95", -1),
    "assd_mm": Quality("ASSD, mm", "mm ASSD", -1),
}

EMPTY = {"dice": 1.0, "nsd_1mm": 1.0, "hd95_mm": 0.0, "assd_mm": 0.0}
"""What `hippo_nnunet.evaluation.per_case.score_empty` gives an empty prediction of an empty reference."""

NSD_TOLERANCE_MM = 1.0


def case_metrics(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    labels: Mapping[str, Label],
    ignore_label: int | None = None,
) -> list[dict[str, str | float]]:
    """Compare one predicted segmentation with its reference.

    Voxels whose reference is `ignore_label` count as background in both, for every metric.

    | reference | prediction | dice | nsd_1mm | hd95_mm, assd_mm |
    |---|---|---|---|---|
    | empty | empty | NaN | NaN | NaN: nothing to compare, left out of means, as nnU-Net does; `compare` scores it |
    | one of the two empty | | 0 | 0 | the image's diagonal: the worst that this image could give |

    Args:
        reference: Integer-valued array of shape (d, h, w) or (h, w).
        prediction: Integer-valued array of the reference's shape.
        spacing_mm: Voxel size in mm along each axis, in the order of the arrays' axes.
        labels: Name of each foreground label, and its value or, for a region, its values.
        ignore_label: Reference value of voxels that count nowhere.

    Returns:
        One dict per label, in the order of `labels`: `label` and
        `dice`, 2TP / (2TP + FP + FN), 0 to 1;
        `nsd_1mm`, share of both surfaces within 1 mm of the other, 0 to 1;
        `hd95_mm`, the larger of the two directed 95th percentiles of the surface distance;
        `assd_mm`, the mean distance over both surfaces, weighted by surface area;
        `volume_ref_mm3` and `volume_mm3` of reference and prediction (mm2 for 2D arrays).

    Raises:
        DataError: Shapes differ, are not 2D or 3D, or the spacing does not fit them.

    Source:
        Dice as in nnunetv2.evaluation.evaluate_predictions; surfaces after Nikolov et al. 2021
        (doi:10.2196/26151), by their package surface-distance. The values for empty masks are ours: an
        infinite distance would spoil every mean, and leaving the case out would reward missing a structure.
    """
    spacing = _checked_spacing(reference, prediction, spacing_mm)
    use = np.ones(reference.shape, dtype=bool) if ignore_label is None else reference != ignore_label
    rows: list[dict[str, str | float]] = []
    for name, label in labels.items():
        mask_ref, mask_pred = np.isin(reference, label) & use, np.isin(prediction, label) & use
        rows.append({"label": name, **_mask_metrics(mask_ref, mask_pred, spacing)})
    return rows


def mask_dice(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Dice of two boolean masks of equal shape; NaN where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else np.nan


def _checked_spacing(reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, ...]:
    if reference.shape != prediction.shape:
        raise DataError(
            f"reference has shape {reference.shape} and prediction {prediction.shape}: "
            "they must lie on the same voxel grid; predict again from the image that was labelled"
        )
    spacing = tuple(float(s) for s in spacing_mm)
    if reference.ndim not in (2, 3) or len(spacing) != reference.ndim:
        raise DataError(
            f"cannot measure an array of shape {reference.shape} with spacing {spacing}: "
            "give a 2D or 3D array and one spacing for each axis"
        )
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        raise DataError(f"spacing {spacing} mm is not positive: correct the header of the image")
    return spacing


def _mask_metrics(mask_ref: np.ndarray, mask_pred: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float]:
    n_ref, n_pred = int(mask_ref.sum()), int(mask_pred.sum())
    voxel = float(np.prod(spacing))
    volumes = {"volume_ref_mm3": n_ref * voxel, "volume_mm3": n_pred * voxel}
    if n_ref == 0 and n_pred == 0:
        return {"dice": np.nan, "nsd_1mm": np.nan, "hd95_mm": np.nan, "assd_mm": np.nan, **volumes}
    if n_ref == 0 or n_pred == 0:
        diagonal = float(np.linalg.norm(np.multiply(mask_ref.shape, spacing)))
        return {"dice": 0.0, "nsd_1mm": 0.0, "hd95_mm": diagonal, "assd_mm": diagonal, **volumes}
    surfaces = surface_distance.compute_surface_distances(mask_ref, mask_pred, spacing)
    distances = np.concatenate([surfaces["distances_gt_to_pred"], surfaces["distances_pred_to_gt"]])
    areas = np.concatenate([surfaces["surfel_areas_gt"], surfaces["surfel_areas_pred"]])
    return {
        "dice": mask_dice(mask_ref, mask_pred),
        "nsd_1mm": float(surface_distance.compute_surface_dice_at_tolerance(surfaces, NSD_TOLERANCE_MM)),
        "hd95_mm": float(surface_distance.compute_robust_hausdorff(surfaces, 95)),
        "assd_mm": float(np.average(distances, weights=areas)),
        **volumes,
    }
