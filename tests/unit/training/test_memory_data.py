"""The in-memory loader draws what nnU-Net's loader draws, and the same batch for the same step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hippo_nnunet.training.augmentation_spec import (
    SHORT_SCHEDULE,
    AugmentationSpec,
    Operation,
    stock_spec,
    within_degrees,
)
from hippo_nnunet.training.case_bank import CaseBank, MemoryCase
from hippo_nnunet.training.memory_data import MemoryLoader, Sampling
from hippo_nnunet.training.neighbours import with_neighbours


def case(key: str, shape=(6, 10, 8), seed: int = 0) -> MemoryCase:
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int16)
    labels[2, 3:6, 2:5] = 1
    labels[3, 3:6, 2:5] = 2
    locations = {label: np.argwhere(labels == label) for label in (1, 2)}
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    return MemoryCase(key, torch.from_numpy(image), torch.from_numpy(labels), locations)


def bank(*cases: MemoryCase, label_dtype: torch.dtype = torch.int16) -> CaseBank:
    return CaseBank(iter(cases), sum(c.labels.numel() for c in cases), torch.device("cpu"), label_dtype)


def loader(patch, augmentation=None, **changes) -> MemoryLoader:
    sampling = Sampling(**{"batch_size": 9, "patch_size": patch, "foreground_share": 0.33} | changes)
    return MemoryLoader(bank(case("a", seed=1), case("b", seed=2)), sampling, augmentation or AugmentationSpec())


@pytest.mark.parametrize("patch", [(8, 6), (4, 8, 6)])
def test_a_batch_has_the_shape_and_types_that_the_trainer_expects(patch):
    scales = ((1.0,) * len(patch), (0.5,) * len(patch))
    batch = next(loader(patch, SHORT_SCHEDULE, target_scales=scales))
    assert batch["data"].shape == (9, 1, *patch)
    assert batch["data"].dtype == torch.float32
    assert [t.shape for t in batch["target"]] == [(9, 1, *patch), (9, 1, *(n // 2 for n in patch))]
    assert {t.dtype for t in batch["target"]} == {torch.int16}
    assert set(batch["keys"]) <= {"a", "b"}
    assert min(t.min() for t in batch["target"]) >= 0


def test_the_last_third_of_a_batch_holds_foreground_of_every_class_in_turn():
    draws = loader((8, 6))
    seen = {1: 0, 2: 0}
    for _ in range(60):
        target = next(draws)["target"]
        for sample in target[6:]:
            present = set(sample.unique().tolist()) - {0}
            assert len(present) == 1  # a slice holds one class here
            seen[present.pop()] += 1
    assert seen[1] / sum(seen.values()) == pytest.approx(0.5, abs=0.12)


def test_step_fixes_the_batch():
    first, again, later = loader((8, 6), SHORT_SCHEDULE), loader((8, 6), SHORT_SCHEDULE), loader((8, 6), SHORT_SCHEDULE)
    batches = [next(first) for _ in range(4)]
    again.step = 3
    assert torch.equal(next(again)["data"], batches[3]["data"])
    assert not torch.equal(batches[2]["data"], batches[3]["data"])
    other = loader((8, 6), SHORT_SCHEDULE, seed=(1,))
    assert not torch.equal(next(other)["data"], next(later)["data"])


def test_patches_lie_where_nnunets_loader_puts_them():
    """Corners, against nnU-Net's own get_bbox for the same sizes."""
    from types import SimpleNamespace

    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    shape, cut, final = (6, 10, 8), (1, 14, 7), (1, 12, 6)
    upstream = SimpleNamespace(
        need_to_pad=np.array(cut) - np.array(final), patch_size=cut, has_ignore=False, annotated_classes_key=(-1, 0, 1)
    )
    ours = loader((12, 6))
    ours._cut, ours._final = cut, final
    rng = np.random.default_rng(0)
    single = case("a", shape)
    for foreground in (False, True):
        theirs = set()
        for _ in range(1000):
            locations = {k: np.insert(v, 0, 0, axis=1) for k, v in single.locations.items()}
            low, _ = nnUNetDataLoader.get_bbox(upstream, np.array(shape), foreground, locations)
            theirs.add(tuple(int(i) for i in low))
        drawn = {tuple(ours._corner(single, foreground, rng)) for _ in range(1000)}
        assert drawn == theirs


def test_a_patch_larger_than_the_image_is_filled_up():
    batch = next(loader((16, 12)))
    assert batch["data"].shape == (9, 1, 16, 12)
    assert (batch["data"] == 0).float().mean() > 0.4
    assert batch["data"].std() > 0


def test_regions_and_the_ignore_label_become_channels():
    batch = next(loader((8, 6), regions=((1, 2), (2,), (3,)), target_scales=((1.0, 1.0), (0.5, 0.5))))
    full, half = batch["target"]
    assert full.shape == (9, 3, 8, 6)
    assert half.shape == (9, 3, 4, 3)
    assert full.dtype == half.dtype == torch.bool
    assert (full[:, 0] >= full[:, 1]).all()
    assert not full[:, 2].any()


