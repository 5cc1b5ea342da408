"""What a fold's folder contains, and whether it matches the present recipe and plans; torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hippo_nnunet.clip.models import MINI_RECORD, MODEL_VARIABLE, WEIGHTS_VARIABLE, chosen_encoder
from hippo_nnunet.clip.prompts import PROMPTS_VARIABLE, training_prompts
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import hash_file, json_values, read_json, read_object
from hippo_nnunet.nnunet.plans import configuration_of, is_plans
from hippo_nnunet.nnunet.splits import Split, is_split, split_difference
from hippo_nnunet.training import recipes
from hippo_nnunet.training.schedule import schedule_for

SUMMARY = "hippo_training.json"
"""File beside the final checkpoint with the training's settings, time and precision."""

FINAL = "checkpoint_final.pth"
"""nnU-Net's file with the weights of a trained fold."""

_PLAN_KEYS = ("architecture", "patch_size", "spacing", "batch_size", "normalization_schemes", "data_identifier")


def is_finished(folder: Path, npz: bool = True) -> bool:
    """Tell whether a fold is trained, and validated with every file that its summary names.

    Args:
        folder: `.../{trainer}__{plans}__{configuration}/fold_X`.
        npz: Whether every validation case needs its softmax.
    """
    summary = folder / "validation" / "summary.json"
    if not (folder / FINAL).is_file() or not summary.is_file():
        return False
    try:
        cases = read_json(summary)["metric_per_case"]
        predictions = _prediction_names(cases)
    except (DataError, KeyError, TypeError):  # the validation was killed while it wrote this file
        return False
    if not all((summary.parent / name).is_file() for name in predictions):
        return False
    return not npz or len(list(summary.parent.glob("*.npz"))) >= len(cases)


def _prediction_names(cases: list[dict[str, Any]]) -> list[str]:
    """Return the file names of the predictions that a validation's summary lists."""
    return [re.split(r"[\\/]", case["prediction_file"])[-1] for case in cases if "prediction_file" in case]


def lacks_descriptions(folder: Path) -> bool:
    """Tell whether a trained fold lacks its model's plans.json or dataset.json, or its own SUMMARY.

    Args:
        folder: As `is_finished`; nnU-Net's own trainers write no SUMMARY.
    """
    wanted = [folder.parent / "plans.json", folder.parent / "dataset.json"]
    if recipes.is_ours(folder.parent.name.split("__")[0]):
        wanted.append(folder / SUMMARY)
    return not all(path.is_file() for path in wanted)


