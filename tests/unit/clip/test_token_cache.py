"""Maps of tokens at the places of patches: they follow the augmentation, and the control by position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hippo_nnunet.clip.guidance_cache import guidance_axis
from hippo_nnunet.clip.text import control_embeddings, control_prompts
from hippo_nnunet.clip.token_cache import CachedTokens, PatchMaps, position_tokens
from hippo_nnunet.training.augmentation_spec import AugmentationSpec, Operation
from hippo_nnunet.training.case_bank import CaseBank, MemoryCase
from hippo_nnunet.training.memory_data import MemoryLoader, Sampling

SIDE = 12


def coordinates(*shape: int) -> torch.Tensor:
    """Voxel coordinates as channels, (axes, *shape)."""
    return torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))


def tokens_of_coordinates(shape: tuple[int, ...], axis: int) -> torch.Tensor:
    """Tokens that tell their own place in voxels, in the order (slice, other axes): (slices, 3, SIDE, SIDE)."""
    plane = [size for other, size in enumerate(shape) if other != axis]
    side = max(plane)
    centres = (torch.arange(SIDE) + 0.5) / SIDE * side - 0.5
    first, second = (centres - (side - size) // 2 for size in plane)
    return torch.stack(torch.meshgrid(torch.arange(float(shape[axis])), first, second, indexing="ij"), dim=1)


@pytest.mark.parametrize(("patch", "in_plane"), [((12, 16), False), ((8, 12, 16), False), ((8, 12, 16), True)])
def test_maps_follow_rotation_zoom_and_mirroring(patch: tuple[int, ...], in_plane: bool) -> None:
    shapes = {"a": (22, 40, 36), "b": (20, 34, 38)}
    bank = CaseBank(
        (
            MemoryCase(key, coordinates(*shape), torch.zeros(shape, dtype=torch.int16), {1: np.array([[9, 18, 18]])})
            for key, shape in shapes.items()
        ),
        sum(int(np.prod(shape)) for shape in shapes.values()),
        torch.device("cpu"),
        torch.int16,
    )
    spec = AugmentationSpec(
        rotation=Operation(0.8, (-0.4, 0.4)),
        scaling=Operation(0.8, (0.8, 1.1)),
        p_mirror=0.5,
        mirror_axes=tuple(range(len(patch))),
    )
    loader = MemoryLoader(bank, Sampling(10, patch, 1.0, in_plane=in_plane, seed=(3,)), spec)
    axis = guidance_axis(patch)
    cells = tuple(size // 4 for size in patch)
    maps = {key: tokens_of_coordinates(shape, axis) for key, shape in shapes.items()}
    batch = next(loader)
    found = CachedTokens(maps, shapes, PatchMaps(patch, cells)).of_batch(batch)
    assert found.shape == (10, 3, *cells)
    order = [axis, *(other for other in range(3) if other != axis)]
    pooled = F.avg_pool2d if len(patch) == 2 else F.avg_pool3d
    seen = pooled(batch["data"][:, order], 4)
    slack = 1.2 if len(patch) == 3 else 0.8  # half a voxel of the crop, half of a whole slice in 3D
    assert (found - seen).abs().max() < slack
    assert (found - seen.flip(-1)).abs().max() > 4  # mirrored the other way round, it would not fit


def test_maps_of_patches_outside_are_those_of_the_edge() -> None:
    maps = tokens_of_coordinates((5, 20, 20), 0)
    patches = PatchMaps((8, 8), (2, 2))
    inside, outside = patches([maps] * 2, [(5, 20, 20)] * 2, torch.tensor([[4, 0, 12], [9, -40, 12]]))
    assert outside[0].eq(4).all()
    assert inside[0].eq(4).all()
    assert outside[1].max() < 1
    torch.testing.assert_close(outside[2], inside[2])


def test_controls_of_single_prompts_are_those_of_the_classes() -> None:
    prompts = [F.normalize(torch.randn(n, 6, generator=torch.Generator().manual_seed(n)), dim=1) for n in (2, 3, 4)]
    means = F.normalize(torch.stack([of_class.mean(0) for of_class in prompts]), dim=1)
    for control in (None, "rotatedText", "shuffledText"):
        changed = control_prompts(prompts, control, 1)
        again = F.normalize(torch.stack([of_class.mean(0) for of_class in changed]), dim=1)
        torch.testing.assert_close(again, control_embeddings(means, control, 1))
    assert control_prompts(prompts, "randomText", 0) == []


def test_position_tokens_tell_the_position_alone() -> None:
    tokens = position_tokens(6, 4, 16, 1)
    assert tokens.shape == (6, 16, 4, 4)
    torch.testing.assert_close(tokens.norm(dim=1), torch.ones(6, 4, 4))
    assert torch.equal(tokens, position_tokens(6, 4, 16, 1))
    assert not torch.equal(tokens, position_tokens(6, 4, 16, 2))
    flat = tokens.movedim(1, -1).flatten(0, 2)
    assert len({tuple(row) for row in flat.tolist()}) == 6 * 4 * 4
    near, far = flat[0] @ flat[1], flat[0] @ flat[-1]
    assert near > far
