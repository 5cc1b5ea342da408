"""Folds of a dataset: by subject or nnU-Net's own, written before nnU-Net writes its own; never replaced."""

from __future__ import annotations

from pathlib import Path

from hippo_nnunet.data.subjects import (
    AUTO,
    NONE,
    TABLE,
    Subjects,
    broken_subject,
    dataset_subjects,
    grouped_splits,
    read_subjects,
    unlabelled_cases,
    write_subjects,
)
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.files import read_object, write_json
from hippo_nnunet.nnunet.finished import check_trained_split
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import raw_cases
from hippo_nnunet.nnunet.splits import DEFAULT_FOLDS, Split, read_splits, splits_file
from hippo_nnunet.nnunet.subset import trained_split

_AWAY = "delete the file, with what was trained on it, to have other folds"


def find_subjects(dataset: str, choice: str, folders: NnunetFolders) -> Subjects | None:
    """Find the subjects of a dataset in nnUNet_raw.

    Args:
        dataset: Full name.
        choice: `auto` or `none`: see `dataset_subjects`; else the path of a table.
        folders: nnU-Net's folders.

    Returns:
        The subject of every labelled case; None if no cases are known to belong together.

    Raises:
        DataError: The table or dataset.json is wrong.
    """
    raw, cases = folders.raw / dataset, raw_cases(dataset, folders)
    ending = str(read_object(raw / "dataset.json").get("file_ending"))
    if choice in (AUTO, NONE):
        return dataset_subjects(raw, cases, ending)
    return read_subjects(Path(choice), cases, unlabelled_cases(raw, ending))


def check_subject_folds(dataset: str, subjects: Subjects, by_subject: bool, folders: NnunetFolders) -> None:
    """Refuse existing splits that contradict the requested folds, and subjects that are too few to be split.

    Args:
        dataset: Full name.
        subjects: The subject of every case.
        by_subject: Whether folds by subject are requested, rather than nnU-Net's own.
        folders: nnU-Net's folders.

    Raises:
        ConfigError: A fold trains and validates on cases of one subject, or, if nnU-Net's own folds are requested, the
            folds are by subject.
        DataError: There are fewer subjects than folds, or the splits cannot be read.
    """
    splits, file = read_splits(dataset, folders), splits_file(dataset, folders)
    if splits is None:
        if by_subject:
            grouped_splits(subjects, DEFAULT_FOLDS)
        return
    broken = broken_subject(subjects, splits)
    if by_subject and broken:
        raise ConfigError(f"{file}: {broken}; {_AWAY}, or give --subjects none to keep it")
    if not by_subject and not broken and splits == grouped_splits(subjects, len(splits)):
        raise ConfigError(f"{file} holds folds by subject, and --subjects none requests nnU-Net's own; {_AWAY}")


def make_splits(dataset: str, cases: set[str], folders: NnunetFolders, subjects: Subjects | None = None) -> None:
    """Write the splits if there are none; folds that start together would race to write them.

    The table of subjects is written beside them, for recipes that train on some of a fold's cases.

    Args:
        dataset: Full name.
        cases: Its cases.
        folders: nnU-Net's folders.
        subjects: The subject of every case, for folds by subject; None for nnU-Net's own.

    Raises:
        ConfigError: A fold is trained already, on other cases than it would have.
        DataError: There are fewer subjects than folds.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    file = splits_file(dataset, folders)
    if read_splits(dataset, folders) is not None:
        if subjects is not None:
            write_subjects(subjects, file.with_name(TABLE))
        return
    if subjects is None:
        found = generate_crossval_split(sorted(cases), seed=12345, n_splits=DEFAULT_FOLDS)
        splits = [{part: [str(case) for case in split[part]] for part in ("train", "val")} for split in found]
    else:
        splits = grouped_splits(subjects, DEFAULT_FOLDS)
    _check_trained(dataset, splits, folders, subjects)
    if subjects is not None:
        write_subjects(subjects, file.with_name(TABLE))
    else:
        file.with_name(TABLE).unlink(missing_ok=True)  # of earlier folds by subject
    write_json(file, splits, indent=4)


def _check_trained(dataset: str, splits: list[Split], folders: NnunetFolders, subjects: Subjects | None) -> None:
    """Refuse to write splits that differ from those of finished trainings."""
    other = "none for nnU-Net's own folds" if subjects else "auto for folds by subject"
    if folders.results_folder is None:
        return
    for fold, split in enumerate(splits):
        for folder in sorted((folders.results / dataset).glob(f"*__*__*/fold_{fold}")):
            if (folder / "checkpoint_final.pth").is_file():
                try:
                    trainer = folder.parent.name.split("__")[0]
                    check_trained_split(folder, trained_split(trainer, fold, split, subjects or {}))
                except ConfigError as error:
                    raise ConfigError(f"{error}; or give --subjects {other}") from error
