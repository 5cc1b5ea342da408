"""Checkpoints: nnU-Net's content, our record beside it, written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._dynamo import OptimizedModule

from hippo_nnunet import __version__
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.nnunet.finished import SUMMARY, plan_difference, schedule_difference
from hippo_nnunet.training.one_cycle import CycleSchedule

KEY = "hippo_nnunet"
"""Where our record stands in nnU-Net's checkpoint."""


@dataclass
class TrainingRecord:
    """What nnU-Net's checkpoint does not keep.

    Attributes:
        schedule: The schedule's numbers (`Schedule.as_dict`).
        seed: Seed of initialisation, sampling and augmentation; None where nothing was seeded.
        trained_seconds: Wall-clock seconds from the start of training, over all its parts.
        resumed: How often the training was taken up again.
        epoch_outputs: Outputs of the training steps of an epoch that is not finished.
        encoder: Name and SHA-256 of the frozen CLIP encoder; None for a network without one.
    """

    schedule: dict[str, Any]
    seed: int | None
    trained_seconds: float = 0.0
    resumed: int = 0
    epoch_outputs: list[dict] = field(default_factory=list)
    encoder: dict[str, str] | None = None

    def go_on_from(self, earlier: TrainingRecord) -> None:
        """Take over what an interrupted training had reached."""
        self.trained_seconds = earlier.trained_seconds
        self.resumed = earlier.resumed + 1
        self.epoch_outputs = list(earlier.epoch_outputs)

    def write_summary(self, folder: Path, device: torch.device) -> None:
        """Write `hippo_training.json` into the fold's folder."""
        summary = {
            "trained_seconds": round(self.trained_seconds, 1),
            "epochs": self.schedule["epochs"],
            "iterations": self.schedule["epochs"] * self.schedule["iterations"],
            "schedule": self.schedule,
            "seed": self.seed,
            "encoder": self.encoder,
            "resumed": self.resumed,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "versions": {
                "hippo_nnunet": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        temporary = folder / f"{SUMMARY}.tmp"
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
        temporary.replace(folder / SUMMARY)


@dataclass(frozen=True)
class StoredRecord:
    """The part of a checkpoint that is looked at before nnU-Net loads it.

    Attributes:
        plans: The plans that the training used.
        cycle: State of the one-cycle schedule, or None.
        record: Our record; None in a checkpoint that nnU-Net's own trainer wrote.
    """

    plans: dict[str, Any]
    cycle: dict[str, Any] | None
    record: TrainingRecord | None


def write_checkpoint(trainer: Any, record: TrainingRecord, path: Path) -> None:
    """Write a trainer's state in nnU-Net's layout, with our record under `KEY`.

    Args:
        trainer: The trainer; within an epoch, `record.epoch_outputs` is not empty.
        record: Goes in as it is.
        path: Target; the file is complete or is not there.
    """
    module = trainer.network.module if trainer.is_ddp else trainer.network
    if isinstance(module, OptimizedModule):
        module = module._orig_mod
    schedule = trainer.lr_scheduler
    checkpoint = {
        "network_weights": module.state_dict(),
        "optimizer_state": trainer.optimizer.state_dict(),
        "grad_scaler_state": trainer.grad_scaler.state_dict() if trainer.grad_scaler is not None else None,
        "logging": trainer.logger.get_checkpoint(),
        "_best_ema": trainer._best_ema,
        "current_epoch": trainer.current_epoch + (0 if record.epoch_outputs else 1),
        "init_args": trainer.my_init_kwargs,
        "trainer_name": type(trainer).__name__,
        "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
        KEY: {
            "record": asdict(record),
            "cycle": schedule.state_dict() if isinstance(schedule, CycleSchedule) else None,
        },
    }
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_record(path: Path) -> StoredRecord:
    """Read the plans and our record from a checkpoint.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
        ours = checkpoint.get(KEY, {})
        record = TrainingRecord(**ours["record"]) if ours else None
        return StoredRecord(checkpoint["init_args"]["plans"], ours.get("cycle"), record)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise DataError(f"checkpoint {path} cannot be read ({error}): delete it and train again") from error


def check_same_plans(plans: dict[str, Any], trainer: Any, path: str | Path) -> None:
    """Refuse a checkpoint whose plans would build another network or another patch.

    Raises:
        ConfigError: Names the first difference and the way out.
    """
    difference = plan_difference(plans, trainer.plans_manager.plans, trainer.configuration_name)
    if difference:
        raise ConfigError(
            f"checkpoint {path} was trained with other plans: {difference}; restore the old plans file, or delete the "
            "checkpoint's folder"
        )


def check_same_schedule(stored: TrainingRecord, current: TrainingRecord, folder: str | Path) -> None:
    """Refuse to continue a training under another schedule than it began with.

    Raises:
        ConfigError: Names what differs.
    """
    difference = schedule_difference(stored.schedule, current.schedule)
    if difference:
        raise ConfigError(
            f"{folder} was begun with another schedule ({difference}): continuing would mix the two. Delete that "
            "folder, or name the old length in the trainer, for example UNetTrainer_fast_20epochs"
        )
