"""The batched augmentation: geometry by hand, frequencies by counting, agreement with batchgeneratorsv2."""

from __future__ import annotations

import math

import pytest
import torch

from hippo_nnunet.nnunet.loaders import build_transforms
from hippo_nnunet.training.augmentation import BatchRandom, augment_batch, draw_geometry
from hippo_nnunet.training.augmentation_spec import (
    PUBLISHED,
    SHORT_SCHEDULE,
    AugmentationSpec,
    Operation,
    left_right_axes,
    sampled_patch_size,
    within_degrees,
)


def batch_of(n: int, *size: int) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.randn(n, 1, *size, generator=torch.Generator().manual_seed(1))
    labels = (image > 0.5).to(torch.int16) + (image > 1.5).to(torch.int16)
    return image, labels


def test_no_augmentation_changes_nothing():
    image, labels = batch_of(4, 9, 7)
    out, seg = augment_batch(image, labels, (9, 7), AugmentationSpec(), BatchRandom(0))
    assert torch.equal(out, image)
    assert torch.equal(seg, labels)


@pytest.mark.parametrize("size", [(8, 6), (4, 6, 8)])
def test_mirroring_flips_each_axis_in_half_of_the_samples_and_labels_follow(size):
    n = 400
    image, labels = batch_of(1, *size)
    image, labels = image.expand(n, *image.shape[1:]), labels.expand(n, *labels.shape[1:])
    out, seg = augment_batch(image, labels, size, PUBLISHED["flip"], BatchRandom(0))
    assert torch.equal(seg, (out > 0.5).to(torch.int16) + (out > 1.5).to(torch.int16))
    seen = {tuple(o.flatten().tolist()) for o in out}
    assert len(seen) == 2 ** len(size)
    share = sum(torch.equal(o, image[0]) for o in out) / n
    assert share == pytest.approx(0.5 ** len(size), abs=0.06)


def test_only_the_axes_named_are_mirrored():
    image, labels = batch_of(50, 5, 5)
    out, _ = augment_batch(image, labels, (5, 5), AugmentationSpec(p_mirror=1.0, mirror_axes=(1,)), BatchRandom(0))
    assert torch.equal(out, image.flip(3))


def test_a_quarter_turn_moves_a_voxel_where_it_belongs():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 0, 2] = 1.0  # two voxels above the centre
    labels = image.to(torch.int16)
    # the angle is uniform in +-90 degrees: over many draws, find near quarter turns
    spec = AugmentationSpec(rotation=Operation(1.0, within_degrees(90)))
    ends = []
    for seed in range(300):
        out, seg = augment_batch(image, labels, (5, 5), spec, BatchRandom(seed))
        row, column = divmod(int(out[0, 0].argmax()), 5)
        assert math.hypot(row - 2, column - 2) == pytest.approx(2, abs=0.9)
        assert seg.max() <= 1
        ends.append((row, column))
    assert (2, 0) in ends or (2, 4) in ends
    assert (4, 2) not in ends  # half a turn is beyond the limit


def test_zooming_in_magnifies():
    image = torch.zeros(1, 1, 21, 21)
    image[..., 8:13, 8:13] = 1
    spec = AugmentationSpec(scaling=Operation(1.0, (2.0, 2.0)))
    out, seg = augment_batch(image, image.to(torch.int16), (21, 21), spec, BatchRandom(0))
    assert 81 <= int(seg.sum()) <= 121  # 5x5 becomes about 10x10
    assert out.max() == 1


def test_what_lies_outside_is_zero_and_marked():
    image, labels = torch.ones(1, 1, 9, 9), torch.ones(1, 1, 9, 9, dtype=torch.int16)
    spec = AugmentationSpec(scaling=Operation(1.0, (0.5, 0.5)))
    out, seg = augment_batch(image, labels, (9, 9), spec, BatchRandom(0))
    assert out[0, 0, 0, 0] == 0
    assert seg[0, 0, 0, 0] == -1
    assert seg[0, 0, 4, 4] == 1


def test_in_plane_rotation_leaves_slices_apart():
    image = torch.zeros(8, 1, 5, 9, 9)
    image[:, :, 2] = 1
    spec = AugmentationSpec(rotation=Operation(1.0, within_degrees(45)), scaling=Operation(1.0, (0.9, 1.1)))
    out, _ = augment_batch(image, image.to(torch.int16), (5, 9, 9), spec, BatchRandom(0), in_plane=True)
    assert out[:, :, [0, 1, 3, 4]].abs().max() < 1e-5
    assert out[:, :, 2, 4, 4] == pytest.approx(1)


