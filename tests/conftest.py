"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("nnUNet_def_n_proc", "1")  # read when nnU-Net is imported; each worker process imports torch
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the cores from the other workers' tests
os.environ.setdefault("MATPLOTLIBRC", str(Path(__file__).parent / "helpers" / "matplotlibrc"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that hold slow tests, so that parallel workers end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Exempt the imported modules from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Undo what a test does to torch's number of threads: the other worker needs its core."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def task04() -> Path:
    """Folder of the real Task04_Hippocampus in MSD layout; skips where HIPPO_TASK04 does not name one."""
    value = os.environ.get("HIPPO_TASK04")
    if not value:
        pytest.skip("HIPPO_TASK04 is not set: the real data is not here")
    return Path(value)
