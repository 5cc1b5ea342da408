"""Reads `experiment.yaml`. Users may edit the file, so its structure is validated first."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hippo_nnunet.data.subjects import AUTO, FILE, NONE
from hippo_nnunet.experiment.presets import PRESETS
from hippo_nnunet.nnunet.preprocessed import DATASET_NAME

CONFIGURATION = re.compile(r"[A-Za-z0-9][\w.+-]*")
"""Valid names of a configuration, which becomes part of paths."""

HEADER = "# Written by hippo-nnunet run. The last entry is plans.\n"
"""First line of the files that `run` writes, whose last entry is plans: one without it has been truncated."""

_LARGEST = 2**20


class _Loader(yaml.SafeLoader):
    """A loader that refuses aliases, with which a small file can exhaust the memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias, which is not allowed here")
        return super().compose_node(parent, index)


def read_request(path: Path) -> dict[str, Any]:
    """Read the file and validate its structure.

    Returns:
        The arguments of `Experiment`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not valid YAML, or an entry is missing, unknown or of the wrong type; says which.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST)
            content = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ValueError(f"no YAML that can be read: {error.problem} in line {line}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML that can be read: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError("no YAML that can be read: it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"got {_kind(content)}, expected entries such as 'dataset: Dataset004_Hippocampus'")
    if text.startswith(HEADER.encode()) and "plans" not in content:
        raise ValueError("it is cut off: its last entry, plans, is missing")
    content.pop("plans", None)
    unknown = sorted(str(name) for name in content if name not in _ENTRIES)
    if unknown:
        raise ValueError(f"unknown entry '{unknown[0]}'; this version knows {', '.join(_ENTRIES)}")
    for name, (is_right, expected, optional) in _ENTRIES.items():
        if name not in content and not optional:
            raise ValueError(f"no entry '{name}'; expected {expected}")
        if name in content and not is_right(content[name]):
            raise ValueError(f"{name}: got {_kind(content[name])}, expected {expected}")
    content["variants"] = tuple(content["variants"])
    for name in ("folds", "only"):
        content[name] = {key: tuple(values) for key, values in content.get(name, {}).items()}
    return content


def _kind(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"
    return text if len(text) < 60 else f"{text[:60]}..."


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_configurations(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(variant, str) and isinstance(names, list) and names and all(isinstance(name, str) for name in names)
        for variant, names in value.items()
    )


def _are_folds(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str)
        and CONFIGURATION.fullmatch(name)
        and isinstance(folds, list)
        and all(map(_is_number, folds))
        and len(set(folds)) == len(folds)
        for name, folds in value.items()
    )


_ENTRIES: dict[str, tuple[Callable[[Any], object], str, bool]] = {
    "dataset": (
        lambda v: isinstance(v, str) and DATASET_NAME.fullmatch(v),
        "a name such as Dataset004_Hippocampus",
        False,
    ),
    "preset": (lambda v: isinstance(v, str) and v in PRESETS, f"one of {', '.join(PRESETS)}", False),
    "variants": (lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v), "a list of names", False),
    "folds": (_are_folds, "configurations, each with a list of different folds, such as 2d: [0, 1]", False),
    "number_of_folds": (_is_number, "a whole number", True),
    "epochs": (lambda v: v is None or _is_number(v), "a whole number or null", True),
    "iterations": (lambda v: v is None or _is_number(v), "a whole number or null", True),
    "only": (_are_configurations, "variants, each with a list of configurations, such as UNet: [3d_fullres]", True),
    "subjects": (lambda v: v in (AUTO, NONE, FILE), f"{AUTO}, {NONE} or {FILE}", True),
}
"""Entry to: a check of its value, the expected value in words, and whether it is optional."""
