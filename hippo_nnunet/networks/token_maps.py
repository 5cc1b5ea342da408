"""Maps of a frozen encoder's tokens at the places of a network's coarse features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from hippo_nnunet.networks.guidance import orthonormal_rows

TOKEN_CHANNELS = 32
"""Directions of the tokens' space that are kept beside the similarities to the texts, at most.

Source: ours. A random projection to more dimensions than the tokens vary in loses nothing but scale; 32 of 512 keep
the tokens of Task04's slices at 30 MB for ViT-B-32 and 120 MB for ViT-B-16.
"""


def token_directions(text: torch.Tensor) -> torch.Tensor:
    """Return the unit directions along which tokens are measured.

    First the texts', then fixed random orthonormal ones, the same for every data set and every text.

    Args:
        text: Unit vectors, shape (classes, embed_dim).

    Returns:
        float32, shape (classes + ``TOKEN_CHANNELS``, embed_dim), or fewer rows for a smaller embed_dim.
    """
    dim = text.shape[1]
    return torch.cat((text.float(), orthonormal_rows(min(dim, TOKEN_CHANNELS), dim, 0).to(text.device, torch.float32)))


def token_features(tokens: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Measure tokens along directions.

    Args:
        tokens: Shape (n, embed_dim, rows, columns).
        directions: Of ``token_directions``.

    Returns:
        Shape (n, directions, rows, columns). The factor sqrt(embed_dim) gives the component of a random unit vector a
        variance of one.
    """
    return math.sqrt(directions.shape[1]) * torch.einsum("kd,ndyx->nkyx", directions, tokens)


def cell_positions(patch_size: Sequence[int], shape: Sequence[int], whole: int | None) -> torch.Tensor:
    """Return the centre of each cell of a coarse map, in voxels of the patch.

    Args:
        patch_size: Patch in voxels.
        shape: Size of the map along each axis, at most the patch's.
        whole: Axis along which the positions are whole voxels, so that a slice lies there; None for none.

    Returns:
        float32, shape (*shape, axes).
    """
    axes = []
    for axis, (size, cells) in enumerate(zip(patch_size, shape, strict=True)):
        centre = (torch.arange(cells) + 0.5) * (size / cells) - 0.5
        axes.append((centre + 0.5).floor() if axis == whole else centre)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def moved_positions(
    positions: torch.Tensor, patch_size: Sequence[int], corners: torch.Tensor, matrices: torch.Tensor
) -> torch.Tensor:
    """Return where positions in augmented patches come from.

    Args:
        positions: Voxels of the patch, shape (*shape, axes).
        patch_size: Patch in voxels.
        corners: Lower corner of each patch in voxels of its image before augmentation, shape (batch, axes).
        matrices: Rotation, zoom and mirroring of each patch about its centre, shape (batch, axes, axes).

    Returns:
        Voxels of the image, shape (batch, *shape, axes).
    """
    centre = (torch.tensor(patch_size) - 1) / 2
    moved = torch.einsum("bij,...j->b...i", matrices, positions - centre)
    return moved + (centre + corners).view(len(corners), *[1] * (positions.dim() - 1), -1)


def sample_tokens(maps: torch.Tensor, plane: Sequence[int], positions: torch.Tensor, axis: int) -> torch.Tensor:
    """Interpolate the tokens of an image's slices linearly; outside of the image the nearest count.

    Args:
        maps: Shape (slices, channels, rows, columns), of slices that were padded to a square around their middle; half
            a voxel aside where that takes an odd number of voxels.
        plane: Size of a slice in voxels.
        positions: Voxels of the image, shape (*shape, 3): three axes of shape, or two where all lie in one slice.
        axis: The axis of the image across which it was cut into slices.

    Returns:
        float32, shape (channels, *shape).
    """
    flat = positions.dim() == 3
    if flat:
        place = int(positions[0, 0, axis].clamp(0, len(maps) - 1))
        maps = maps[place : place + 1]
        positions = positions[None]
    side = max(plane)
    places = torch.stack([positions[..., a] for a in (axis, *(a for a in range(3) if a != axis))], dim=-1)
    # the padding before is half of the difference, rounded up or down: down if the slice is shown as it is stored
    before = places.new_tensor([0, *((side - size) / 2 for size in plane)])
    grid = 2 * (places + before + 0.5) / places.new_tensor([len(maps), side, side]) - 1
    volume = maps.float().movedim(1, 0)[None]
    sampled = F.grid_sample(volume, grid.flip(-1)[None], padding_mode="border", align_corners=False)[0]
    return sampled[:, 0] if flat else sampled
