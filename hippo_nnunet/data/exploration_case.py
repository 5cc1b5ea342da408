"""Measure one case: size, intensities, and the volume, share and centre of each label."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from nibabel.orientations import aff2axcodes
from scipy.ndimage import binary_fill_holes

from hippo_nnunet.data.exploration_reading import LoadedCase
from hippo_nnunet.data.layout import Dataset

Row = dict[str, str | int | float]

PERCENTILES = {"p00_5": 0.5, "p25": 25.0, "p50": 50.0, "p75": 75.0, "p99_5": 99.5}
AXES = ("x", "y", "z")
DIRECTIONS = ("right", "anterior", "superior")
TOTAL = "total foreground"


def foreground_labels(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """Return name and values of each label or region that is neither background nor nnU-Net's ignore label."""
    return {name: values for name, values in dataset.labels.items() if values != (0,) and name != "ignore"}


def measure_case(case: LoadedCase, labels: Mapping[str, tuple[int, ...]], part: str) -> Row:
    """Measure a case.

    Args:
        case: its voxels.
        labels: name and values of each foreground label; regions may overlap.
        part: ``training`` or ``test``.

    Returns:
        A row of ``cases.csv``, described in docs/exploration.md. Sizes stand in the order (x, y, z) of the file,
        centres along the world's axes. Without a label map there are no columns of labels; an empty label has volume 0
        and centre NaN.
    """
    extent = np.array(case.size) * case.spacing_mm
    row: Row = {"case": case.id, "part": part, "orientation": "".join(map(str, aff2axcodes(case.affine)))}
    row |= {f"size_{axis}": int(size) for axis, size in zip(AXES, case.size, strict=True)}
    row |= {f"spacing_{axis}_mm": float(size) for axis, size in zip(AXES, case.spacing_mm, strict=True)}
    row |= {f"extent_{axis}_mm": float(size) for axis, size in zip(AXES, extent, strict=True)}
    row |= _measure_intensities(case)
    if case.label is not None:
        every = tuple(sorted({value for values in labels.values() for value in values} - {0}))
        for name, values in {**labels, TOTAL: every}.items():
            row |= _measure_label(case, np.isin(case.label, values), name)
    return row


def _measure_intensities(case: LoadedCase) -> Row:
    """Measure where nnU-Net's normalisation does: in the box around all that is not zero, and in that mask itself.

    Source: nnunetv2 2.8.1, ``preprocessing/cropping/cropping.py``.
    """
    mask = binary_fill_holes(np.any([channel != 0 for channel in case.channels], axis=0))
    if not mask.any():
        mask[...] = True
    box = _bounding_box(mask)
    row: Row = {f"cropped_{axis}": int(part.stop - part.start) for axis, part in zip(AXES, reversed(box), strict=True)}
    for index, channel in enumerate(case.channels):
        inside = channel[mask]
        key = f"channel{index}"
        found = np.percentile(inside, list(PERCENTILES.values()))
        row |= {f"{key}_{name}": float(value) for name, value in zip(PERCENTILES, found, strict=True)}
        for suffix, voxels in (("", channel[box]), ("_nonzero", inside)):
            row[f"{key}_mean{suffix}"] = float(voxels.mean(dtype=np.float64))
            row[f"{key}_std{suffix}"] = float(voxels.std(dtype=np.float64))
    return row


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def _measure_label(case: LoadedCase, mask: npt.NDArray[np.bool_], name: str) -> Row:
    voxels = int(np.count_nonzero(mask))
    row: Row = {
        f"volume_mm3_{name}": voxels * float(abs(np.linalg.det(case.affine[:3, :3]))),
        f"share_{name}": voxels / mask.size,
    }
    centre = np.full(3, np.nan)
    if voxels:
        counts = [mask.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in (2, 1, 0)]
        index = np.array([float(count @ np.arange(count.size)) / voxels for count in counts])
        centre = case.affine[:3, :3] @ (index - (np.array(case.size) - 1) / 2)
    row |= {f"centre_{way}_mm_{name}": float(value) for way, value in zip(DIRECTIONS, centre, strict=True)}
    return row
