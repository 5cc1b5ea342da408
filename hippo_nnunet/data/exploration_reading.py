"""Read the image and label of one case for exploration, and say what cannot be measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.finding import Finding, FoundProblem
from hippo_nnunet.data.layout import Case, Dataset
from hippo_nnunet.data.nifti import Volume, open_image, read_volume, shift_mm

# As the dataset's check has it: equal geometries may differ by some 1e-5 voxels.
_TOLERANCE_VOXELS = 0.01


@dataclass(frozen=True)
class LoadedCase:
    """The voxels of one case.

    Args:
        id: the case.
        channels: one array a channel, shape (z, y, x), as SimpleITK reads them; not empty.
        label: the label map, shape (z, y, x); None for a test case, or where it cannot be trusted.
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
    """Read a case; a problem is reported, and what depends on it is left out.

    Args:
        dataset: the dataset, for its channels and label values.
        case: the case.

    Returns:
        The case, or None where its image cannot be read; and what was found wrong. A label whose size or place differs
        from its image's, or that holds values other than the declared ones, is left out, because no volume of it
        could be trusted.
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
    return LoadedCase(case.id, channels, label, first.itk_affine, first.spacing_mm), problems


def _problem(path: Path, case: str, code: str, message: str) -> Finding:
    return Finding(path, case, code, message, "see hippo-nnunet data check for the remedy")


def _read_channels(dataset: Dataset, case: Case) -> list[Volume]:
    if dataset.form == "msd" and dataset.channels > 1:
        volumes = _split_channels(case.images[0], case.id)
    else:
        volumes = [read_volume(path, case.id) for path in case.images]
    if len(volumes) != dataset.channels:
        message = f"{len(volumes)} channels, but dataset.json declares {dataset.channels}"
        raise FoundProblem(_problem(case.images[0], case.id, "channels", message))
    for volume in volumes[1:]:
        _check_same_place(volumes[0], volume, case.id)
    return volumes


def _split_channels(path: Path, case: str) -> list[Volume]:
    """Read the 4D image in which MSD keeps the channels of a case."""
    image = open_image(path, case)
    try:
        data = np.asarray(image.dataobj)
    except Exception as error:  # nibabel, gzip and zlib raise many kinds for a damaged file
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
            itk_affine=image.affine,
            spacing_mm=(spacing[0], spacing[1], spacing[2]),
        )
        for channel in np.moveaxis(data, -1, 0)
    ]


def _read_label(dataset: Dataset, case: Case, path: Path, image: Volume) -> npt.NDArray[np.int64]:
    label = read_volume(path, case.id)
    _check_same_place(image, label, case.id)
    values = np.unique(label.array)
    unknown = [float(value) for value in values if float(value) not in dataset.label_values]
    if unknown or label.non_finite:
        what = ", ".join(f"{value:g}" for value in unknown[:5]) or "NaN"
        message = f"holds {what}, which dataset.json does not declare: not measured"
        raise FoundProblem(_problem(path, case.id, "label-values", message))
    return label.array.astype(np.int64)


def _check_same_place(first: Volume, other: Volume, case: str) -> None:
    if other.shape != first.shape:
        message = f"shape {other.shape}, but {first.path.name} has {first.shape}: not measured"
        raise FoundProblem(_problem(other.path, case, "shape", message))
    shift = shift_mm(first.itk_affine, other.itk_affine, other.shape)
    if shift > _TOLERANCE_VOXELS * min(first.spacing_mm):
        message = f"lies {shift:.4g} mm away from {first.path.name}: not measured"
        raise FoundProblem(_problem(other.path, case, "affine", message))
