"""Read one case for exploration, and measure its size, intensities, and each label's volume, share and centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from nibabel.orientations import aff2axcodes
from scipy.ndimage import binary_fill_holes, find_objects

from hippo_nnunet.data.finding import Finding, FoundProblem
from hippo_nnunet.data.grid import grid_difference
from hippo_nnunet.data.layout import Case, Dataset
from hippo_nnunet.data.nifti import Volume, read_volume
from hippo_nnunet.data.nifti_file import open_image

Row = dict[str, str | int | float]

PERCENTILES = {"p00_5": 0.5, "p25": 25.0, "p50": 50.0, "p75": 75.0, "p99_5": 99.5}
AXES = ("x", "y", "z")
DIRECTIONS = ("right", "anterior", "superior")
TOTAL = "total foreground"


@dataclass(frozen=True)
class LoadedCase:
    """The voxels of one case.

    Args:
        id: the case.
        channels: one array per channel, shape (z, y, x), as SimpleITK reads them; not empty.
        label: the label map, shape (z, y, x); None for a test case, or if it cannot be trusted.
        affine: voxel-to-world matrix, shape (4, 4), for voxel indices (x, y, z), in mm, RAS+.
        spacing_mm: voxel size along (x, y, z).
    """

    id: str
    channels: tuple[npt.NDArray[np.generic], ...]
    label: npt.NDArray[np.int64] | None
    affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Number of voxels along (x, y, z)."""
        return self.channels[0].shape[::-1]


def load_case(dataset: Dataset, case: Case) -> tuple[LoadedCase | None, list[Finding]]:
    """Read a case, and report what cannot be measured.

    Returns:
        The case, or None if its image cannot be read; and the problems. A label is omitted if its size or position
        differs from its image's, or if it holds undeclared values, because its volumes could not be trusted.
    """
    try:
        volumes = _read_channels(dataset, case)
    except FoundProblem as problem:
        return None, [problem.finding]
    problems = [
        _problem(volume.path, case.id, "non-finite", f"{volume.non_finite} voxels are NaN or infinite, read as 0")
        for volume in volumes
        if volume.non_finite
    ]
    label = None
    if case.label is not None:
        try:
            label = _read_label(dataset, case, case.label, volumes[0])
        except FoundProblem as problem:
            problems.append(problem.finding)
    first = volumes[0]
    channels = tuple(volume.array for volume in volumes)
    return LoadedCase(case.id, channels, label, first.affine, first.spacing_mm), problems


def _problem(path: Path, case: str, code: str, message: str) -> Finding:
    return Finding(path, case, code, message, "see hippo-nnunet data check for the remedy")


def _read_channels(dataset: Dataset, case: Case) -> list[Volume]:
    if dataset.form == "msd" and dataset.channels > 1:
        volumes = _split_channels(case.images[0], case.id)
    else:
        volumes = [read_volume(path, case.id, dataset.reader) for path in case.images]
    if len(volumes) != dataset.channels:
        message = f"{len(volumes)} channels, but dataset.json declares {dataset.channels}"
        raise FoundProblem(_problem(case.images[0], case.id, "channels", message))
    for volume in volumes[1:]:
        _check_same_place(volumes[0], volume, case.id)
    return volumes


def _split_channels(path: Path, case: str) -> list[Volume]:
    """Read the channels of an MSD case from its 4D image."""
    image = open_image(path, case)
    try:
        data = np.asarray(image.dataobj)
    except Exception as error:  # nibabel, gzip and zlib raise various exceptions for a damaged file
        message = f"truncated, damaged or no NIfTI image ({' '.join(str(error).split())})"
        raise FoundProblem(_problem(path, case, "unreadable", message)) from error
    if data.ndim != 4 or data.dtype.kind not in "iuf":
        message = f"{data.ndim}D image of type {data.dtype}, expected 4D with the channels last"
        raise FoundProblem(_problem(path, case, "channels", message))
    spacing = tuple(float(size) for size in image.header.get_zooms()[:3])
    return [
        Volume(
            path=path,
            array=np.nan_to_num(channel, nan=0.0, posinf=0.0, neginf=0.0).T,
            is_integer=data.dtype.kind in "iu",
            non_finite=int(np.count_nonzero(~np.isfinite(channel))),
            affine=image.affine,
            spacing_mm=(spacing[0], spacing[1], spacing[2]),
        )
        for channel in np.moveaxis(data, -1, 0)
    ]


def _read_label(dataset: Dataset, case: Case, path: Path, image: Volume) -> npt.NDArray[np.int64]:
    label = read_volume(path, case.id, dataset.reader)
    _check_same_place(image, label, case.id)
    values = np.unique(label.array)
    unknown = [float(value) for value in values if float(value) not in dataset.label_values]
    if unknown or label.non_finite:
        what = ", ".join(f"{value:g}" for value in unknown[:5]) or "NaN"
        message = f"holds {what}, which dataset.json does not declare: not measured"
        raise FoundProblem(_problem(path, case.id, "label-values", message))
    return label.array.astype(np.int64)


def _check_same_place(first: Volume, other: Volume, case: str) -> None:
    difference = grid_difference(other.grid, first.grid, first.path.name)
    if difference:
        raise FoundProblem(_problem(other.path, case, difference.kind, f"{difference.text}: not measured"))


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
    """Measure intensities in the bounding box of the non-zero mask, and within that mask, as nnU-Net normalises.

    Source: nnunetv2 2.8.1, ``preprocessing/cropping/cropping.py``.
    """
    mask = binary_fill_holes(np.any([channel != 0 for channel in case.channels], axis=0))
    if not mask.any():
        mask[...] = True
    (box,) = find_objects(mask.view(np.uint8))
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


def _measure_label(case: LoadedCase, mask: npt.NDArray[np.bool_], name: str) -> Row:
    voxels = int(np.count_nonzero(mask))
    row: Row = {
        f"volume_mm3_{name}": voxels * float(abs(np.linalg.det(case.affine[:3, :3]))),
        f"share_{name}": voxels / mask.size,
    }
    centre = np.full(3, np.nan)
    if voxels:
        index = np.argwhere(mask).mean(axis=0)[::-1]
        centre = case.affine[:3, :3] @ (index - (np.array(case.size) - 1) / 2)
    row |= {f"centre_{way}_mm_{name}": float(value) for way, value in zip(DIRECTIONS, centre, strict=True)}
    return row
