"""The cross-validation splits of a dataset, `splits_final.json`, read and checked without torch."""

from __future__ import annotations

from typing import Any

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import read_json, write_json
from hippo_nnunet.nnunet.paths import NnunetFolders

DEFAULT_FOLDS = 5


def read_splits(dataset: str, folders: NnunetFolders) -> list[dict[str, list[str]]] | None:
    """Return the cross-validation splits, or None if they do not exist yet.

    Raises:
        DataError: The file holds no list of `{"train": [...], "val": [...]}`, or a case on both sides of a fold.
    """
    file = folders.preprocessed / dataset / "splits_final.json"
    if not file.is_file():
        return None
    splits = read_json(file)
    if not isinstance(splits, list) or not splits or not all(map(_is_split, splits)):
        raise DataError(f"{file} is not a list of train/val splits; delete it to use nnU-Net's default splits")
    for fold, split in enumerate(splits):
        both = sorted({*split["train"]} & {*split["val"]})
        if both:
            raise DataError(
                f"{file}: fold {fold} has '{both[0]}' in train and val, so its score would be biased; remove it "
                "from one"
            )
    return splits


def _is_split(split: Any) -> bool:
    return isinstance(split, dict) and all(
        isinstance(split.get(part), list) and all(isinstance(case, str) for case in split[part])
        for part in ("train", "val")
    )


def make_splits(dataset: str, cases: set[str], folders: NnunetFolders) -> None:
    """Write nnU-Net's default splits if there are none; folds that start together would race to write them."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    if read_splits(dataset, folders) is not None:
        return
    splits = generate_crossval_split(sorted(cases), seed=12345, n_splits=DEFAULT_FOLDS)
    plain = [{part: [str(case) for case in split[part]] for part in ("train", "val")} for split in splits]
    write_json(folders.preprocessed / dataset / "splits_final.json", plain, indent=4)


def check_fold(dataset: str, fold: int, cases: int, folders: NnunetFolders) -> None:
    """Refuse a fold outside the splits, for which nnU-Net would silently draw a random split.

    Args:
        dataset: Full name.
        fold: Index from 0.
        cases: Number of cases; used only if there are no splits yet.
        folders: nnU-Net's folders.

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