def test_with_an_ignore_label_every_patch_is_drawn_from_annotated_voxels():
    one = case("a")
    key = (-1, 0, 1, 2)
    sparse = MemoryCase("a", one.image, one.labels, {**one.locations, key: np.array([[4, 5, 4]])})
    sampling = Sampling(batch_size=6, patch_size=(4, 4), foreground_share=0.5, annotated_key=key)
    draws = MemoryLoader(bank(sparse), sampling, AugmentationSpec())
    rng = np.random.default_rng(0)
    assert {draws._corner(sparse, False, rng)[0] for _ in range(50)} == {4}
    assert {draws._corner(sparse, True, rng)[0] for _ in range(50)} == {2, 3}


def test_a_case_without_foreground_is_drawn_anywhere():
    empty = MemoryCase("e", torch.zeros(1, 5, 8, 8), torch.zeros(5, 8, 8, dtype=torch.int16), {})
    sampling = Sampling(batch_size=6, patch_size=(4, 4), foreground_share=1.0)
    assert next(MemoryLoader(bank(empty), sampling, AugmentationSpec()))["target"].max() == 0


def test_a_bank_holds_what_it_was_given_and_cuts_across_its_borders():
    rng = np.random.default_rng(3)
    cases = []
    for key, shape in (("a", (4, 5, 6)), ("b", (3, 7, 2)), ("c", (6, 4, 9))):
        image = torch.from_numpy(rng.normal(size=(2, *shape)).astype(np.float32))
        cases.append(MemoryCase(key, image, torch.from_numpy(rng.integers(0, 4, shape).astype(np.int8)), {}))
    held = bank(*cases, label_dtype=torch.int8)
    assert held.values == (-1, 0, 1, 2, 3)
    for given, kept in zip(cases, held.cases, strict=True):
        assert torch.equal(given.image, kept.image)
        assert torch.equal(given.labels, kept.labels)
        assert kept.image.untyped_storage().data_ptr() == held.cases[0].image.untyped_storage().data_ptr()
    chosen, corners = rng.integers(3, size=200), rng.integers(-6, 8, (200, 3))
    size = (3, 5, 4)
    image, labels = held.cut(chosen, corners, size)
    assert image.shape == (200, 2, *size) and labels.shape == (200, 1, *size) and labels.dtype == torch.int8
    for sample, (index, corner) in enumerate(zip(chosen, corners, strict=True)):
        source = cases[index]
        wide = np.pad(source.image.numpy(), [(0, 0)] + [(20, 20)] * 3)
        narrow = np.pad(source.labels.numpy(), 20, constant_values=-1)
        window = tuple(slice(c + 20, c + 20 + n) for c, n in zip(corner, size, strict=True))
        assert np.array_equal(image[sample].numpy(), wide[(slice(None), *window)])
        assert np.array_equal(labels[sample, 0].numpy(), narrow[window])


@pytest.mark.parametrize("patch", [(7, 5), (4, 7, 5)])
@pytest.mark.parametrize("kind", ["none", "short", "stock"])
def test_corners_tell_where_the_final_patch_lies(patch, kind):
    still = {
        "none": AugmentationSpec(),
        "short": AugmentationSpec(rotation=Operation(1e-9, within_degrees(20)), scaling=Operation(1e-9, (0.8, 1.25))),
        "stock": AugmentationSpec(sampled_patch=tuple(n + 4 for n in patch)),
    }[kind]
    draws = loader(patch, still)
    for _ in range(5):
        batch = next(draws)
        assert batch["corners"].dtype == torch.int64 and batch["corners"].shape == (9, 3)
        held = {c.key: c for c in draws.bank.cases}
        size = (1, *patch) if len(patch) == 2 else patch
        for sample, key, corner in zip(batch["data"], batch["keys"], batch["corners"].tolist(), strict=True):
            wide = np.pad(held[key].image.numpy(), [(0, 0)] + [(30, 30)] * 3)
            window = tuple(slice(c + 30, c + 30 + n) for c, n in zip(corner, size, strict=True))
            expected = torch.from_numpy(wide[(slice(None), *window)]).view(sample.shape)
            assert torch.allclose(sample, expected, atol=1e-5)


def test_adjacent_slices_are_channels_and_the_target_is_the_middle_ones():
    plain, wide = loader((7, 5)), loader((7, 5), slices=5)
    for _ in range(5):
        alone, batch = next(plain), next(wide)
        assert batch["data"].shape == (9, 5, 7, 5)
        assert torch.equal(batch["data"][:, 2:3], alone["data"])
        assert torch.equal(batch["target"], alone["target"])
        assert torch.equal(batch["corners"], alone["corners"])
        held = {c.key: c for c in wide.bank.cases}
        for sample, key, corner in zip(batch["data"], batch["keys"], batch["corners"].tolist(), strict=True):
            seen = with_neighbours(held[key].image, 5)[:, corner[0]].numpy()
            padded = np.pad(seen, [(0, 0), (9, 9), (9, 9)])
            window = tuple(slice(c + 9, c + 9 + n) for c, n in zip(corner[1:], (7, 5), strict=True))
            assert np.array_equal(sample.numpy(), padded[(slice(None), *window)])


