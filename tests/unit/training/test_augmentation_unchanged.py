"""Trainings that were made with `fast` and the published recipes can be repeated: their batches never change."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from hippo_nnunet.training.augmentation_spec import PUBLISHED, SHORT_SCHEDULE, AugmentationSpec
from hippo_nnunet.training.case_bank import CaseBank, MemoryCase
from hippo_nnunet.training.memory_data import MemoryLoader, Sampling

SCALES = ((1.0, 1.0), (0.5, 0.5), (0.25, 0.25))
RECIPES = {
    "fast 2d": ((56, 40), replace(SHORT_SCHEDULE, mirror_axes=(1,)), {"batch_size": 32, "target_scales": SCALES}),
    "fast 3d": ((20, 28, 20), replace(SHORT_SCHEDULE, mirror_axes=(2,)), {"batch_size": 3}),
    "fast in plane": ((8, 28, 20), SHORT_SCHEDULE, {"batch_size": 3, "in_plane": True}),
    "fast regions": (
        (28, 20),
        SHORT_SCHEDULE,
        {"batch_size": 5, "regions": ((1, 2), (2,)), "target_scales": SCALES},
    ),
    "none": ((28, 20), AugmentationSpec(), {"batch_size": 5, "seed": (3, 0, 1)}),
    "flip 3d": ((20, 28, 20), PUBLISHED["flip"], {"batch_size": 5}),
    **{word: ((28, 20), spec, {"batch_size": 9}) for word, spec in PUBLISHED.items()},
}
RECORDED = {
    "fast 2d": (4083.959, "8592794e8ee744af"),
    "fast 3d": (2049.75, "e20da1e238b791f6"),
    "fast in plane": (478.244, "9caf2a4ab217b792"),
    "fast regions": (530.201, "fee54d39afac55f8"),
    "none": (584.858, "6675c066b05474ad"),
    "flip 3d": (1372.227, "707e94b68ecf4fd9"),
    "noAug": (467.662, "add06b4618dd2181"),
    "flip": (337.043, "3cef68848017efcb"),
    "flipRot": (370.599, "a65fda20cb8ba932"),
    "flipRotNoise": (370.606, "ee1174e02adf33c9"),
}
"""A weighted sum of two batches, and a hash of their bits.

The sums, and the bits of recipes without rotation and zoom, are those of version 0.1.0's first release of the loader.
It also interpolated the samples that are neither rotated nor zoomed, at their own voxels: its values differ by up to
3.3e-5 from these, its labels nowhere.
"""

RECORDED_ON = ("2.14.1", "AVX512")
"""torch's release and kernels there; others round the last bit differently."""


def case(key: str, shape: tuple[int, int, int], seed: int) -> MemoryCase:
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) / n for n in shape], indexing="ij")
    radius = np.sqrt(sum(g**2 for g in grids))
    labels = np.where(radius < 0.3, 1 + (grids[1] > 0), 0).astype(np.int16)
    labels[radius > 0.62] = -1
    image = (rng.normal(size=(1, *shape)) + labels).astype(np.float32)
    locations: dict[object, np.ndarray] = {label: np.argwhere(labels == label) for label in (1, 2)}
    return MemoryCase(key, torch.from_numpy(image), torch.from_numpy(labels), locations)


@pytest.mark.parametrize("label_dtype", [torch.int8, torch.int16])
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_gives_the_batch_that_it_always_gave(name, label_dtype):
    patch, spec, options = RECIPES[name]
    cases = [case("a", (22, 50, 36), 1), case("b", (30, 44, 30), 2)]
    bank = CaseBank(cases, sum(c.labels.numel() for c in cases), torch.device("cpu"), label_dtype)
    draws = MemoryLoader(bank, Sampling(patch_size=patch, foreground_share=0.33, **options), spec)
    draws.step = 7
    digest, total = hashlib.sha256(), 0.0
    for _ in range(2):
        batch = next(draws)
        targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        for tensor in [batch["data"], *targets]:
            digest.update(tensor.contiguous().numpy().tobytes())
        digest.update("".join(batch["keys"]).encode())
        weights = torch.linspace(-1, 1, batch["data"].numel(), dtype=torch.float64)
        total += float((batch["data"].flatten().double() * weights).sum())
    expected, bits = RECORDED[name]
    assert total == pytest.approx(expected, abs=0.05)
    if (torch.__version__.split("+")[0], torch.backends.cpu.get_cpu_capability()) == RECORDED_ON:
        assert digest.hexdigest()[:16] == bits
