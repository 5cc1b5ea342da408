"""What a fold's folder contains, and whether it matches the present recipe and plans; torch-free."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hippo_nnunet.clip.models import MODEL_VARIABLE, WEIGHTS_VARIABLE, chosen_encoder
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import read_json, read_object
from hippo_nnunet.nnunet.preprocessed import configuration_of, is_plans
from hippo_nnunet.training import recipes
from hippo_nnunet.training.schedule import schedule_for

SUMMARY = "hippo_training.json"
"""File beside the final checkpoint with the training's settings, time and precision."""

_PLAN_KEYS = ("architecture", "patch_size", "spacing", "batch_size", "normalization_schemes", "data_identifier")


def is_finished(folder: Path, npz: bool = True) -> bool:
    """Tell whether a fold is trained, and validated with every file that its summary names.

    Args:
        folder: `.../{trainer}__{plans}__{configuration}/fold_X`.
        npz: Whether every validation case needs its softmax.
    """
    summary = folder / "validation" / "summary.json"
    if not (folder / "checkpoint_final.pth").is_file() or not summary.is_file():
        return False
    try:
        cases = read_json(summary)["metric_per_case"]
        predictions = [re.split(r"[\\/]", case["prediction_file"])[-1] for case in cases if "prediction_file" in case]
    except (DataError, KeyError, TypeError):  # the validation was killed while it wrote this file
        return False
    if not all((summary.parent / name).is_file() for name in predictions):
        return False
    return not npz or len(list(summary.parent.glob("*.npz"))) >= len(cases)


def lacks_descriptions(folder: Path) -> bool:
    """Tell whether a trained fold lacks its model's plans.json or dataset.json, or its own SUMMARY.

    Args:
        folder: As `is_finished`; nnU-Net's own trainers write no SUMMARY.
    """
    wanted = [folder.parent / "plans.json", folder.parent / "dataset.json"]
    if recipes.is_ours(folder.parent.name.split("__")[0]):
        wanted.append(folder / SUMMARY)
    return not all(path.is_file() for path in wanted)


def check_finished(folder: Path, trainer: str, plans: dict[str, Any], configuration: str) -> None:
    """Refuse a finished fold that was made by another schedule, with other plans or with another CLIP encoder.

    Args:
        folder: `.../{trainer}__{plans}__{configuration}/fold_X`; nnU-Net's own trainers record no schedule.
        trainer: Name of the trainer.
        plans: The plans as they are now.
        configuration: Such as `2d`.

    Raises:
        ConfigError: Names what differs.
        DataError: The stored plans or the record of the training cannot be read.
    """
    if (folder.parent / "dataset.json").is_file():
        read_object(folder.parent / "dataset.json")
    stored_plans = folder.parent / "plans.json"
    if stored_plans.is_file():
        stored = read_json(stored_plans)
        if not is_plans(stored):
            raise DataError(f"{stored_plans} holds no plans; delete it, then run again: the checkpoint knows them")
        difference = plan_difference(stored, plans, configuration)
        if difference:
            raise ConfigError(f"{folder} was trained with other plans: {difference}; delete it to train again")
    if recipes.is_ours(trainer) and (folder / SUMMARY).is_file():
        record, recipe = read_object(folder / SUMMARY), recipes.parse(trainer)
        schedule = record.get("schedule", {})
        if not isinstance(schedule, dict):
            raise DataError(f"{folder / SUMMARY} holds no schedule; delete it, then run again: the checkpoint knows it")
        dim = len(configuration_of(plans, configuration)["patch_size"])
        current = asdict(schedule_for(recipe, dim))
        difference = schedule_difference(schedule, current)
        if difference:
            raise ConfigError(f"{folder} was trained by another schedule ({difference}); delete it to train again")
        encoder, chosen = record.get("encoder"), chosen_encoder(recipe.mini)
        if encoder and encoder["name"] != chosen.name:
            raise ConfigError(
                f"{folder} was trained with the CLIP encoder {encoder['name']}, expected {chosen.name}: set "
                f"{MODEL_VARIABLE} and {WEIGHTS_VARIABLE} to it, or delete the folder to train again"
            )


def plan_difference(stored: dict[str, Any], current: dict[str, Any], configuration: str) -> str:
    """Return how plans differ in what determines a network and its patches; empty if they agree."""
    if configuration not in stored.get("configurations", {}):
        return f"they have no configuration {configuration}"
    before, now = configuration_of(stored, configuration), configuration_of(current, configuration)
    for key in _PLAN_KEYS:
        old, new = _plain(before.get(key)), _plain(now.get(key))
        if old != new:
            return f"{key} was {old}, is now {new}"
    return ""


def schedule_difference(stored: dict[str, Any], current: dict[str, Any]) -> str:
    """Return how two schedules differ in what determines the weights; empty if they agree."""
    return "; ".join(
        f"{key} was {stored.get(key)}, is now {value}"
        for key, value in current.items()
        if stored.get(key) != value and key != "validation_iterations"
    )


def _plain(value: Any) -> Any:
    """Convert to plain JSON values: tuples equal lists, numpy's numbers Python's."""
    return json.loads(json.dumps(value, default=lambda v: v.item() if hasattr(v, "item") else str(v)))
