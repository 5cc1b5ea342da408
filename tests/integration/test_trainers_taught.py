"""The word `taught`: a network that learns from two others of its fold, from their training to its own prediction."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from tiny_dataset import TinyDataset

from hippo_nnunet.errors import ConfigError

pytestmark = pytest.mark.slow

TEACHERS = [f"UNetTrainer_fast_2epochs_2iters_seed{seed}" for seed in (1, 2)]
STUDENT = "UNetTrainer_taught_fast_2epochs_2iters"


@pytest.fixture
def taught(in_tiny: TinyDataset) -> TinyDataset:
    """A dataset with the teachers' finished fold."""
    for name in TEACHERS:
        in_tiny.trainer(name).run_training()
    return in_tiny


def checkpoint(dataset: TinyDataset, name: str) -> Path:
    return dataset.model(name) / "fold_0" / "checkpoint_final.pth"


def test_a_student_of_two_networks(taught: TinyDataset) -> None:
    trainer = taught.trainer(STUDENT)
    trainer.run_training()
    trainer.perform_actual_validation()
    summary = json.loads((taught.model(STUDENT) / "fold_0" / "hippo_training.json").read_text())
    hashes = {name: hashlib.sha256(checkpoint(taught, name).read_bytes()).hexdigest() for name in TEACHERS}
    assert summary["teachers"] == hashes
    for name, network in zip(TEACHERS, trainer._teachers.networks, strict=True):
        weights = torch.load(checkpoint(taught, name), weights_only=False)["network_weights"]
        for key, value in network.state_dict().items():
            torch.testing.assert_close(value, weights[key], rtol=0, atol=0)
    student = torch.load(checkpoint(taught, STUDENT), weights_only=False)["network_weights"]
    assert set(student) == set(weights), "a checkpoint is that of a plain network"


def test_what_it_refuses(taught: TinyDataset) -> None:
    trainer = taught.trainer(STUDENT)
    trainer.run_training()
    final = checkpoint(taught, STUDENT)
    shutil.copyfile(final, final.with_name("checkpoint_latest.pth"))
    final.unlink()
    first, second = (checkpoint(taught, name) for name in TEACHERS)
    shutil.copyfile(second, first)
    other = taught.trainer(STUDENT)
    maybe_load_checkpoint(other, True, False)
    with pytest.raises(ConfigError, match=f"another {TEACHERS[0]}, which has been trained again"):
        other.run_training()
    content = torch.load(second, weights_only=False)
    content["hippo_nnunet"]["record"]["split"]["train"].append("tiny_999")
    torch.save(content, first)
    with pytest.raises(ConfigError, match="'tiny_999' is no longer in train"):
        taught.trainer(STUDENT).run_training()
    first.unlink()
    with pytest.raises(ConfigError, match=f"learns from {TEACHERS[0]}.* is missing: train fold_0"):
        taught.trainer(STUDENT).run_training()
