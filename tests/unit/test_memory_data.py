"""The in-memory loader draws what nnU-Net's loader draws, and the same batch for the same step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hippo_nnunet.training.augmentation import SHORT_SCHEDULE, AugmentationSpec
from hippo_nnunet.training.memory_data import MemoryCase, MemoryLoader, Sampling


def case(key: str, shape=(6, 10, 8), seed: int = 0) -> MemoryCase:
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int16)
    labels[2, 3:6, 2:5] = 1
    labels[3, 3:6, 2:5] = 2
    locations = {label: np.argwhere(labels == label) for label in (1, 2)}
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    return MemoryCase(key, torch.from_numpy(image), torch.from_numpy(labels), locations)


def loader(patch, augmentation=None, **changes) -> MemoryLoader:
    sampling = Sampling(**{"batch_size": 9, "patch_size": patch, "foreground_share": 0.33} | changes)
    return MemoryLoader([case("a", seed=1), case("b", seed=2)], sampling, augmentation or AugmentationSpec())


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
    draws = MemoryLoader([sparse], sampling, AugmentationSpec())
    rng = np.random.default_rng(0)
    assert {draws._corner(sparse, False, rng)[0] for _ in range(50)} == {4}
    assert {draws._corner(sparse, True, rng)[0] for _ in range(50)} == {2, 3}


def test_a_case_without_foreground_is_drawn_anywhere():
    empty = MemoryCase("e", torch.zeros(1, 5, 8, 8), torch.zeros(5, 8, 8, dtype=torch.int16), {})
    sampling = Sampling(batch_size=6, patch_size=(4, 4), foreground_share=1.0)
    assert next(MemoryLoader([empty], sampling, AugmentationSpec()))["target"].max() == 0
