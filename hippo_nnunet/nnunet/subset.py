"""The cases that a trainer trains a fold with: those of the split, or a subset where its recipe has `<N>cases`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from hippo_nnunet.data.subjects import TABLE, Subjects, read_subjects
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.nnunet.splits import Split
from hippo_nnunet.training import recipes


def stored_subjects(preprocessed: Path) -> Subjects:
    """Return the subjects that the folds of a preprocessed dataset keep together; empty if folds are by case.

    Args:
        preprocessed: The dataset's folder in `nnUNet_preprocessed`.

    Raises:
        DataError: The table is wrong.
    """
    table = preprocessed / TABLE
    return read_subjects(table) if table.is_file() else {}


def trained_split(trainer: str, fold: int | str, split: Split, subjects: Subjects) -> Split:
    """Return the cases that a trainer trains and validates a fold with.

    Args:
        trainer: Class name; only recipes of ours have subsets.
        fold: Index from 0, or `all`.
        split: The fold's cases.
        subjects: The subject of each case; cases without one are their own.

    Returns:
        The split; with a recipe's word `<N>cases` only a subset of its training cases, and the same validation cases.

    Raises:
        ConfigError: See `training_subset`.
    """
    try:
        recipe = recipes.parse(trainer)
    except ConfigError:  # nnU-Net's own, or of another version of this package
        return split
    if recipe.cases is None:
        return split
    try:
        train = training_subset(split["train"], recipe.cases, f"{recipe.seed or 0} {fold}", subjects)
    except ConfigError as error:
        raise ConfigError(f"{trainer}, fold {fold}: {error}") from error
    return {**split, "train": train}


def training_subset(train: Sequence[str], count: int, key: str, subjects: Mapping[str, str]) -> list[str]:
    """Draw whole subjects until the number of their cases is as near to `count` as it gets.

    The order of the subjects depends on the key and the names of their cases alone, so a smaller subset of the same key
    is part of a larger one.

    Args:
        train: Training cases.
        count: Number of cases, 1 or more; of two that are equally near, the smaller is taken.
        key: Decides the order.
        subjects: The subject of each case; cases without one are their own.

    Returns:
        The subset in the order of `train`.

    Raises:
        ConfigError: There are fewer cases, or the first subject has more.
    """
    if count > len(train):
        raise ConfigError(
            f"got {count} training cases, but there are {len(train)}; take fewer, or leave the word out for all"
        )
    groups: dict[str, list[str]] = {}
    for case in sorted(train):
        groups.setdefault(subjects.get(case, case), []).append(case)
    order = sorted(groups.values(), key=lambda cases: hashlib.sha256(f"{key} {cases[0]}".encode()).hexdigest())
    sizes = list(accumulate(map(len, order)))
    if count < sizes[0]:
        raise ConfigError(
            f"got {count} training cases, but subjects stay whole and the first that is drawn has {sizes[0]}; take "
            f"at least {sizes[0]}"
        )
    number = min(range(len(sizes)), key=lambda position: (abs(sizes[position] - count), position)) + 1
    drawn = {case for cases in order[:number] for case in cases}
    return [case for case in train if case in drawn]
