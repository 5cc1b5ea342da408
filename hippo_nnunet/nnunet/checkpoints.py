"""Checkpoints in nnU-Net's layout with our record beside its content, and the small files that describe a fold."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from batchgenerators.utilities.file_and_folder_operations import save_json

from hippo_nnunet import __version__
from hippo_nnunet.errors import ConfigError, DataError, one_line
from hippo_nnunet.files import atomic_path, write_json
from hippo_nnunet.nnunet.finished import SUMMARY, plan_difference, schedule_difference
from hippo_nnunet.nnunet.trust import read_checkpoint
from hippo_nnunet.training.one_cycle import CycleSchedule
from hippo_nnunet.training.precision_choice import VARIABLE as PRECISION_VARIABLE

KEY = "hippo_nnunet"
"""Key of our record in nnU-Net's checkpoint."""
INTERVAL_VARIABLE = "HIPPO_CHECKPOINT_SECONDS"
"""Variable with the seconds between two checkpoints, for preemptible machines."""


@dataclass
class TrainingRecord:
    """What nnU-Net's checkpoint does not store.

    Attributes:
        schedule: The fields of the `Schedule`.
        seed: The repeat's seed of initialisation, sampling and augmentation, the same in all folds; None if nothing was
            seeded.
        trained_seconds: Wall-clock seconds of training, summed over all sessions.
        resumed: How often the training was resumed.
        epoch_outputs: Outputs of the training steps of an unfinished epoch.
        encoder: Name and SHA-256 of the frozen CLIP encoder; None for a network without one.
        prompts: Class to the texts that describe it to CLIP; None for a network without text, and in checkpoints of
            versions that did not record them.
        precision: Type in which convolutions are computed, such as `bfloat16`; None in checkpoints of versions that did
            not record it.
        split: The fold's cases, from `split_record`; None likewise.
        teachers: Trainer to the SHA-256 of its checkpoint, for the networks that teach this one; None without any.
        loader: `memory` or `nnU-Net`, whose augmentation differs for `fast`; None in checkpoints of versions that did
            not record it.
    """

    schedule: dict[str, Any]
    seed: int | None
    trained_seconds: float = 0.0
    resumed: int = 0
    epoch_outputs: list[dict] = field(default_factory=list)
    encoder: dict[str, str] | None = None
    prompts: dict[str, list[str]] | None = None
    precision: str | None = None
    split: dict[str, Any] | None = None
    teachers: dict[str, str] | None = None
    loader: str | None = None

    def resume_from(self, earlier: TrainingRecord) -> None:
        """Take over the progress and precision of an earlier session."""
        self.precision = earlier.precision or self.precision
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
            "teachers": self.teachers,
            "prompts": self.prompts,
            "resumed": self.resumed,
            "precision": self.precision,
            "loader": self.loader,
            "training_cases": len(self.split["train"]) if self.split else None,
            "split": self.split,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "versions": {
                "hippo_nnunet": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        write_json(folder / SUMMARY, summary, indent=2)


@dataclass(frozen=True)
class StoredRecord:
    """The part of a checkpoint that is read before nnU-Net loads it.

    Attributes:
        plans: The plans of the training.
        dataset_json: Its dataset.json.
        cycle: State of the one-cycle schedule, or None.
        record: Our record; None in a checkpoint of nnU-Net's own trainer.
    """

    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    cycle: dict[str, Any] | None
    record: TrainingRecord | None


def checkpoint_interval_s(default: float) -> float:
    """Return the seconds of training between two checkpoints: those of INTERVAL_VARIABLE, or the default.

    Raises:
        ConfigError: The variable is not a number of seconds.
    """
    value = os.environ.get(INTERVAL_VARIABLE, "").strip()
    if not re.fullmatch(r"\d{0,6}(\.\d{1,6})?", value):
        raise ConfigError(f"{INTERVAL_VARIABLE}={value}: expected seconds, such as 30; correct or unset it")
    return float(value) if value else default


def write_checkpoint(trainer: Any, record: TrainingRecord, path: Path) -> None:
    """Write a trainer's state atomically in nnU-Net's layout, with our record under `KEY`.

    Args:
        trainer: The trainer; within an epoch, `record.epoch_outputs` is not empty.
        record: The trainer's record.
        path: The checkpoint file.

    Raises:
        DataError: It cannot be written, for example on a full disk.
    """
    module = trainer.network.module if trainer.is_ddp else trainer.network
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
    try:
        with atomic_path(path) as temporary:
            save_tensors(checkpoint, temporary)
    except OSError as error:
        raise DataError(
            f"checkpoint {path} cannot be written ({error.strerror or error}): make room or make its folder writable, "
            "then run again: the training resumes from the last checkpoint"
        ) from error


def save_tensors(content: Any, path: Path) -> None:
    """Write a file of `torch.save`, and wait until it is on the disk.

    Raises:
        OSError: It cannot be written, for example on a full disk; torch itself raises an uninformative RuntimeError.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        raise (error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error))) from error


def read_record(path: Path, trust: bool = False) -> StoredRecord:
    """Read the plans and our record from a checkpoint.

    Args:
        path: The checkpoint.
        trust: Read it even if that could run code.

    Raises:
        DataError: The file cannot be read, or could run code and is not trusted.
    """
    try:
        checkpoint = read_checkpoint(path, trust)
        ours = checkpoint.get(KEY, {})
        record = TrainingRecord(**ours["record"]) if ours else None
        arguments = checkpoint["init_args"]
        return StoredRecord(arguments["plans"], arguments["dataset_json"], ours.get("cycle"), record)
    except DataError:
        raise
    except Exception as error:  # torch.load raises various exceptions for a damaged file
        reason = one_line(error)
        raise DataError(
            f"checkpoint {path} cannot be read ({reason}): delete it, then train again: that resumes from an older "
            "checkpoint where there is one"
        ) from error


def check_same_plans(plans: dict[str, Any], trainer: Any, path: str | Path) -> None:
    """Refuse a checkpoint whose plans would build another network or another patch.

    Raises:
        ConfigError: Names the first difference and the remedy.
    """
    difference = plan_difference(plans, trainer.plans_manager.plans, trainer.configuration_name)
    if difference:
        raise ConfigError(
            f"checkpoint {path} was trained with other plans: {difference}; restore the old plans file, or delete the "
            "checkpoint's folder"
        )


def check_same_schedule(stored: TrainingRecord, current: TrainingRecord, folder: str | Path) -> None:
    """Refuse to resume a training with another schedule.

    Raises:
        ConfigError: Names what differs and the remedy.
    """
    difference = schedule_difference(stored.schedule, current.schedule)
    if difference:
        raise ConfigError(
            f"{folder} was begun with another schedule ({difference}): resuming would mix the two. Delete that "
            "folder, or name the old length in the trainer, for example UNetTrainer_fast_20epochs"
        )


def check_same_loader(stored: str | None, current: str, folder: str | Path) -> None:
    """Refuse to resume a training with the other loader, whose augmentation is another one.

    Args:
        stored: Of the training so far; None, if it is not recorded, is accepted.
        current: Of this process.
        folder: Of the fold.

    Raises:
        ConfigError: Names the remedy.
    """
    if stored in (None, current):
        return
    raise ConfigError(
        f"{folder} was begun with {'the data in memory' if stored == 'memory' else 'too little memory for the data'}, "
        "and the free memory decides otherwise now: resuming would mix two augmentations. Give it as much memory as "
        "before, or delete that folder to train again"
    )


def check_same_precision(stored: str | None, current: str, device: torch.device, folder: str | Path) -> None:
    """Refuse to resume a training in another precision.

    Args:
        stored: Of the training so far; None, if it is not recorded, is accepted.
        current: `precision_name` of this process.
        device: Of this process.
        folder: Of the fold.

    Raises:
        ConfigError: Names both precisions and the remedy.
    """
    if stored is None or stored == current:
        return
    if stored == "float16":
        remedy = "Resume on a CUDA device"
    else:
        place = "Set" if device.type == "cpu" else "Resume on a CPU (--device cpu) with"
        remedy = f"{place} {PRECISION_VARIABLE}={stored}"
    raise ConfigError(
        f"{folder} was begun in {stored}, this process trains in {current}: resuming would mix the two. {remedy}, or "
        "delete that folder to train again"
    )


def write_missing_descriptions(trainer: Any, record: TrainingRecord) -> None:
    """Write a model's plans.json and dataset.json, and the fold's `hippo_training.json`, where they are missing.

    Args:
        trainer: A trained trainer; of distributed processes, rank 0 writes.
        record: Its record.
    """
    if trainer.local_rank == 0:
        folder = Path(trainer.output_folder)
        _write_missing(folder, trainer.plans_manager.plans, trainer.dataset_json, record, trainer.device)


def restore_descriptions(folder: Path, device: torch.device, trust: bool = False) -> None:
    """Write the same missing files from a trained fold's final checkpoint.

    Args:
        folder: `.../{trainer}__{plans}__{configuration}/fold_X`, which no process trains now.
        device: Named in a new `hippo_training.json`; the checkpoint does not store it.
        trust: Read the checkpoint even if that could run code.

    Raises:
        DataError: The checkpoint cannot be read, or could run code and is not trusted.
    """
    stored = read_record(folder / "checkpoint_final.pth", trust)
    _write_missing(folder, stored.plans, stored.dataset_json, stored.record, device)


def _write_missing(
    folder: Path,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    record: TrainingRecord | None,
    device: torch.device,
) -> None:
    for name, content in (("plans.json", plans), ("dataset.json", dataset_json)):
        if not (folder.parent / name).is_file():
            with atomic_path(folder.parent / name) as temporary:
                save_json(content, str(temporary), sort_keys=False)  # which knows numpy's numbers
    # the process was killed between the final checkpoint and this file, or it was deleted
    if record is not None and not (folder / SUMMARY).is_file():
        record.write_summary(folder, device)
