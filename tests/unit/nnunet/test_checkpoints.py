"""Checkpoints are written completely, or the system's reason is told."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from hippo_nnunet.nnunet.checkpoints import save_tensors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize("numbers", [1, 10**6])
def test_a_full_disk_is_the_reason(numbers: int) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        save_tensors({"a": torch.zeros(numbers)}, Path("/dev/full"))
    assert caught.value.errno == errno.ENOSPC


def test_tensors_are_written(tmp_path: Path) -> None:
    save_tensors({"a": torch.ones(3)}, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["a"].tolist() == [1, 1, 1]
