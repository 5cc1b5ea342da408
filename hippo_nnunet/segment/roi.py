"""Boxes from a mask of both hippocampi that another program made, in the place of the registration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.layout import ENDINGS
from hippo_nnunet.data.nifti_file import open_image
from hippo_nnunet.errors import DataError
from hippo_nnunet.segment.boxes import LEFT, OFFSET_MM, RIGHT, Box, mirrored
from hippo_nnunet.segment.scan import Matrix, Scan

ASEG = {LEFT: 17, RIGHT: 53}
"""Values of the hippocampi in FreeSurfer's and SynthSeg's segmentations."""
_MIDDLE = 0.5
"""Share of the largest value above which a voxel of a soft mask belongs to it: hippodeep writes 0 to 255."""
_MOST_LABELS = 8
"""Values of a mask of labels, such as one for each side or part; a soft mask has more."""
_SIZES_MM3 = (300.0, 20_000.0)
"""Volume of one side in a mask that can be of hippocampi."""


def boxes_of_masks(masks: Sequence[Path], scan: Scan) -> dict[str, Box]:
    """Return a box around each hippocampus of a mask, along the scan's own axes.

    Args:
        masks: A segmentation with the values of ASEG; or a mask of both hippocampi, or one mask of each, which differ
            by position: left is further left. In the scan's world coordinates, on any grid.
        scan: The scan.

    Raises:
        DataError: A mask cannot be read, or does not show two hippocampi, or these lie outside of the scan, or the
            left one of a segmentation to the right of the right one.
    """
    pieces: list[Matrix] = []
    sides: dict[str, Matrix] = {}
    for path in masks:
        voxels, affine, edge_mm3 = _read(path, scan)
        named = {side: np.argwhere(voxels == value) for side, value in ASEG.items()}
        sizes = [len(points) * edge_mm3 for points in named.values()]
        if all(_SIZES_MM3[0] <= size <= _SIZES_MM3[1] for size in sizes):  # smaller: values of a soft mask
            sides = {side: _world(points, affine) for side, points in named.items()}
            if sides[LEFT].mean(axis=0)[0] >= sides[RIGHT].mean(axis=0)[0]:
                raise DataError(
                    f"--roi {path}: its left hippocampus ({ASEG[LEFT]}) lies to the right of the right one "
                    f"({ASEG[RIGHT]}): correct its header, or give a mask without sides"
                )
            continue
        pieces += [_world(points, affine) for points in _pieces(_foreground(voxels), edge_mm3)]
    if not sides:
        if len(pieces) != 2:
            raise DataError(
                f"{', '.join(map(str, masks))}: {len(pieces)} pieces of {_SIZES_MM3[0]:g} to {_SIZES_MM3[1]:g} mm3, "
                "expected two hippocampi: give a segmentation with the labels 17 and 53, a mask of both, or --roi twice"
            )
        first, second = sorted(pieces, key=lambda points: float(points.mean(axis=0)[0]))
        sides = {LEFT: first, RIGHT: second}
    return {side: _box(points, side, scan, masks[0]) for side, points in sides.items()}


def _read(path: Path, scan: Scan) -> tuple[npt.NDArray[np.float32], Matrix, float]:
    """Read a mask; on the scan's own grid, it has the affine that was chosen for the scan."""
    if not path.name.endswith(ENDINGS):
        remedy = f"convert it, such as mri_convert {path} roi.nii.gz"
        raise DataError(f"--roi {path}: not a NIfTI image by its name: {remedy}")
    try:
        image = open_image(path)
    except FoundProblem as error:
        raise DataError(f"--roi {error}") from error
    voxels = np.asarray(image.dataobj, np.float32)
    voxels = voxels[..., 0] if voxels.shape[3:] == (1,) else voxels
    if voxels.ndim != 3 or not voxels.max() > 0:
        raise DataError(f"--roi {path}: shape {voxels.shape}, largest value {voxels.max():g}; expected a 3D mask")
    same_grid = voxels.shape == scan.stored_shape and np.allclose(image.affine, scan.header.get_best_affine())
    affine = scan.affine if same_grid else np.asarray(image.affine, float)
    return voxels, affine, abs(float(np.linalg.det(affine[:3, :3])))


def _foreground(voxels: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return all labels of a mask of few values, or the upper half of a soft mask."""
    values = np.unique(voxels[voxels > 0])
    labels = len(values) <= _MOST_LABELS and np.array_equal(values, np.round(values))
    return voxels > (0 if labels else _MIDDLE * values[-1])


def _pieces(mask: npt.NDArray[np.bool_], voxel_mm3: float) -> list[npt.NDArray[np.integer]]:
    labelled, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labelled.ravel())[1:] * voxel_mm3 if count else np.zeros(0)
    fit = np.flatnonzero((sizes >= _SIZES_MM3[0]) & (sizes <= _SIZES_MM3[1]))
    return [np.argwhere(labelled == number + 1) for number in fit]


def _world(points: npt.NDArray[np.integer], affine: Matrix) -> Matrix:
    return points @ affine[:3, :3].T + affine[:3, 3]


def _box(points: Matrix, side: str, scan: Scan, path: Path) -> Box:
    inside = points - scan.origin_mm
    axes = mirrored(np.eye(3), side)
    middle = (inside.min(axis=0) + inside.max(axis=0)) / 2 + axes @ OFFSET_MM
    place = np.linalg.inv(scan.to_frame) @ [*middle, 1.0]
    if not all(0 <= index < size for index, size in zip(place[:3], scan.image.shape, strict=True)):
        raise DataError(
            f"--roi {path}: its {side} hippocampus lies outside of {scan.path}: give a mask of the same scan"
        )
    return Box(middle, axes)
