"""Geometry of the augmentation for many samples at once: rotation and zoom, centre crop, mirroring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

_LABELS_AT_ONCE = 8


def rotation_and_scale(angles: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the matrices that nnU-Net applies to its sampling grid.

    Args:
        angles: (n, 1) in 2D; (n, 3) in 3D, about the first, second and third axis. In radians.
        scales: (n,), factors of the grid: above 1 shrinks what is seen.

    Returns:
        float32 (n, dim, dim), for column vectors of voxel coordinates relative to the centre.

    Source: batchgeneratorsv2, `create_affine_matrix_2d` and `create_affine_matrix_3d`.
    """
    if angles.shape[1] == 1:
        matrix = _rotation(angles[:, 0], 2, 0, 1)
    else:
        planes = [(1, 2), (2, 0), (0, 1)]
        first, second, third = (_rotation(angles[:, i], 3, *plane) for i, plane in enumerate(planes))
        matrix = third @ second @ first
    return (matrix * scales[:, None, None]).float()


def _rotation(angle: torch.Tensor, dim: int, first: int, second: int) -> torch.Tensor:
    """Return rotations (n, dim, dim) that take the axis `first` towards `second`."""
    matrix = torch.eye(dim, dtype=angle.dtype).repeat(len(angle), 1, 1)
    matrix[:, first, first] = matrix[:, second, second] = torch.cos(angle)
    matrix[:, second, first] = torch.sin(angle)
    matrix[:, first, second] = -torch.sin(angle)
    return matrix


def centre_crop(tensor: torch.Tensor, patch_size: Sequence[int]) -> torch.Tensor:
    """Return the view of (batch, channel, *sampled patch) that nnU-Net's SpatialTransform keeps of an unrotated one."""
    for axis, size in enumerate(patch_size, start=2):
        tensor = tensor.narrow(axis, tensor.shape[axis] // 2 - size // 2, size)
    return tensor


def present_labels(labels: torch.Tensor, values: Sequence[int] | None) -> tuple[int, ...]:
    """Return the labels to interpolate, ascending.

    Args:
        labels: Integer tensor.
        values: Labels that may occur, or None if that is not known.

    Returns:
        Those that occur; all that may occur if these are few, or on a GPU, to avoid synchronising with it.
    """
    if values is None:
        return tuple(torch.unique(labels).tolist())
    if labels.device.type == "cuda" or len(values) <= _LABELS_AT_ONCE:
        return tuple(values)
    return tuple(v for v in values if bool((labels == v).any()))


def resample(
    image: torch.Tensor,
    labels: torch.Tensor,
    patch_size: Sequence[int],
    matrices: torch.Tensor,
    values: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate and zoom samples about their centres, and cut them to the final patch.

    Args:
        image: Float tensor (n, channel, *sampled patch).
        labels: Integer tensor (n, 1, *sampled patch); -1 marks what lies outside the image.
        patch_size: Final patch in voxels.
        matrices: float32 (n, dim, dim) of `rotation_and_scale`, dim 2 or 3. With 2, the slices of a 3D patch are
            rotated in plane, all of a sample alike.
        values: Labels that may occur, ascending; None to look for them.

    Returns:
        Image (n, channel, *patch), linear with zeros outside, and labels (n, 1, *patch): the label with the largest
        share of the interpolation, -1 counted as one of them and for whatever lies outside the sampled patch.

    Source: batchgeneratorsv2, `SpatialTransform`; ties, which it gives to the nearest voxel's label, go to the lowest.
    """
    if matrices.shape[-1] < len(patch_size):
        folded = [t.flatten(1, 2) for t in (image, labels)]
        flat, seg = _resample(folded[0], folded[1], patch_size[1:], matrices, values)
        depth = int(patch_size[0])
        return flat.unflatten(1, (image.shape[1], depth)), seg.unflatten(1, (1, depth))
    return _resample(image, labels, patch_size, matrices, values)


def _resample(
    image: torch.Tensor,
    labels: torch.Tensor,
    patch_size: Sequence[int],
    matrices: torch.Tensor,
    values: Sequence[int] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    grid = _sampling_grid(image.shape[2:], patch_size, matrices)
    found = torch.full((*labels.shape[:2], *patch_size), -1, dtype=labels.dtype, device=labels.device)
    best = torch.zeros(found.shape, device=labels.device)
    outside = torch.ones(found.shape, device=labels.device)
    inside = [v for v in present_labels(labels, values) if v >= 0]
    for start in range(0, len(inside), _LABELS_AT_ONCE):
        group = inside[start : start + _LABELS_AT_ONCE]
        indicators = torch.cat([labels == v for v in group], dim=1).float()
        shares = _sample(indicators, grid).unflatten(1, (len(group), labels.shape[1]))
        for value, share in zip(group, shares.unbind(1), strict=True):
            found.masked_fill_(share > best, value)
            best = torch.maximum(best, share)
            outside -= share
    found.masked_fill_(outside > best, -1)
    return _sample(image, grid), found


def _sampling_grid(sampled: Sequence[int], patch_size: Sequence[int], matrices: torch.Tensor) -> torch.Tensor:
    """Return grid_sample's grid (n, *patch, dim): its coordinates run over the sampled patch, last axis first."""
    count, device = len(matrices), matrices.device
    axes = [torch.arange(n, device=device) - (n - 1) / 2 for n in patch_size]
    grid = None
    for column, axis in enumerate(axes):
        shape = [1] * (len(axes) + 2)
        shape[column + 1] = -1
        part = axis.view(shape) * matrices[:, :, column].view(count, *[1] * len(axes), len(axes))
        grid = part if grid is None else grid + part
    assert grid is not None
    scaled = [2 / int(n) * grid[..., axis] for axis, n in enumerate(sampled)]
    return torch.stack(scaled[::-1], dim=-1)


def _sample(volume: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return functional.grid_sample(volume, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def mirror_rows(tensor: torch.Tensor, rows: torch.Tensor, axis: int) -> None:
    """Mirror samples (batch, channel, *patch) in place.

    Args:
        tensor: Image or labels.
        rows: Which samples, int64 (n,).
        axis: Spatial axis.
    """
    tensor.index_copy_(0, rows, tensor.index_select(0, rows).flip(axis + 2))
