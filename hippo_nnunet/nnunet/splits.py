"""The cross-validation splits of a dataset, `splits_final.json`, read and checked without torch."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from hippo_nnunet.data.layout import CHANNEL, ENDINGS
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import read_json
from hippo_nnunet.nnunet.paths import NnunetFolders

log = logging.getLogger(__name__)

DEFAULT_FOLDS = 5
Split = dict[str, list[str]]
"""One fold: the names of its cases under `train` and `val`."""

_DELETE = "delete it to have new folds"


def splits_file(dataset: str, folders: NnunetFolders) -> Path:
    """Return the path of a dataset's splits, which need not exist."""
    return folders.preprocessed / dataset / "splits_final.json"


def read_splits(dataset: str, folders: NnunetFolders) -> list[Split] | None:
    """Return the cross-validation splits, or None if they do not exist yet.

    Raises:
        DataError: The file holds no list of `{"train": [...], "val": [...]}`, one of these lists is empty, a case is on
            both sides of a fold, or it is validated more than once.
    """
    file = splits_file(dataset, folders)
    if not file.is_file():
        return None
    splits = read_json(file)
    if not isinstance(splits, list) or not splits or not all(map(is_split, splits)):
        raise DataError(f"{file} is not a list of train/val splits; {_DELETE}")
    validated: dict[str, int] = {}
    for fold, split in enumerate(splits):
        for part in ("train", "val"):
            if not split[part]:
                raise DataError(f"{file}: fold {fold} has no case in {part}; move cases there, or {_DELETE}")
        both = sorted({*split["train"]} & {*split["val"]})
        if both:
            raise DataError(
                f"{file}: fold {fold} has '{both[0]}' in train and val, so its score would be biased; remove it "
                "from one"
            )
        for case in split["val"]:
            if case in validated:
                where = f"folds {validated[case]} and {fold}" if validated[case] != fold else f"fold {fold} twice"
                raise DataError(
                    f"{file}: '{case}' is in val of {where}, but a case is validated once; keep it in one, or {_DELETE}"
                )
            validated[case] = fold
    return splits


def is_split(split: Any) -> bool:
    """Return whether the content of a JSON file lists the cases of a fold."""
    return isinstance(split, dict) and all(
        isinstance(split.get(part), list) and all(isinstance(case, str) for case in split[part])
        for part in ("train", "val")
    )


def check_split_cases(dataset: str, cases: Collection[str], folders: NnunetFolders) -> None:
    """Refuse splits that name a case that the dataset does not have, and warn of cases that they leave out.

    Args:
        dataset: Full name.
        cases: The cases of the dataset.
        folders: nnU-Net's folders.

    Raises:
        DataError: Names the first such case, and the case that was probably meant.
    """
    splits = read_splits(dataset, folders)
    if splits is None:
        return
    named = {case for split in splits for part in ("train", "val") for case in split[part]}
    left_out, unknown = sorted({*cases} - named), sorted(named - {*cases})
    if left_out:
        log.warning(
            "%s leaves out %d cases of %s, first '%s': they are neither trained on nor validated",
            splits_file(dataset, folders),
            len(left_out),
            dataset,
            left_out[0],
        )
    if unknown:
        nearest = _nearest(unknown[0], cases)
        remedy = f"did you mean '{nearest}'? Correct the file" if nearest else f"correct the file, or {_DELETE}"
        raise DataError(
            f"{splits_file(dataset, folders)} names '{unknown[0]}', which is no case of {dataset} ({len(unknown)} such "
            f"names; cases have no file ending and no channel number); {remedy}"
        )


def _nearest(name: str, cases: Collection[str]) -> str | None:
    """Return the case that a name without ending and channel number is, else the most similar one, if any."""
    bare = name
    for ending in ENDINGS:
        bare = bare.removesuffix(ending)
    without_channel = CHANNEL.sub("", bare)
    exact = [candidate for candidate in (bare, without_channel) if candidate in cases]
    return next(iter([*exact, *difflib.get_close_matches(without_channel, sorted(cases), 1)]), None)


def split_record(train: Iterable[str], val: Iterable[str]) -> dict[str, Any]:
    """Return the cases of a fold, sorted, and their hash, as a training records them."""
    cases = {"train": sorted(map(str, train)), "val": sorted(map(str, val))}
    return {"sha256": hashlib.sha256(json.dumps(cases).encode()).hexdigest(), **cases}


def split_difference(stored: Mapping[str, Any], current: Split) -> str:
    """Return the first case that moved between a recorded split of a fold and the current one; empty if none did.

    Args:
        stored: What `split_record` returned, or a part of it: a list that is missing is not compared.
        current: The fold's split.
    """
    for part in ("val", "train"):
        before, now = {*stored.get(part, current[part])}, {*current[part]}
        for case in sorted(before ^ now):
            return f"'{case}' is {'no longer' if case in before else 'now'} in {part}"
    return ""


def check_fold(dataset: str, fold: int, cases: int, folders: NnunetFolders) -> Split | None:
    """Refuse a fold outside the splits, for which nnU-Net would silently draw a random split.

    Args:
        dataset: Full name.
        fold: Index from 0.
        cases: Number of cases; used only if there are no splits yet.
        folders: nnU-Net's folders.

    Returns:
        The fold's split; None if there are no splits yet.

    Raises:
        ConfigError: The fold is outside the split.
        DataError: There are fewer cases than folds.
    """
    splits = read_splits(dataset, folders)
    if splits is None:
        check_number_of_cases(dataset, cases)
    number = DEFAULT_FOLDS if splits is None else len(splits)
    if not 0 <= fold < number:
        raise ConfigError(f"fold {fold} is outside the split of {dataset}, which has folds 0 to {number - 1}")
    return None if splits is None else splits[fold]


def check_number_of_cases(dataset: str, cases: int) -> None:
    """Refuse to split fewer cases than folds.

    Raises:
        DataError: There are fewer cases than folds.
    """
    if cases < DEFAULT_FOLDS:
        raise DataError(
            f"{dataset} has {cases} labelled cases, fewer than the {DEFAULT_FOLDS} folds of cross-validation; "
            "add cases, or write your own splits_final.json beside the plans"
        )