def test_neighbours_come_in_order_with_zeros_outside():
    image = torch.arange(1.0, 9.0).view(2, 4, 1, 1)
    two = MemoryCase("a", image, torch.zeros(4, 1, 1, dtype=torch.int16), {})
    sampling = Sampling(batch_size=9, patch_size=(1, 1), foreground_share=0.0, slices=3)
    batch = next(MemoryLoader(bank(two), sampling, AugmentationSpec()))
    for sample, (z, _, _) in zip(batch["data"], batch["corners"].tolist(), strict=True):
        assert sample.equal(with_neighbours(image, 3)[:, z])
    assert with_neighbours(image, 1).equal(image)
    assert with_neighbours(image, 3)[..., 0, 0].tolist() == [
        *([0, 1, 2, 3], [0, 5, 6, 7]),
        *([1, 2, 3, 4], [5, 6, 7, 8]),
        *([2, 3, 4, 0], [6, 7, 8, 0]),
    ]


def test_the_stock_augmentation_draws_the_same_batch_for_the_same_step_and_keeps_labels():
    spec = stock_spec((-3.1, 3.1), (13, 11), (0, 1))
    batches = []
    for _ in range(2):
        draws = loader((8, 6), spec, batch_size=40, target_scales=((1.0, 1.0), (0.5, 0.5)))
        draws.step = 4
        batches.append(next(draws))
    assert torch.equal(batches[0]["data"], batches[1]["data"])
    full, half = batches[0]["target"]
    assert full.shape == (40, 1, 8, 6) and half.shape == (40, 1, 4, 3) and full.dtype == torch.int16
    assert set(full.unique().tolist()) == {0, 1, 2}
    draws.step = 5
    assert not torch.equal(next(draws)["data"], batches[0]["data"])


def test_masked_channels_are_zero_outside_the_nonzero_region_alone():
    one = case("a", seed=1)
    labels = one.labels.clone()
    labels[:, :, :2] = -1
    image = torch.cat([one.image + 9, one.image + 9])
    masked = MemoryCase("a", image, labels, one.locations)
    sampling = Sampling(batch_size=9, patch_size=(8, 6), foreground_share=1.0, masked_channels=(1,))
    batch = next(MemoryLoader(bank(masked), sampling, AugmentationSpec()))
    plain = next(MemoryLoader(bank(masked), replace(sampling, masked_channels=()), AugmentationSpec()))
    for sample, free, corner in zip(batch["data"], plain["data"], batch["corners"].tolist(), strict=True):
        assert torch.equal(sample[0], free[0])
        outside = torch.arange(6) + corner[2] < 2
        assert not sample[1, :, outside].any()
        assert torch.equal(sample[1, :, ~outside], free[1, :, ~outside])


def test_probabilistic_oversampling_draws_each_sample_on_its_own():
    draws = loader((4, 4), probabilistic=True, batch_size=300, foreground_share=0.5)
    centred = [bool(t.any()) for t in next(draws)["target"]]
    plain = loader((4, 4), batch_size=300, foreground_share=0.0)
    chance = np.mean([bool(t.any()) for t in next(plain)["target"]])
    assert np.mean(centred) == pytest.approx(0.5 + 0.5 * chance, abs=0.09)
    assert abs(np.mean(centred[:150]) - np.mean(centred[150:])) < 0.2  # not the last ones alone


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_patches_and_prefetching_changes_nothing():
    device = torch.device("cuda")
    sampling = Sampling(batch_size=9, patch_size=(8, 6), foreground_share=0.33, target_scales=((1.0, 1.0), (0.5, 0.5)))
    cases = [case("a", seed=1), case("b", seed=2)]
    for spec in (SHORT_SCHEDULE, stock_spec((-3.1, 3.1), (13, 11), (0, 1))):
        ahead = MemoryLoader(bank(*cases, device=device), sampling, spec)
        batches = [next(ahead) for _ in range(4)]
        ahead.step = 1
        again = next(ahead)
        alone = MemoryLoader(bank(*cases, device=device), sampling, spec)
        on_cpu = MemoryLoader(bank(*cases), sampling, spec)
        for step, batch in enumerate(batches):
            direct, host = alone._draw(step), on_cpu._draw(step)
            assert torch.equal(batch["data"], direct["data"])
            assert all(torch.equal(a, b) for a, b in zip(batch["target"], direct["target"], strict=True))
            assert torch.equal(batch["corners"], host["corners"]) and batch["keys"] == host["keys"]
        assert torch.equal(again["data"], batches[1]["data"])
