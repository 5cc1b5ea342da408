"""Weights & Biases through nnU-Net's own logger: our trainers tell it what nnU-Net's do, and go on in the same run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TRAINER = "UNetTrainer_fast_2epochs_3iters_seed7"


class FakeRun:
    """The part of a W&B run that nnU-Net's logger uses, after the real one's rules: steps never go back."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.logged: list[tuple[str, Any, int]] = []

    def log(self, values: dict[str, Any], step: int) -> None:
        assert step >= self.step
        self.step = step
        self.logged += [(key, value, step) for key, value in values.items()]


class FakeWandb:
    """Keeps what `init` was asked, and writes the folder by which a run is found again."""

    def __init__(self) -> None:
        self.asked: list[SimpleNamespace] = []
        self.runs: list[FakeRun] = []

    def init(self, **given: Any) -> FakeRun:
        self.asked.append(SimpleNamespace(**given))
        folder = Path(given["dir"]) / "wandb" / "latest-run"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run-abc123.wandb").touch()
        self.runs.append(FakeRun(self.runs[-1].step if given["id"] else 0))
        return self.runs[-1]


@pytest.fixture
def wandb(in_tiny, monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    from nnunetv2.training.logging import nnunet_logger

    fake = FakeWandb()
    monkeypatch.setattr(nnunet_logger, "wandb", fake)
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.setenv("nnUNet_wandb_project", "hippocampus")
    monkeypatch.setenv("nnUNet_wandb_mode", "offline")
    return fake


def continued(tiny: Any, name: str) -> Any:
    """Make a trainer that goes on, as nnUNetv2_train --c does."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    made = get_trainer_from_args(tiny.name, "2d", 0, name, "TinyPlans", True, torch.device("cpu"))
    maybe_load_checkpoint(made, True, False)
    return made


def test_a_run_is_told_everything_also_after_an_interruption(in_tiny, wandb: FakeWandb) -> None:
    first = in_tiny.trainer(TRAINER)
    end_of_epoch = type(first).on_epoch_end

    def stop(trainer: Any) -> None:
        end_of_epoch(trainer)  # writes the best checkpoint
        raise KeyboardInterrupt

    first.on_epoch_end = stop.__get__(first)
    with pytest.raises(KeyboardInterrupt):
        first.run_training()
    second = continued(in_tiny, TRAINER)
    second.run_training()
    second.perform_actual_validation(False)

    asked = [(a.project, a.mode, a.id, a.resume) for a in wandb.asked]
    assert asked == [("hippocampus", "offline", None, "never"), ("hippocampus", "offline", "abc123", "allow")]
    logged = [entry for run in wandb.runs for entry in run.logged]
    for key in ("train_losses", "val_losses", "mean_fg_dice", "lrs", "dice_per_class_or_region/class_2"):
        assert {step for name, _, step in logged if name == key} == {0, 1}, key
    assert wandb.runs[-1].summary["final_val/foreground_dice"] >= 0
    assert wandb.runs[-1].config["configuration"] == "2d"
    assert wandb.runs[-1].config["plans"]["plans_name"] == "TinyPlans"


def test_it_is_off_unless_asked_for(in_tiny, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_wandb_enabled")
    in_tiny.trainer(TRAINER)
    assert wandb.asked == []