def test_noise_has_the_published_strength_and_frequency():
    image, labels = torch.zeros(3000, 1, 6, 6), torch.zeros(3000, 1, 6, 6, dtype=torch.int16)
    spec = AugmentationSpec(noise=Operation(0.3, (0.01, 0.01)))
    out, _ = augment_batch(image, labels, (6, 6), spec, BatchRandom(0))
    noisy = out.flatten(1).abs().amax(1) > 0
    assert noisy.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert out[noisy].std().item() == pytest.approx(0.01, rel=0.05)


def test_intensity_changes_keep_what_they_promise():
    image, labels = batch_of(64, 16, 16)
    gamma, _ = augment_batch(
        image, labels, (16, 16), AugmentationSpec(gamma=Operation(1.0, (0.7, 1.5))), BatchRandom(0)
    )
    assert torch.allclose(gamma.mean((2, 3)), image.mean((2, 3)), atol=1e-4)
    assert torch.allclose(gamma.std((2, 3)), image.std((2, 3)), rtol=1e-3)
    assert not torch.allclose(gamma, image)
    spec = AugmentationSpec(contrast=Operation(1.0, (1.5, 1.5)))
    contrast, _ = augment_batch(image, labels, (16, 16), spec, BatchRandom(0))
    assert (contrast.amax((2, 3)) <= image.amax((2, 3)) + 1e-6).all()
    spec = AugmentationSpec(brightness=Operation(1.0, (1.25, 1.25)))
    bright, _ = augment_batch(image, labels, (16, 16), spec, BatchRandom(0))
    assert torch.allclose(bright, image * 1.25)


@pytest.mark.parametrize("per_channel", [False, True])
def test_channels_share_a_parameter_unless_told_otherwise(per_channel):
    image = torch.ones(50, 2, 4, 4)
    labels = torch.zeros(50, 1, 4, 4, dtype=torch.int16)
    spec = AugmentationSpec(brightness=Operation(0.5, (1.5, 2.0), per_channel=per_channel))
    factors = augment_batch(image, labels, (4, 4), spec, BatchRandom(0))[0][:, :, 0, 0]
    brightened = factors > 1
    assert torch.equal(brightened[:, 0], brightened[:, 1])  # a sample is chosen as a whole
    assert brightened[:, 0].float().mean().item() == pytest.approx(0.5, abs=0.2)
    assert torch.equal(factors[:, 0], factors[:, 1]) != per_channel
    some = AugmentationSpec(brightness=Operation(1.0, (1.5, 2.0), p_channel=0.5))
    changed = augment_batch(image, labels, (4, 4), some, BatchRandom(0))[0][:, :, 0, 0] > 1
    assert (changed[:, 0] != changed[:, 1]).any()


def test_a_scaling_of_the_grid_shrinks_where_a_zoom_magnifies():
    image = torch.zeros(1, 1, 21, 21)
    image[..., 5:16, 5:16] = 1
    areas = [
        int(augment_batch(image, image.to(torch.int16), (21, 21), spec, BatchRandom(0))[1].clamp(min=0).sum())
        for spec in (
            AugmentationSpec(scaling=Operation(1.0, (0.5, 0.5))),
            AugmentationSpec(scaling=Operation(1.0, (2.0, 2.0)), scaling_of_grid=True),
        )
    ]
    assert areas[0] == areas[1] == pytest.approx(11 * 11 / 4, abs=8)
    grid = AugmentationSpec(scaling=Operation(1.0, (0.7, 2.0)), scaling_of_grid=True)
    assert sampled_patch_size(grid, (56, 40)) == (112, 80)


def test_a_seed_fixes_the_batch():
    image, labels = batch_of(6, 30, 24)
    first, one = augment_batch(image, labels, (20, 16), SHORT_SCHEDULE, BatchRandom(3))
    second, two = augment_batch(image, labels, (20, 16), SHORT_SCHEDULE, BatchRandom(3))
    other, _ = augment_batch(image, labels, (20, 16), SHORT_SCHEDULE, BatchRandom(4))
    assert first.shape == (6, 1, 20, 16)
    assert torch.equal(first, second)
    assert torch.equal(one, two)
    assert not torch.equal(first, other)


