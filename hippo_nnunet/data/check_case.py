"""Check the files of one case: readable, one geometry, sensible voxels, labels as declared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from hippo_nnunet.data.finding import Finding, FoundProblem
from hippo_nnunet.data.layout import Case, Dataset
from hippo_nnunet.data.nifti import Volume, read_volume, shift_mm

# Headers hold 32-bit numbers, so equal geometries may differ by some 1e-5 voxels.
_TOLERANCE_VOXELS = 0.01


@dataclass(frozen=True)
class CaseReport:
    """What the files of one case showed.

    Args:
        findings: its problems.
        image_digest: hash of the voxels of all channels; None where one could not be read.
        label_digest: hash of the label's voxels; None without a readable label that holds foreground.
        label_values: the values that the label holds.
    """

    findings: list[Finding]
    image_digest: str | None = None
    label_digest: str | None = None
    label_values: frozenset[int] = field(default_factory=frozenset)


def check_case(dataset: Dataset, case: Case) -> CaseReport:
    """Read every file of a case and list its problems.

    Args:
        dataset: the dataset, for its declared label values.
        case: the case; a missing file is a finding.

    Returns:
        The report. Geometry is compared with the first readable image.
    """
    findings: list[Finding] = []

    def read(path_index: int | None) -> Volume | None:
        path = case.label if path_index is None else case.images[path_index]
        if path is None:
            return None
        try:
            return read_volume(path, case.id)
        except FoundProblem as problem:
            findings.append(problem.finding)
            return None

    images = [volume for index in range(len(case.images)) if (volume := read(index)) is not None]
    label = read(None)
    for volume in images:
        findings.extend(_check_image(volume, case.id))
    for volume in [*images[1:], *([label] if images and label else [])]:
        findings.extend(_check_geometry(images[0], volume, case.id))
    for volume in [*images, *([label] if label else [])]:
        findings.extend(_check_orientation(volume, case.id))
    complete = len(images) == len(case.images)
    digest = _digest(images) if complete else None
    if label is None:
        return CaseReport(findings, digest)
    found = list(_check_label(label, case.id, dataset))
    values = frozenset(int(v) for v in np.unique(label.array))
    return CaseReport([*findings, *found], digest, _digest([label]) if values - {0} else None, values)


def _digest(volumes: list[Volume]) -> str:
    digest = hashlib.sha256()
    for volume in volumes:
        digest.update(repr(volume.shape).encode())
        digest.update(np.ascontiguousarray(volume.array, dtype=np.float64).tobytes())
    return digest.hexdigest()


def _check_image(volume: Volume, case: str) -> Iterator[Finding]:
    array = volume.array
    yield from _check_finite(volume, case)
    if array.min() == array.max():
        message = f"constant image: every voxel is {array.flat[0]:g}"
        yield Finding(volume.path, case, "constant-image", message, "export the image again, or take out the case")


def _check_finite(volume: Volume, case: str) -> Iterator[Finding]:
    if volume.non_finite:
        message = (
            f"{volume.non_finite} of {volume.array.size} voxels are NaN or infinite, which nnU-Net would read as 0"
        )
        yield Finding(volume.path, case, "non-finite", message, "replace them by values that make sense")


def _check_geometry(reference: Volume, volume: Volume, case: str) -> Iterator[Finding]:
    name = reference.path.name
    if volume.shape != reference.shape:
        message = f"shape {volume.shape}, but its image {name} has {reference.shape}"
        yield Finding(volume.path, case, "shape", message, "resample the label onto its image (nearest neighbour)")
        return
    shift = shift_mm(reference.itk_affine, volume.itk_affine, volume.shape)
    # nnU-Net refuses a spacing that fails numpy's allclose, however small the shift.
    same_spacing = np.allclose(reference.spacing_mm, volume.spacing_mm)
    if shift > _TOLERANCE_VOXELS * min(reference.spacing_mm) or not same_spacing:
        message = (
            f"affine differs from that of its image {name}: up to {shift:.4g} mm, "
            f"spacing {_numbers(volume.spacing_mm)} against {_numbers(reference.spacing_mm)}"
        )
        remedy = "find out which one is right; copy its affine if the voxels match, else resample"
        yield Finding(volume.path, case, "affine", message, remedy)


def _check_orientation(volume: Volume, case: str) -> Iterator[Finding]:
    shift = shift_mm(volume.affine, volume.itk_affine, volume.shape)
    if shift > _TOLERANCE_VOXELS * min(volume.spacing_mm):
        message = f"nibabel and SimpleITK place it {shift:.4g} mm apart: qform and sform disagree or are unset"
        remedy = "write the right affine into both, with both codes at least 1"
        yield Finding(volume.path, case, "orientation", message, remedy, "warning")


def _check_label(label: Volume, case: str, dataset: Dataset) -> Iterator[Finding]:
    array = label.array
    yield from _check_finite(label, case)
    values = np.unique(array)
    whole = values == np.round(values)
    if not whole.all():
        message = f"label values that are no whole numbers: {_numbers(values[~whole])}"
        yield Finding(label.path, case, "non-integer-label", message, "resample labels with nearest neighbour only")
    elif not label.is_integer:
        message = "whole label values, but stored as floating-point numbers"
        yield Finding(label.path, case, "float-label", message, "nnU-Net reads it; better save it as uint8", "warning")
    unknown = sorted(set(values[whole].tolist()) - dataset.label_values)
    if unknown:
        declared = _numbers(sorted(dataset.label_values))
        message = f"label values {_numbers(unknown)}, but dataset.json declares {declared}"
        yield Finding(label.path, case, "label-values", message, "correct the label, or declare the value")
    if not values.any():
        message = "empty label: no voxel is foreground"
        yield Finding(label.path, case, "empty-label", message, "keep it only if nothing is there to see", "warning")


def _numbers(values: object) -> str:
    numbers = [f"{float(v):g}" for v in values]  # type: ignore[attr-defined]
    return ", ".join(numbers[:8]) + (", ..." if len(numbers) > 8 else "")
