"""Compare the grids of a dataset's cases: the directions of their axes, and voxel sizes that cannot be resampled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from hippo_nnunet.data.cases import CheckedCase
from hippo_nnunet.data.finding import Finding
from hippo_nnunet.data.layout import Dataset
from hippo_nnunet.data.resampling import planned_spacing, resampling_problem

_MOST_NAMED = 3


def check_grids(dataset: Dataset, training: Sequence[CheckedCase], test: Sequence[CheckedCase]) -> Iterator[Finding]:
    """List the cases whose grid does not go with that of the others.

    Args:
        dataset: the dataset.
        training: its readable training cases.
        test: its readable test cases.

    Yields:
        A warning for each direction of axes that fewer cases have than another; an error for each case of which
        nothing is left, or which does not fit into the memory, at the voxel size that nnU-Net plans by default.
    """
    if not training:
        return
    if not dataset.reader.endswith("WithReorient"):
        yield from _check_axes([*training, *test])
    spacings = np.array([scan.spacing_mm[::-1] for scan in training])
    target = planned_spacing(spacings, np.array([scan.nonzero_shape[::-1] for scan in training]))
    for scan in [*training, *test]:
        sizes = scan.nonzero_shape[::-1], scan.spacing_mm[::-1]
        problem = resampling_problem(*sizes, target, dataset.channels + 1, "the usual size of this dataset,")
        if problem:
            remedy = "correct the voxel size if it is wrong, or take the case out of the dataset"
            yield Finding(scan.case.files[0], scan.case.case, "voxel-size", problem, remedy)


def _check_axes(scans: Sequence[CheckedCase]) -> Iterator[Finding]:
    by_codes: defaultdict[str, list[CheckedCase]] = defaultdict(list)
    for scan in scans:
        by_codes[scan.axis_codes].append(scan)
    most, *others = sorted(by_codes, key=lambda codes: -len(by_codes[codes]))
    for codes in others:
        odd = by_codes[codes]
        names = ", ".join(scan.case.case for scan in odd[:_MOST_NAMED]) + (", ..." if len(odd) > _MOST_NAMED else "")
        message = (
            f"axes {codes} in {len(odd)} cases ({names}), but {most} in {len(by_codes[most])}: nnU-Net takes voxels as "
            "they are stored"
        )
        remedy = f"reorient image and label to {most}, for example with nibabel.as_closest_canonical for RAS"
        yield Finding(odd[0].case.files[0], odd[0].case.case, "axes", message, remedy, "warning")
