"""Checkpoints: nnU-Net's content, our record beside it, written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import re
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
INTERVAL_VARIABLE = "HIPPO_CHECKPOINT_SECONDS"
"""Variable with the seconds between two checkpoints, for machines that may be taken away at any time."""


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
        precision: What the convolutions were computed in, such as `bfloat16`; of the last part, where it was resumed.
    """

    schedule: dict[str, Any]
    seed: int | None
    trained_seconds: float = 0.0
    resumed: int = 0
    epoch_outputs: list[dict] = field(default_factory=list)
    encoder: dict[str, str] | None = None
    precision: str = "float32"

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
            "precision": self.precision,
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
        dataset_json: The dataset.json that it used.
        cycle: State of the one-cycle schedule, or None.
        record: Our record; None in a checkpoint that nnU-Net's own trainer wrote.
    """

    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    cycle: dict[str, Any] | None
    record: TrainingRecord | None


def every_s(default: float) -> float:
    """Return the seconds of training after which a checkpoint is written: those of INTERVAL_VARIABLE, or the default.

    Raises:
        ConfigError: The variable holds no such number.
    """
    chosen = os.environ.get(INTERVAL_VARIABLE, "").strip()
    if not re.fullmatch(r"\d{0,6}(\.\d{1,6})?", chosen):
        raise ConfigError(f"{INTERVAL_VARIABLE}={chosen}: expected seconds, such as 30; correct or unset it")
    return float(chosen) if chosen else default


def write_checkpoint(trainer: Any, record: TrainingRecord, path: Path) -> None:
    """Write a trainer's state in nnU-Net's layout, with our record under `KEY`.

    Args:
        trainer: The trainer; within an epoch, `record.epoch_outputs` is not empty.
        record: Goes in as it is.
        path: Target; the file is complete, or is what it was.

    Raises:
        DataError: It cannot be written, for example on a full disk.
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
    try:
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch raises an error of its own, which says nothing, over the system's
        system = error if isinstance(error, OSError) else error.__context__
        reason = system.strerror if isinstance(system, OSError) else error
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"checkpoint {path} cannot be written ({reason}): make room or make its folder writable, then run again: "
            "the training goes on from the last checkpoint"
        ) from error


def read_record(path: Path) -> StoredRecord:
    """Read the plans and our record from a checkpoint.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
        ours = checkpoint.get(KEY, {})
        record = TrainingRecord(**ours["record"]) if ours else None
        arguments = checkpoint["init_args"]
        return StoredRecord(arguments["plans"], arguments["dataset_json"], ours.get("cycle"), record)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"checkpoint {path} cannot be read ({reason}): delete it, then train again: that goes on from an older "
            "checkpoint where there is one"
        ) from error


def record_for(trainer: Any, path: Path) -> StoredRecord:
    """Read the plans and our record from a checkpoint that a trainer shall go on from.

    Raises:
        ConfigError: It was made with other plans.
        DataError: The file cannot be read.
    """
    stored = read_record(path)
    check_same_plans(stored.plans, trainer, path)
    return stored


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
