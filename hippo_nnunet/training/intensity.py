"""Intensity operations of nnU-Net's augmentation for many volumes at once.

Every function takes `volumes`, float32 (n, *spatial), one channel of one sample each, and one parameter (n,) for each
of them, and returns new volumes. Source: the transforms of the same names in batchgeneratorsv2.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

_EPSILON = 1e-7
_WIDEST_KERNEL = 3


def add_noise(volumes: torch.Tensor, std: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add Gaussian noise of the given standard deviations."""
    noise = torch.randn(volumes.shape, generator=generator, device=volumes.device)
    return volumes + noise * _column(std, volumes)


def brighten(volumes: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply each volume by its factor."""
    return volumes * _column(factor, volumes)


def change_contrast(volumes: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Stretch each volume about its mean, and clip it to the range it had."""
    flat = volumes.flatten(1)
    mean, (low, high) = flat.mean(1, keepdim=True), torch.aminmax(flat, dim=1, keepdim=True)
    return ((flat - mean) * factor[:, None] + mean).clamp(low, high).view_as(volumes)


def change_gamma(volumes: torch.Tensor, exponent: torch.Tensor, inverted: bool) -> torch.Tensor:
    """Apply a gamma curve to each volume, scaled to [0, 1]; mean and standard deviation are restored.

    Args:
        volumes: (n, *spatial).
        exponent: (n,).
        inverted: Whether the curve is applied to the negated volume.
    """
    flat = -volumes.flatten(1) if inverted else volumes.flatten(1)
    std, mean = torch.std_mean(flat, dim=1, keepdim=True)
    low, high = torch.aminmax(flat, dim=1, keepdim=True)
    curved = ((flat - low) / (high - low).clamp(min=_EPSILON)).pow(exponent[:, None]) * (high - low)
    curved_std, curved_mean = torch.std_mean(curved, dim=1, keepdim=True)
    curved = (curved - curved_mean) * (std / curved_std.clamp(min=_EPSILON)) + mean
    return (-curved if inverted else curved).view_as(volumes)


def blur(volumes: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each volume with a Gaussian, mirrored at the borders.

    Args:
        volumes: (n, *spatial).
        sigma: (n, dim), standard deviations in voxels along each axis, at most 1.

    Returns:
        The blurred volumes; the kernel ends where batchgeneratorsv2 cuts it: at 1, 2 or 3 voxels from its centre.
    """
    offsets = torch.arange(-_WIDEST_KERNEL, _WIDEST_KERNEL + 1, device=volumes.device)
    reach = torch.floor((sigma * 6 + 0.5) / 2)[..., None]
    weights = torch.exp(-0.5 * (offsets / sigma[..., None]) ** 2) * (offsets.abs() <= reach)
    weights = weights / weights.sum(-1, keepdim=True)
    matrices = []
    for axis, size in enumerate(volumes.shape[1:]):
        shifts = _reflecting_shifts(size, volumes.device)
        matrices.append((weights[:, axis] @ shifts.flatten(1)).unflatten(1, (size, size)))
    return _along_axes(volumes, matrices)


@lru_cache(maxsize=64)
def _reflecting_shifts(size: int, device: torch.device) -> torch.Tensor:
    """Return (7, size, size): row i of matrix k picks voxel i + k - 3, mirrored at the borders."""
    shifts = np.zeros((2 * _WIDEST_KERNEL + 1, size, size), np.float32)
    last = max(size - 1, 1)
    for k in range(len(shifts)):
        source = np.abs(np.arange(size) + k - _WIDEST_KERNEL) % (2 * last)
        shifts[k, np.arange(size), np.minimum(np.where(source > last, 2 * last - source, source), size - 1)] = 1
    return torch.from_numpy(shifts).to(device)


def lower_resolution(volumes: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Sample each volume down to fewer voxels, by the nearest one, and up again linearly.

    Args:
        volumes: (n, *spatial).
        sizes: float32 (n, dim), whole numbers of voxels along each axis, at most the volume's.
    """
    matrices = [_down_and_up(size, sizes[:, axis : axis + 1]) for axis, size in enumerate(volumes.shape[1:])]
    return _along_axes(volumes, matrices)


def _down_and_up(size: int, coarse: torch.Tensor) -> torch.Tensor:
    """Return (n, size, size): what torch's `interpolate` does along one axis, `coarse` (n, 1) voxels in between."""
    fine = torch.arange(size, device=coarse.device)
    position = (coarse / size * (fine + 0.5) - 0.5).clamp(min=0)
    lower = position.floor()
    part = position - lower
    step = torch.full_like(coarse, size) / coarse  # a number over a tensor is rounded twice, and picks other voxels
    matrix = torch.zeros((), device=coarse.device)
    for voxel, weight in ((lower, 1 - part), (torch.minimum(lower + 1, coarse - 1), part)):
        source = ((voxel + 0.5) * step).floor().clamp(max=size - 1)
        matrix = matrix + (source[..., None] == fine) * weight[..., None]
    return matrix


def _along_axes(volumes: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    """Multiply each volume's axes by its matrices (n, size, size)."""
    for axis, matrix in enumerate(matrices, start=1):
        moved = volumes.movedim(axis, 1)
        volumes = torch.bmm(matrix, moved.flatten(2)).view_as(moved).movedim(1, axis)
    return volumes


def _column(values: torch.Tensor, volumes: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (volumes.ndim - 1))
