"""Verify that a shared model reproduces the expected output of its example on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.members import Member, load_member
from hippo_nnunet.models.container import naming_file
from hippo_nnunet.models.model_file import ModelFile, open_model
from hippo_nnunet.nnunet.api import limit_processes, resolve_device
from hippo_nnunet.sharing.example import EXPECTED, LABELS, check_input, input_member, run_example, unpack_output

LEAST_EQUAL = 0.999
"""Smallest share of the example's voxels with equal labels."""
MOST_DIFFERENCE = {"cpu": 1e-3, "cuda": 0.05, "mps": 0.05}
"""Largest difference of a probability, by device. Source: ours; CPUs differ by 1e-6 (docs/sharing.md), and GPUs compute
in half precision."""


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        model: The file.
        device: `cpu`, `cuda` or `mps`.
        voxels: Voxels of the example.
        labels_found: The predicted labels.
        equal: Share of voxels with the expected label.
        difference: Largest difference from the file's probabilities.
    """

    model: ModelFile
    device: str
    voxels: int
    labels_found: tuple[int, ...]
    equal: float
    difference: float

    @property
    def lines(self) -> list[str]:
        """The result as text."""
        container, tolerance = self.model.container, MOST_DIFFERENCE[self.device]
        size = sum(of for of, _ in container.members.values())
        return [
            f"{self.model.path.name}: {self.model.folder_name}, folds {', '.join(map(str, self.model.folds))}",
            f"manifest: {len(container.members)} members, {size:,} bytes, every SHA-256 as listed",
            f"example: {self.equal:.4%} of {self.voxels:,} labels equal (at least {LEAST_EQUAL:.1%}), the labels "
            f"{', '.join(map(str, self.labels_found))}",
            f"largest difference of a probability: {self.difference:.2g} (at most {tolerance:g} on {self.device})",
        ]

    def check(self) -> None:
        """Raise DataError if the result is out of tolerance."""
        tolerance = MOST_DIFFERENCE[self.device]
        if self.equal < LEAST_EQUAL or not self.difference <= tolerance:
            raise DataError(
                f"{self.model.path}: does not reproduce the expected output of its example: {self.equal:.4%} of "
                f"labels equal, expected {LEAST_EQUAL:.1%}; probabilities differ by {self.difference:.2g}, expected at "
                f"most {tolerance:g}: do not use it here; compare the versions in its README.md with 'pip list'"
            )


def verify_model(path: Path, device: str = "cpu") -> Verification:
    """Check a file's manifest, load its weights, and predict its example; needs neither nnU-Net's folders nor internet.

    Args:
        path: A file of `hippo-nnunet model export`.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Returns:
        The result; its `check` raises if it is out of tolerance.

    Raises:
        DataError: The file is unsafe, damaged or invalid.
        ConfigError: The installed CLIP encoder differs from the model's.
        DependencyError: The device or the CLIP encoder is not available.
    """
    model = open_model(path)
    limit_processes()
    import torch

    where = resolve_device(device)
    member = Member(path, model.folds, "", model.dataset_json, model.plans)
    predictor = load_member(member, torch.device(where), use_mirroring=True, backend="torch")
    with naming_file(path), _example_files(model, member.channels) as (images, labels):
        expected = unpack_output(labels, model.container.read_json(EXPECTED))
        for image in images:
            check_input(image)
        found = run_example(predictor, images, expected.voxels)
        if found.labels.shape != expected.labels.shape or found.probabilities.shape != expected.probabilities.shape:
            raise DataError(f"the example has shape {found.labels.shape}, its expected labels {expected.labels.shape}")
    return Verification(
        model,
        where,
        int(found.labels.size),
        tuple(int(label) for label in np.unique(found.labels)),
        float((found.labels == expected.labels).mean()),
        float(np.abs(found.probabilities - expected.probabilities).max()),
    )


@contextmanager
def _example_files(model: ModelFile, channels: int) -> Iterator[tuple[Sequence[Path], Path]]:
    """Yield the example's images and labels as temporary files."""
    names = [input_member(channel) for channel in range(channels)]
    with tempfile.TemporaryDirectory(prefix="hippo-example-") as scratch:
        for name in [*names, LABELS]:
            (Path(scratch) / Path(name).name).write_bytes(model.container.read(name))
        yield [Path(scratch) / Path(name).name for name in names], Path(scratch) / Path(LABELS).name
