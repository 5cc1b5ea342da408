"""The teachers of a recipe with the word `taught`: trained networks of the same fold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.files import hash_file
from hippo_nnunet.nnunet.checkpoints import read_record
from hippo_nnunet.nnunet.finished import FINAL, check_same_split
from hippo_nnunet.nnunet.trust import read_checkpoint
from hippo_nnunet.training.distillation import Teachers
from hippo_nnunet.training.recipes import teacher_recipes


def load_teachers(trainer: Any) -> tuple[Teachers, dict[str, str]]:
    """Load the networks that teach a trainer's, from the model folders beside its own.

    Args:
        trainer: Ready to train; its `record.split` has the fold's cases.

    Returns:
        The teachers, on the trainer's device, and the SHA-256 of each one's checkpoint by the name of its trainer.

    Raises:
        ConfigError: The dataset has regions, or a teacher is not trained, or was trained on other cases.
        DataError: A checkpoint cannot be read, or could run code.
    """
    recipe = trainer.recipe
    if trainer.label_manager.has_regions:
        raise ConfigError(f"{recipe.name}: 'taught' goes with labels, not with regions: leave the word out")
    model, fold = Path(trainer.output_folder_base), Path(trainer.output_folder).name
    networks, hashes = [], {}
    for teacher in teacher_recipes(recipe):
        file = model.parent / model.name.replace(recipe.name, teacher.name, 1) / fold / FINAL
        if not file.is_file():
            raise ConfigError(
                f"{recipe.name} learns from {teacher.name}, but {file} is missing: train {fold} of {teacher.name} first"
            )
        record = read_record(file).record
        if record is not None and record.split is not None:
            check_same_split(record.split, trainer.record.split, file.parent)
        network = copy.deepcopy(getattr(trainer.network, "module", trainer.network))  # of DistributedDataParallel
        network.load_state_dict(read_checkpoint(file)["network_weights"])
        networks.append(network)
        hashes[teacher.name] = hash_file(file)
    return Teachers(networks).to(trainer.device), hashes


def check_same_teachers(stored: dict[str, str] | None, current: dict[str, str], folder: Path) -> None:
    """Refuse to resume a training that began with other teachers.

    Raises:
        ConfigError: Names the first that is another one now.
    """
    changed = next((name for name, digest in current.items() if (stored or {}).get(name) != digest), None)
    if changed:
        raise ConfigError(
            f"{folder} began to learn from another {changed}, which has been trained again since: delete the folder"
        )
