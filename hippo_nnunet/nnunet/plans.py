"""nnU-Net's plans of a dataset, read without torch. Nothing that they name is imported: see `plans_check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import read_json
from hippo_nnunet.nnunet.paths import NnunetFolders


def configuration_of(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Return a configuration of a plans file, its `inherits_from` chain resolved.

    Raises:
        ConfigError: The plans hold no such configuration, or it inherits from itself.
    """
    available = plans["configurations"]
    where = f"{plans.get('plans_name', 'the plans')} of {plans.get('dataset_name', 'the dataset')}"
    parts: dict[str, Mapping[str, Any]] = {}
    name = configuration
    while name:
        if name not in available:
            raise ConfigError(f"configuration '{name}' is not in {where}; it has {', '.join(available)}")
        if name in parts:
            raise ConfigError(
                f"configuration '{configuration}' inherits from itself in {where}; correct the plans, or plan again"
            )
        parts[name] = available[name]
        name = available[name].get("inherits_from")
    return {key: value for part in reversed(parts.values()) for key, value in part.items()}


def plans_file(dataset: str, plans: str, folders: NnunetFolders) -> Path:
    """Return the path of a plans file, which need not exist."""
    return folders.preprocessed / dataset / f"{plans}.json"


def read_plans(dataset: str, plans: str, folders: NnunetFolders) -> dict[str, Any]:
    """Read a plans file.

    Raises:
        ConfigError: The dataset is not planned, or not with these plans.
        DataError: The file cannot be read.
    """
    file = plans_file(dataset, plans, folders)
    if not file.is_file():
        others = sorted(p.stem for p in file.parent.glob("*.json") if is_plans(read_json(p)))
        there = f"there are {', '.join(others)}" if others else "nothing is planned yet"
        raise ConfigError(
            f"{file} is missing ({there}); plan and preprocess first: "
            f"hippo-nnunet plan --dataset {int(dataset[7:10])} --planner PLANNER"
        )
    content = read_json(file)
    if not is_plans(content):
        raise DataError(f"{file} holds no plans (plans_name, dataset_name, configurations); delete it and plan again")
    return dict(content)


def is_plans(content: Any) -> bool:
    """Return whether the content of a JSON file has the keys of plans that are used here."""
    return (
        isinstance(content, dict)
        and all(isinstance(content.get(name), str) for name in ("plans_name", "dataset_name"))
        and isinstance(content.get("configurations"), dict)
        and all(
            isinstance(part, dict) and isinstance(part.get("inherits_from", ""), str)
            for part in content["configurations"].values()
        )
    )