def test_the_cut_covers_the_rotated_patch():
    assert sampled_patch_size(AugmentationSpec(), (56, 40)) == (56, 40)
    size = sampled_patch_size(AugmentationSpec(rotation=Operation(1, within_degrees(10))), (56, 40))
    assert size[0] >= 56 * math.cos(math.radians(10)) + 40 * math.sin(math.radians(10))
    assert size[1] >= 40 * math.cos(math.radians(10)) + 56 * math.sin(math.radians(10))
    zoomed = sampled_patch_size(AugmentationSpec(scaling=Operation(1, (0.5, 1))), (5, 56, 40), in_plane=True)
    assert zoomed == (5, 112, 80)


@pytest.mark.parametrize("patch", [(56, 40), (55, 41), (10, 13, 12)])
def test_samples_that_are_left_alone_stay_sharp(patch):
    spec = AugmentationSpec(rotation=Operation(1e-9, within_degrees(20)), scaling=Operation(1e-9, (0.8, 1.25)))
    image, labels = batch_of(3, *sampled_patch_size(spec, patch))
    out, seg = augment_batch(image, labels, patch, spec, BatchRandom(0))
    inner = [slice((n - p) // 2, (n + p) // 2) for n, p in zip(image.shape[2:], patch, strict=True)]
    assert torch.allclose(out, image[(..., *inner)], atol=1e-4)
    assert torch.equal(seg, labels[(..., *inner)])


def test_batchgeneratorsv2_runs_the_published_recipe_with_the_same_noise():
    transforms = build_transforms(PUBLISHED["flipRotNoise"], (12, 12))
    assert [type(t).__name__ for t in transforms] == ["SpatialTransform", "RandomTransform", "MirrorTransform"]
    image, labels = torch.zeros(1, 12, 12), torch.zeros(1, 12, 12, dtype=torch.int16)
    noise = transforms[1].transform
    noisy = noise(image=image.clone(), segmentation=labels)["image"]
    assert noisy.std().item() == pytest.approx(0.01, rel=0.3)
    assert transforms[1].apply_probability == 0.3
    assert len(build_transforms(PUBLISHED["noAug"], (12, 12))) == 1


@pytest.mark.parametrize(
    ("order", "dim", "axes"),
    [([0, 1, 2], 3, (2,)), ([0, 1, 2], 2, (1,)), ([1, 0, 2], 2, (1,)), ([2, 0, 1], 3, (0,)), ([2, 0, 1], 2, ())],
)
def test_left_and_right_are_found_in_the_transposed_patch(order, dim, axes):
    assert left_right_axes(order, dim) == axes


@pytest.mark.parametrize(("patch", "in_plane"), [((9, 8), False), ((6, 9, 8), False), ((6, 9, 8), True)])
def test_matrices_say_where_each_voxel_comes_from(patch, in_plane):
    spec = AugmentationSpec(
        rotation=Operation(0.8, (-0.5, 0.5)),
        scaling=Operation(0.8, (0.8, 1.2)),
        p_mirror=0.5,
        mirror_axes=tuple(range(len(patch))),
    )
    sampled = [30 + size % 2 for size in patch]  # the same centre
    if in_plane:
        sampled[0] = patch[0]
    axes = torch.meshgrid(*(torch.arange(size) - (size - 1) / 2 for size in sampled), indexing="ij")
    image = torch.stack(axes).expand(12, -1, *sampled).clone()
    geometry = draw_geometry(spec, 12, len(patch), in_plane, BatchRandom(3))
    out, _ = augment_batch(
        image, image[:, :1].to(torch.int16), patch, spec, BatchRandom(3), in_plane, (-1, 0), drawn=geometry
    )
    grid = torch.stack(
        torch.meshgrid(*(torch.arange(size) - (size - 1) / 2 for size in patch), indexing="ij"), dim=-1
    ).float()
    expected = torch.einsum("bij,...j->bi...", geometry.matrices(12, len(patch)), grid)
    inside = expected.abs().amax(1, keepdim=True) < 13
    torch.testing.assert_close(out * inside, expected * inside, atol=1e-4, rtol=0)
    assert len(set(map(str, geometry.matrices(12, len(patch))))) > 6
