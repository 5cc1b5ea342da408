"""The size of an image on the grid of nnU-Net's plans, and whether it can be resampled to it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.grid import sizes_text
from hippo_nnunet.memory import free_memory

# nnU-Net's ANISO_THRESHOLD, nnunetv2/configuration.py.
_ANISOTROPIC = 3.0
_FLOAT_BYTES = 4


def planned_spacing(spacings_mm: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Return the voxel size that nnU-Net's default planner would choose.

    Args:
        spacings_mm: voxel sizes of the training images, shape (cases, 3).
        sizes: numbers of voxels after cropping, shape (cases, 3), in the same axis order.

    Returns:
        The median; the 10th percentile along an axis that is much coarser than the others.

    Source: nnunetv2 2.8.1, ``ExperimentPlanner.determine_fullres_target_spacing``.
    """
    target, size = np.percentile(spacings_mm, 50, axis=0), np.percentile(sizes, 50, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    coarsest = float(max(target[others]))
    if target[worst] > _ANISOTROPIC * coarsest and size[worst] * _ANISOTROPIC < min(size[others]):
        fine = float(np.percentile(spacings_mm[:, worst], 10))
        target[worst] = fine if fine >= coarsest else coarsest + 1e-5
    return tuple(float(value) for value in target)


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> tuple[int, ...]:
    """Return the size of an image after nnU-Net has resampled it; all axes in one order.

    Source: nnunetv2 2.8.1, ``preprocessing/resampling/default_resampling.py``, ``compute_new_shape``.
    """
    return tuple(round(old / new * size) for old, new, size in zip(spacing_mm, target_mm, shape, strict=True))


def resampling_problem(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float], maps: int, target: str
) -> str | None:
    """Tell why an image cannot be resampled: nothing would be left of it, or it would not fit into the free memory.

    Args:
        shape: size of its non-zero part along (x, y, z), in voxels.
        spacing_mm: its voxel size.
        target_mm: voxel size that it gets.
        maps: how many float32 maps of the resampled size are needed at once.
        target: what the message calls that voxel size.

    Returns:
        The problem with voxel sizes and both shapes; None if there is none.
    """
    new = resampled_shape(shape, spacing_mm, target_mm)
    text = (
        f"its voxels of {sizes_text(spacing_mm)} mm are resampled to {target} {sizes_text(target_mm)} mm, "
        f"from {sizes_text(shape)} to {sizes_text(new)} voxels"
    )
    if min(new) < 1:
        return f"{text}, so nothing is left"
    needed, free = _FLOAT_BYTES * maps * prod(new), free_memory()
    if needed > free:
        return f"{text}, which takes {needed / 2**30:.3g} GiB of memory, and {free / 2**30:.3g} GiB are free"
    return None
