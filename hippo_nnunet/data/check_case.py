"""Check the files of one case: readability, geometry, voxel values, declared labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.cases import CheckedCase, InputCase
from hippo_nnunet.data.finding import Finding, FoundProblem
from hippo_nnunet.data.grid import grid_difference
from hippo_nnunet.data.layout import Case, Dataset
from hippo_nnunet.data.nifti import Volume, read_volume
from hippo_nnunet.data.same_scan import distinct_values
from hippo_nnunet.memory import free_memory


@dataclass(frozen=True)
class CaseReport:
    """Findings of one case's files, and digests to compare cases by.

    Args:
        findings: its problems.
        image_digest: hash of the voxels of all channels; None if one could not be read.
        label_digest: hash of the label's voxels; None without a readable label that holds foreground.
        label_values: the values that the label holds.
        intensities: `distinct_values` of the first image.
        scan: size and axes of the images; None if one could not be read, or none has a voxel other than 0.
    """

    findings: list[Finding]
    image_digest: str | None = None
    label_digest: str | None = None
    label_values: frozenset[int] = field(default_factory=frozenset)
    intensities: npt.NDArray[np.float32] | None = None
    scan: CheckedCase | None = None


def check_case(dataset: Dataset, case: Case) -> CaseReport:
    """Read every file of a case and list its problems.

    Args:
        dataset: the dataset, for its declared label values.
        case: the case; a missing file is a finding.

    Returns:
        The report. Geometry is compared with the first readable image.
    """
    try:
        return _check_case(dataset, case)
    except MemoryError:
        message = f"the case does not fit into the memory, of which {free_memory() / 2**30:.1f} GiB are free"
        remedy = "crop its images, or use a machine with more memory"
        return CaseReport([Finding(case.images[0], case.id, "memory", message, remedy)])


def _check_case(dataset: Dataset, case: Case) -> CaseReport:
    findings: list[Finding] = []

    def read(path: Path) -> Volume | None:
        try:
            return read_volume(path, case.id, dataset.reader)
        except FoundProblem as problem:
            findings.append(problem.finding)
            return None

    images = [volume for path in case.images if (volume := read(path)) is not None]
    label = read(case.label) if case.label else None
    for volume in images:
        findings.extend(_check_image(volume, case.id))
    for volume in [*images[1:], *([label] if images and label else [])]:
        findings.extend(_check_geometry(images[0], volume, case.id))
    for volume in [*images, *([label] if label else [])]:
        findings.extend(volume.warnings)
    complete = len(images) == len(case.images)
    digest = _digest(images) if complete else None
    intensities = distinct_values(images[0].array) if images else None
    scan = None
    if complete and any(volume.array.any() for volume in images):
        scan = CheckedCase.of(InputCase(case.id, case.images), images)
    if label is None:
        return CaseReport(findings, digest, intensities=intensities, scan=scan)
    found = list(_check_label(label, case.id, dataset))
    values = frozenset(int(v) for v in np.unique(label.array) if np.isfinite(v))
    label_digest = _digest([label]) if values - {0} else None
    return CaseReport([*findings, *found], digest, label_digest, values, intensities, scan)


def _digest(volumes: list[Volume]) -> str:
    digest = hashlib.sha256()
    for volume in volumes:
        digest.update(repr(volume.shape).encode())
        for plane in volume.array:  # the whole volume in 64 bits may not fit into the memory
            digest.update(plane.astype(np.float64).tobytes())
    return digest.hexdigest()


def _check_image(volume: Volume, case: str) -> Iterator[Finding]:
    array = volume.array
    yield from _check_finite(volume, case)
    if array.min() == array.max():
        message = f"constant image: every voxel is {array.flat[0]:g}"
        yield Finding(volume.path, case, "constant-image", message, "export the image again, or remove the case")


def _check_finite(volume: Volume, case: str) -> Iterator[Finding]:
    if volume.non_finite:
        message = f"{volume.non_finite} of {volume.array.size} voxels are NaN or infinite"
        yield Finding(volume.path, case, "non-finite", message, "replace them by finite values")


def _check_geometry(reference: Volume, volume: Volume, case: str) -> Iterator[Finding]:
    difference = grid_difference(volume.grid, reference.grid, f"its image {reference.path.name}")
    if difference is None:
        return
    remedy = "find the correct one; copy its affine if the voxels match, else resample"
    if difference.kind == "shape":
        remedy = "resample the label onto its image (nearest neighbour)"
    yield Finding(volume.path, case, difference.kind, difference.text, remedy)


def _check_label(label: Volume, case: str, dataset: Dataset) -> Iterator[Finding]:
    array = label.array
    yield from _check_finite(label, case)
    values = np.unique(array)
    values = values[np.isfinite(values)]
    whole = values == np.round(values)
    if not whole.all():
        message = f"label values that are not integers: {_numbers(values[~whole])}"
        yield Finding(label.path, case, "non-integer-label", message, "resample labels with nearest neighbour only")
    elif not label.is_integer:
        message = "integer label values, stored as floating-point numbers"
        yield Finding(label.path, case, "float-label", message, "nnU-Net can read it, but save it as uint8", "warning")
    unknown = sorted(set(values[whole].tolist()) - dataset.label_values)
    if unknown:
        declared = _numbers(sorted(dataset.label_values))
        message = f"label values {_numbers(unknown)}, but dataset.json declares {declared}"
        yield Finding(label.path, case, "label-values", message, "correct the label, or declare the value")
    if not values.any():
        message = "empty label: no voxel is foreground"
        yield Finding(
            label.path, case, "empty-label", message, "keep it only if the image shows no structure", "warning"
        )


def _numbers(values: object) -> str:
    numbers = [f"{float(v):g}" for v in values]  # type: ignore[attr-defined]
    return ", ".join(numbers[:8]) + (", ..." if len(numbers) > 8 else "")
