"""The small files beside a trained fold's checkpoint, made again from it where they are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from batchgenerators.utilities.file_and_folder_operations import save_json

from hippo_nnunet.nnunet.checkpoints import TrainingRecord, read_record
from hippo_nnunet.nnunet.finished import SUMMARY


def write_missing(trainer: Any, record: TrainingRecord) -> None:
    """Write a model's plans.json and dataset.json, and the fold's `hippo_training.json`, where they are gone.

    Args:
        trainer: A trained trainer; of processes that train together, the first one writes.
        record: Its record.
    """
    if trainer.local_rank == 0:
        folder = Path(trainer.output_folder)
        _write(folder, trainer.plans_manager.plans, trainer.dataset_json, record, trainer.device)


def restore(folder: Path, device: torch.device) -> None:
    """Do the same from the final checkpoint of a fold that nobody trains now.

    Args:
        folder: `.../{trainer}__{plans}__{configuration}/fold_X`.
        device: Named in a new `hippo_training.json`, which the checkpoint does not know.

    Raises:
        DataError: The checkpoint cannot be read.
    """
    stored = read_record(folder / "checkpoint_final.pth")
    _write(folder, stored.plans, stored.dataset_json, stored.record, device)


def _write(
    folder: Path,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    record: TrainingRecord | None,
    device: torch.device,
) -> None:
    for name, content in (("plans.json", plans), ("dataset.json", dataset_json)):
        path = folder.parent / name
        if not path.is_file():
            temporary = folder / f"{name}.tmp"
            save_json(content, str(temporary), sort_keys=False)
            temporary.replace(path)
    # killed between the final checkpoint and this file, or it was deleted
    if record is not None and not (folder / SUMMARY).is_file():
        record.write_summary(folder, device)