def check_finished(
    folder: Path, trainer: str, plans: dict[str, Any], configuration: str, split: Split | None = None
) -> None:
    """Refuse a finished fold of another schedule, or with other plans, cases, prompts, teachers or CLIP encoder.

    Args:
        folder: `.../{trainer}__{plans}__{configuration}/fold_X`; nnU-Net's own trainers record no schedule.
        trainer: Name of the trainer.
        plans: The plans as they are now.
        configuration: Such as `2d`.
        split: The fold's cases as they are now; None does not compare them.

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
    record = read_object(folder / SUMMARY) if recipes.is_ours(trainer) and (folder / SUMMARY).is_file() else None
    if split is not None:
        check_trained_split(folder, split)
    if record is not None:
        recipe = recipes.parse(trainer)
        schedule = record.get("schedule", {})
        if not isinstance(schedule, dict):
            raise DataError(f"{folder / SUMMARY} holds no schedule; delete it, then run again: the checkpoint knows it")
        dim = len(configuration_of(plans, configuration)["patch_size"])
        current = asdict(schedule_for(recipe, dim))
        difference = schedule_difference(schedule, current)
        if difference:
            raise ConfigError(f"{folder} was trained by another schedule ({difference}); delete it to train again")
        encoder = record.get("encoder")
        used = encoder.get("name") if isinstance(encoder, dict) else encoder
        if used and used != (chosen := chosen_encoder(recipe.mini)).name:
            raise ConfigError(
                f"{folder} was trained with the CLIP encoder {used}, expected {chosen.name}: set "
                f"{MODEL_VARIABLE} and {WEIGHTS_VARIABLE} to it, or delete the folder to train again"
            )
        if recipe.mini and isinstance(encoder, dict) and encoder.get("sha256") != read_object(MINI_RECORD)["sha256"]:
            raise ConfigError(
                f"{folder} was trained with the mini of another version of hippo_nnunet: install that version, or "
                "delete the folder to train again"
            )
        _check_teachers(folder, trainer, record.get("teachers") or {})
        if record.get("prompts") is not None and (folder.parent / "dataset.json").is_file():
            check_same_prompts(record["prompts"], training_prompts(read_object(folder.parent / "dataset.json")), folder)


def _check_teachers(folder: Path, trainer: str, teachers: Mapping[str, str]) -> None:
    for teacher, digest in teachers.items():
        file = folder.parent.parent / folder.parent.name.replace(trainer, teacher, 1) / folder.name / FINAL
        if file.is_file() and hash_file(file) != digest:
            raise ConfigError(
                f"{folder} learned from another {teacher}, which has been trained again since: delete the folder to "
                "train again"
            )


def check_trained_split(folder: Path, split: Split) -> None:
    """Refuse a trained fold that was trained or validated with other cases.

    Folds of nnU-Net's own trainers, and of versions that did not record the split, are compared by the cases that they
    were validated with.

    Raises:
        ConfigError: Names the first case that moved.
        DataError: The record of the training cannot be read.
    """
    stored = read_object(folder / SUMMARY).get("split") if (folder / SUMMARY).is_file() else None
    if stored is not None and not is_split(stored):
        raise DataError(f"{folder / SUMMARY} holds no split; delete it, then run again: the checkpoint knows it")
    if stored is None:
        try:
            ending = str(read_object(folder.parent / "dataset.json")["file_ending"])
            cases = read_json(folder / "validation" / "summary.json")["metric_per_case"]
            stored = {"val": [name.removesuffix(ending) for name in _prediction_names(cases)]}
        except (DataError, KeyError, TypeError):  # not validated yet
            return
        if not stored["val"]:
            return
    check_same_split(stored, split, folder)


def check_same_split(stored: Mapping[str, Any], current: Split, folder: Path) -> None:
    """Refuse to continue or to use a fold's training with other cases.

    Raises:
        ConfigError: Names the first case that moved.
    """
    difference = split_difference(stored, current)
    if difference:
        raise ConfigError(
            f"{folder} was trained with another split: {difference}; restore the splits_final.json of that training, "
            "or delete the folder to train again"
        )


def check_same_prompts(stored: Any, current: Mapping[str, Sequence[str]] | None, folder: Path) -> None:
    """Refuse to continue or to use a fold's training with other prompts.

    Args:
        stored: Of the training so far; None, if it is not recorded, is accepted.
        current: Class to its prompts; None for a network without text.
        folder: Of the fold.

    Raises:
        ConfigError: Names the first class whose prompts differ.
    """
    if stored is None or stored == current:
        return
    before, now = stored if isinstance(stored, dict) else {}, current or {}
    name = next((name for name in [*now, *before] if before.get(name) != now.get(name)), "")
    raise ConfigError(
        f"{folder} was trained with other prompts: those of {name!r} were {before.get(name)}, are now {now.get(name)}; "
        f"set {PROMPTS_VARIABLE} to the file of that training (its {SUMMARY} has the texts), or delete the folder to "
        "train again"
    )


def plan_difference(stored: dict[str, Any], current: dict[str, Any], configuration: str) -> str:
    """Return how plans differ in what determines a network and its patches; empty if they agree."""
    if configuration not in stored.get("configurations", {}):
        return f"they have no configuration {configuration}"
    before, now = configuration_of(stored, configuration), configuration_of(current, configuration)
    for key in _PLAN_KEYS:
        old, new = json_values(before.get(key)), json_values(now.get(key))
        if old != new:
            return f"{key} was {old}, is now {new}"
    return ""


def schedule_difference(stored: dict[str, Any], current: dict[str, Any]) -> str:
    """Return how two schedules differ in what determines the weights; empty if they agree."""
    if "mirroring" not in stored:  # not recorded as long as `fast` mirrored left to right in 3D as well
        stored = stored | {"mirroring": current.get("mirroring") and "mirrorLR"}
    return "; ".join(
        f"{key} was {stored.get(key)}, is now {value}"
        for key, value in current.items()
        if stored.get(key) != value and key != "validation_iterations"
    )
