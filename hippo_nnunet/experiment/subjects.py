"""The subjects of an experiment: checked before anything is written, and kept in its `subjects.csv`."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePath

from hippo_nnunet.data.archive import task_files
from hippo_nnunet.data.layout import ENDINGS
from hippo_nnunet.data.subjects import (
    AUTO,
    FILE,
    NONE,
    TABLE,
    Subjects,
    read_subjects,
    unlabelled_cases,
    write_subjects,
)
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.pairing import subset_size
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.stale import read_manifest
from hippo_nnunet.files import read_object
from hippo_nnunet.nnunet.folds import check_subject_folds, find_subjects
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import raw_cases
from hippo_nnunet.nnunet.splits import read_splits
from hippo_nnunet.nnunet.subset import stored_subjects, trained_split


def check_subjects(
    experiment: Experiment, folders: NnunetFolders, folder: Path, option: str | None, source: Path | None
) -> Subjects | None:
    """Check the table of subjects, and existing splits against it; writes nothing.

    Args:
        experiment: The request.
        folders: nnU-Net's folders.
        folder: The experiment's folder, which need not exist.
        option: `--subjects` as typed; None if it was not given.
        source: The Decathlon task that the dataset will be converted from.

    Returns:
        The subjects of a table that the user named, to be kept; else None.

    Raises:
        ConfigError: Another table than the one that the experiment began with, a table that is missing, or splits that
            contradict the request.
        DataError: The table is wrong, or it has fewer subjects than the split has folds.
    """
    paths = ExperimentPaths(folder)
    given = None
    if option not in (None, AUTO, NONE):
        assert option is not None
        given = read_subjects(Path(option), *_cases_of(experiment.dataset, folders, source))
        if paths.split.is_file() and paths.subjects.is_file() and given != read_subjects(paths.subjects):
            raise ConfigError(
                f"{option} is not the table that this experiment began with, {paths.subjects}: leave --subjects out, "
                "or take another folder"
            )
    elif experiment.subjects == FILE and not paths.subjects.is_file():
        raise ConfigError(f"{paths.subjects} is missing: restore it, or name the table again with --subjects FILE")
    if not paths.split.is_file():
        subjects = given or _known_subjects(experiment, folders, folder, source)
        if subjects:
            check_subject_folds(experiment.dataset, subjects, experiment.subjects != NONE, folders)
    return given


def keep_subjects(experiment: Experiment, folders: NnunetFolders, folder: Path) -> Subjects | None:
    """Return the subjects of a dataset in nnUNet_raw, and write the experiment's table.

    With `subjects: none` they decide nothing about the folds, but are the unit of the statistics.

    Returns:
        The subject of every case; None if no cases are known to belong together.

    Raises:
        DataError: A table is wrong.
    """
    table = ExperimentPaths(folder).subjects
    choice = str(table) if experiment.subjects == FILE else experiment.subjects
    subjects = find_subjects(experiment.dataset, choice, folders)
    if subjects is not None:
        write_subjects(subjects, table)
    return subjects


def split_subjects(experiment: Experiment, folders: NnunetFolders, folder: Path) -> Subjects:
    """Return the subjects that subsets of a fold's cases keep together; empty if folds are by case.

    They are those beside the splits, which trainings read, else those that will be restored from the experiment's own
    table.

    Raises:
        DataError: The table is wrong.
    """
    stored, table = stored_subjects(folders.preprocessed / experiment.dataset), ExperimentPaths(folder).subjects
    return stored or (read_subjects(table) if experiment.subjects != NONE and table.is_file() else {})


def check_subsets(
    experiment: Experiment,
    folders: NnunetFolders,
    folder: Path,
    subjects: Subjects | None = None,
    source: Path | None = None,
) -> None:
    """Refuse numbers of training cases that a fold does not have, as far as folds are known; writes nothing.

    Args:
        experiment: The request.
        folders: nnU-Net's folders.
        folder: The experiment's folder, which need not exist.
        subjects: Of a table that the experiment does not have yet.
        source: The Decathlon task that the dataset will be converted from.

    Raises:
        ConfigError: A variant trains on more cases than a fold has, or on fewer than the first subject that is drawn.
        DataError: Splits or table cannot be read.
    """
    cells = [cell for cell in experiment.cells() if cell.variant not in experiment.full_variants]
    if not cells:
        return
    splits = read_splits(experiment.dataset, folders)
    if splits is not None:
        known = subjects or split_subjects(experiment, folders, folder)
        for cell in cells:
            trained_split(cell.trainer, cell.fold, splits[cell.fold], known)
        return
    cases, folds = len(_cases_of(experiment.dataset, folders, source)[0]), experiment.number_of_folds
    most, largest = cases - -(-cases // folds), max(cells, key=lambda cell: subset_size(cell.variant) or 0)
    if cases and (subset_size(largest.variant) or 0) > most:
        raise ConfigError(
            f"{largest.variant}: of {cases} cases in {folds} folds at most {most} train each fold; take fewer"
        )


def load_subjects(folder: Path, cases: Collection[str]) -> Subjects | None:
    """Read the experiment's table of subjects; None if it has none.

    Args:
        folder: The experiment's folder.
        cases: The cases that need a subject.

    Raises:
        DataError: The table is wrong, lacks a case, or is missing although the manifest names it.
    """
    table = ExperimentPaths(folder).subjects
    if not table.is_file():
        if ((read_manifest(folder) or {}).get("subjects") or {}).get("number") is not None:
            raise DataError(f"{table} is missing, but the manifest counts its subjects: restore it")
        return None
    subjects = read_subjects(table)
    lacking = sorted({*cases} - {*subjects})
    if lacking:
        raise DataError(f"{table} lacks {len(lacking)} of {len({*cases})} cases, first '{lacking[0]}': add their rows")
    return subjects


def _known_subjects(
    experiment: Experiment, folders: NnunetFolders, folder: Path, source: Path | None
) -> Subjects | None:
    """Return the subjects as far as they are known yet; images are only read if there are splits to be checked."""
    if experiment.subjects == FILE:
        return read_subjects(ExperimentPaths(folder).subjects)
    raw = folders.raw / experiment.dataset
    if (raw / "dataset.json").is_file():
        known = (raw / TABLE).is_file() or read_splits(experiment.dataset, folders) is not None
        return find_subjects(experiment.dataset, experiment.subjects, folders) if known else None
    if source is not None and (source / TABLE).is_file():
        return read_subjects(source / TABLE, *_cases_of(experiment.dataset, folders, source))
    return None


def _cases_of(dataset: str, folders: NnunetFolders, source: Path | None) -> tuple[set[str], set[str]]:
    """Return the labelled and the test cases of the raw dataset, or of the task or archive that it will be made of.

    Both are empty if there is neither, or the archive is damaged, which its conversion reports.
    """
    raw = folders.raw / dataset
    if (raw / "dataset.json").is_file():
        ending = str(read_object(raw / "dataset.json").get("file_ending"))
        return raw_cases(dataset, folders), unlabelled_cases(raw, ending)
    return source_cases(source) if source is not None else (set(), set())


def source_cases(source: Path) -> tuple[set[str], set[str]]:
    """Return the labelled and the test cases of a Decathlon task or its archive; both empty if it is damaged."""
    paths: list[PurePath] = []
    with suppress(DataError):
        paths = task_files(source)
    labelled, unlabelled = (
        {path.name[: -len(ending)] for ending in ENDINGS for path in paths if _is_image(path, part, ending)}
        for part in ("labelsTr", "imagesTs")
    )
    return labelled, unlabelled


def _is_image(path: PurePath, part: str, ending: str) -> bool:
    return path.parent.name == part and path.name.endswith(ending) and not path.name.startswith(".")
