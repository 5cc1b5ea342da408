"""Maps of CLIP's tokens at the places of patches, from the stored tokens of each slice of each case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from hippo_nnunet.clip.encoder import CLIPEncoder
from hippo_nnunet.clip.guidance_cache import Dataset, guidance_axis, read_slices
from hippo_nnunet.networks.guidance import spaced_slices
from hippo_nnunet.networks.token_maps import cell_positions, moved_positions, sample_tokens

SEEN_CASES, SEEN_SLICES = 16, 4
"""Cases, and slices of each, whose tokens stand for those of the training's images."""


class PatchMaps:
    """The guidance of patches: maps of their image's tokens, by position.

    Args:
        patch_size: Patch in voxels; two numbers for slices along the first axis of a case.
        shape: Size of a patch's map along each axis.
    """

    def __init__(self, patch_size: Sequence[int], shape: Sequence[int]) -> None:
        self._patch_size = [int(size) for size in patch_size]
        self._axis = guidance_axis(patch_size)
        self._flat = len(self._patch_size) == 2
        self._cells = cell_positions(self._patch_size, shape, None if self._flat else self._axis)

    def __call__(
        self,
        maps: Sequence[torch.Tensor],
        shapes: Sequence[Sequence[int]],
        corners: torch.Tensor,
        matrices: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the maps of patches.

        Args:
            maps: Of each patch the features of its image's tokens, (slices, channels, rows, columns).
            shapes: Size of each one's image in voxels, (z, y, x).
            corners: Lower corners, int64 (batch, 3), in voxels of the image; they may lie outside.
            matrices: Rotation, zoom and mirroring of each patch, as batches in memory have them; None for none.

        Returns:
            float32 (batch, channels, *shape), on the device of the maps.
        """
        dim = len(self._patch_size)
        if matrices is None:
            matrices = torch.eye(dim).expand(len(corners), dim, dim)
        positions = moved_positions(self._cells, self._patch_size, corners[:, 3 - dim :], matrices)
        if self._flat:
            slices = corners[:, :1].to(positions).view(-1, 1, 1, 1).expand(*positions.shape[:-1], 1)
            positions = torch.cat((slices, positions), dim=-1)
        planes = [[size for axis, size in enumerate(shape) if axis != self._axis] for shape in shapes]
        parts = zip(maps, planes, positions, strict=True)
        return torch.stack([sample_tokens(own, plane, at.to(own.device), self._axis) for own, plane, at in parts])


class CachedTokens:
    """The guidance of a training's batches.

    Args:
        maps: Case to the features of its tokens, (slices, channels, rows, columns).
        shapes: Case to its size in voxels, (z, y, x).
        patches: Samples the maps.
    """

    def __init__(
        self, maps: Mapping[str, torch.Tensor], shapes: Mapping[str, Sequence[int]], patches: PatchMaps
    ) -> None:
        self._maps, self._shapes, self._patches = maps, shapes, patches

    def of_batch(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the guidance of a `MemoryLoader`'s batch, float32 (batch, channels, *shape), on the CPU."""
        maps = [self._maps[key] for key in batch["keys"]]
        shapes = [self._shapes[key] for key in batch["keys"]]
        return self._patches(maps, shapes, batch["corners"], batch["matrices"])


def training_tokens(
    dataset: Dataset,
    cases: Sequence[str],
    encoder: CLIPEncoder,
    axis: int,
    transpose: Sequence[int],
    device: torch.device,
) -> torch.Tensor:
    """Return the tokens of a few slices of a few cases, evenly spaced, for their mean and deviation.

    Args:
        dataset: All preprocessed cases of a configuration.
        cases: Those of the training.
        encoder: The frozen encoder.
        axis: Axis of the case along which slices are taken: 0, 1 or 2.
        transpose: `transpose_forward` of the plans.
        device: Where the encoder runs.

    Returns:
        float32 (slices, embed_dim, rows, columns), on the device.

    Raises:
        DataError: A preprocessed case cannot be read.
    """
    tokens = []
    for case in [sorted(cases)[place] for place in spaced_slices(len(cases), SEEN_CASES)]:
        slices, _ = read_slices(dataset, case, axis, transpose, device)
        tokens.append(encoder.encode_patches(slices[spaced_slices(len(slices), SEEN_SLICES)]).float())
    return torch.cat(tokens)


def position_tokens(count: int, side: int, embed_dim: int, seed: int) -> torch.Tensor:
    """Return unit vectors that tell nothing but the relative position of a slice in an image and of a token in it.

    Args:
        count: Number of slices.
        side: Rows and columns of tokens.
        embed_dim: Length of a vector.
        seed: Seed of the directions.

    Returns:
        float32, shape (count, embed_dim, side, side).

    Source: ours; random Fourier features of up to two periods (Tancik et al. 2020, arXiv:2006.10739).
    """
    random = torch.Generator().manual_seed(seed)
    frequencies = 4 * torch.pi * (torch.rand(embed_dim, 3, generator=random) - 0.5) * 2
    phases = 2 * torch.pi * torch.rand(embed_dim, generator=random)
    axes = [(torch.arange(size) + 0.5) / size for size in (count, side, side)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return F.normalize((places @ frequencies.T + phases).cos().permute(0, 3, 1, 2), dim=1)
