"""An nnU-Net trainer that can be stopped after any step and resumes there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from hippo_nnunet.errors import TrainingError
from hippo_nnunet.nnunet.checkpoints import (
    TrainingRecord,
    check_same_plans,
    check_same_precision,
    check_same_schedule,
    checkpoint_interval_s,
    read_record,
    write_checkpoint,
)
from hippo_nnunet.nnunet.finished import check_same_split
from hippo_nnunet.nnunet.splits import split_record
from hippo_nnunet.nnunet.subset import stored_subjects, trained_split
from hippo_nnunet.progress import epochs_left
from hippo_nnunet.training.one_cycle import CycleSchedule
from hippo_nnunet.training.precision import half_precision, precision_name
from hippo_nnunet.training.recipes import Recipe
from hippo_nnunet.training.step import match_strides
from hippo_nnunet.training.termination import Termination

CHECKPOINT_INTERVAL_S = 120.0
"""Seconds of training after which `checkpoint_latest.pth` is written, also within an epoch."""


class ResumableTrainer(nnUNetTrainer):
    """nnU-Net's trainer with checkpoints also within an epoch, and our record in them.

    The arguments are those of `UNetTrainer`. A subclass sets `recipe` and `record`, appends the output of every
    training step to `record.epoch_outputs`, and then calls `checkpoint_when_due`.

    Attributes:
        recipe: What is trained, and on how many cases.
        half: `half_precision` of the device.
        record: What nnU-Net's checkpoint does not store.
        termination: Defers SIGTERM while the training runs.
    """

    recipe: ClassVar[Recipe]
    record: TrainingRecord

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature, to the letter
    ) -> None:
        checkpoint_interval_s(CHECKPOINT_INTERVAL_S)  # refuses a wrong variable before the training begins
        self.half = half_precision(device)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.termination = Termination()
        self._resumed: TrainingRecord | None = None
        self._clock = self._saved = time.monotonic()

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return the recipe's training cases of nnU-Net's fold and the fold's validation cases, and record them.

        Raises:
            ConfigError: A training that is resumed or validated began with other cases, or the fold has no subset of
                the recipe's size.
            DataError: The table of subjects is wrong.
        """
        train, val = super().do_split()
        if self.recipe.cases is not None:
            subjects = stored_subjects(Path(self.preprocessed_dataset_folder_base))
            train = trained_split(self.recipe.name, self.fold, {"train": train, "val": val}, subjects)["train"]
            self.print_to_log_file(f"{self.recipe.name} trains on {len(train)} of these training cases")
        split = split_record(train, val)
        if self._resumed is not None and self._resumed.split is not None:
            check_same_split(self._resumed.split, split, Path(self.output_folder))
        self.record.split = split
        return train, val

    def on_train_start(self) -> None:
        """Refuse to resume with another schedule or precision before anything is written, then start as nnU-Net."""
        if self._resumed is not None:
            check_same_schedule(self._resumed, self.record, self.output_folder)
            if self.current_epoch < self.num_epochs:
                precision = precision_name(self.half)
                check_same_precision(self._resumed.precision, precision, self.device, self.output_folder)
        super().on_train_start()
        self._clock = self._saved = time.monotonic()
        self.print_to_log_file(f"Precision: {self.record.precision}")

    def on_train_epoch_start(self) -> None:
        """Start the epoch, or continue it from a checkpoint within it."""
        super().on_train_epoch_start()
        self.num_iterations_per_epoch = self.record.schedule["iterations"] - len(self.record.epoch_outputs)

    def checkpoint_when_due(self) -> None:
        """Write `checkpoint_latest.pth` after the interval or SIGTERM, which then ends the process."""
        if self.termination.requested or time.monotonic() - self._saved > checkpoint_interval_s(CHECKPOINT_INTERVAL_S):
            self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
        self.termination.exit_if_requested()

    def check_weights(self) -> None:
        """Refuse weights that are not finite, before a checkpoint of them replaces a good one.

        Raises:
            TrainingError: The training has diverged.
        """
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in self.network.parameters()])
        if bool(finite.all()):
            return
        kept = [name for name in ("latest", "best") if (Path(self.output_folder) / f"checkpoint_{name}.pth").is_file()]
        checkpoints = " and ".join(f"checkpoint_{name}.pth" for name in kept) or "no checkpoint"
        raise TrainingError(
            f"{self.output_folder}: the training diverged in epoch {self.current_epoch} (weights are NaN or infinite); "
            f"{checkpoints} from before it remains. Train with another seed (recipe word seed1), or, on a CPU, in "
            "float32 (HIPPO_PRECISION=float32)"
        )

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log the loss over the whole epoch, including the part before a resume; refuse weights that are not finite."""
        self.check_weights()
        losses = [torch.as_tensor(output["loss"], device=self.device) for output in self.record.epoch_outputs]
        super().on_train_epoch_end([{"loss": loss} for loss in torch.stack(losses).tolist()])
        self.num_iterations_per_epoch = self.record.schedule["iterations"]

    def on_epoch_end(self) -> None:
        """End the epoch; checkpoints written after this are between two epochs."""
        self.record.epoch_outputs = []
        super().on_epoch_end()
        starts, ends = (self.logger.get_value(f"epoch_{edge}_timestamps", step=None) for edge in ("start", "end"))
        self.print_to_log_file(epochs_left(starts, ends, self.num_epochs - self.current_epoch))

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with our record, atomically; refuse weights that are not finite."""
        self.check_weights()
        now = time.monotonic()
        if Path(filename).name == "checkpoint_latest.pth":
            self._saved = now
        if self.local_rank != 0:
            return
        self.record.trained_seconds += now - self._clock
        self._clock = now
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
        write_checkpoint(self, self.record, Path(filename))

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Load nnU-Net's checkpoint, the state of the schedule and our record.

        Raises:
            ConfigError: It was made with other plans.
            DataError: The file cannot be read.
        """
        checkpoint = read_record(Path(filename_or_checkpoint), trust=True)  # nnU-Net loads it in any case
        check_same_plans(checkpoint.plans, self, filename_or_checkpoint)
        super().load_checkpoint(filename_or_checkpoint)
        match_strides(self.optimizer)  # the training may have run in another memory format
        if isinstance(self.lr_scheduler, CycleSchedule) and checkpoint.cycle is not None:
            self.lr_scheduler.load_state_dict(checkpoint.cycle)
        if checkpoint.record is not None:
            self._resumed = checkpoint.record
            self.record.resume_from(checkpoint.record)
