"""Which cases belong to one subject: the table `subjects.csv`, or what the images show.

Cases of one subject resemble each other. A network that was trained on one of them and validated on another is not
tested on unseen subjects, so folds keep subjects together, and statistics take the subject as the unit.
"""

from __future__ import annotations

import csv
import logging
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from hippo_nnunet.errors import DataError
from hippo_nnunet.files import write_text

log = logging.getLogger(__name__)

TABLE = "subjects.csv"
"""The table's name, beside dataset.json and in an experiment's folder."""
AUTO, NONE = "auto", "none"
"""Values of `--subjects` other than a file: the dataset's table or else its images decide; nnU-Net's own folds."""
FILE = "file"
"""What an experiment records in the place of a table's path."""
SEED = 12345
"""nnU-Net's own seed for splits."""

Subjects = Mapping[str, str]
"""The subject of every case."""


def read_subjects(path: Path, cases: Collection[str] = (), further: Collection[str] = ()) -> dict[str, str]:
    """Read a table of subjects.

    Args:
        path: A CSV file with the columns `case` and `subject`; other columns are ignored.
        cases: The cases that need a subject; empty: not known, and not compared.
        further: Cases that may have one, such as test cases.

    Returns:
        The subject of every case of `cases`, or of the table if they are not known.

    Raises:
        FoundProblem: It cannot be read, a column or a value is missing, a case stands twice or is unknown, or a case
            has no subject.
    """

    from hippo_nnunet.data.finding import Finding, FoundProblem

    def problem(message: str, remedy: str) -> FoundProblem:
        return FoundProblem(Finding(path, None, "subjects", message, remedy))

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = list(reader)
    except FileNotFoundError:
        raise problem("no such file", "name a CSV file with the columns case and subject") from None
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise problem(f"cannot be read as a CSV file ({reason})", "save it as CSV in UTF-8") from error
    if not {"case", "subject"} <= set(columns):
        got = ", ".join(columns)[:100] or "no column"
        raise problem(f"got {got}, expected the columns case and subject", "name its columns case,subject")
    found: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        case, subject = ((row[name] or "").strip() for name in ("case", "subject"))
        if not case or not subject:
            lacking = "case" if not case else "subject"
            raise problem(f"row {line} has no {lacking}", "give every row a case and a subject")
        if case in found:
            raise problem(f"case '{case}' stands twice", "keep one row for each case")
        found[case] = subject
    if not found:
        raise problem("holds no case", "give every case a row")
    if not cases:
        return found
    if unknown := sorted({*found} - {*cases} - {*further}):
        known = f"expected cases such as '{min(cases)}'"
        raise problem(
            f"names {len(unknown)} unknown cases, first '{unknown[0]}'; {known}", "correct or remove the rows"
        )
    if lacking_cases := sorted({*cases} - {*found}):
        message = f"lacks {len(lacking_cases)} of {len(cases)} cases, first '{lacking_cases[0]}'"
        raise problem(message, "give every case a row; a case without others is a subject of its own")
    return {case: found[case] for case in sorted(cases)}


def write_subjects(subjects: Subjects, path: Path) -> Path:
    """Write a table of subjects atomically: a row for each case, sorted."""
    rows = [f"{_quoted(case)},{_quoted(subjects[case])}\n" for case in sorted(subjects)]
    return write_text(path, "".join(["case,subject\n", *rows]))


def dataset_subjects(raw: Path, cases: Collection[str], ending: str) -> dict[str, str] | None:
    """Find the subjects of a dataset of nnUNet_raw: by its table, else by what its images show; both are logged.

    Args:
        raw: The dataset's folder.
        cases: Its labelled cases.
        ending: Its file ending.

    Returns:
        The subject of every case; None if there is no table and the images show no cases of one scan.

    Raises:
        FoundProblem: The table is wrong.
    """
    from hippo_nnunet.data.same_scan import same_scan_cases, subjects_of_groups

    table = raw / TABLE
    if table.is_file():
        subjects = read_subjects(table, cases, unlabelled_cases(raw, ending))
        log.info("%s: %d cases of %d subjects", table, len(cases), len({*subjects.values()}))
        return subjects
    found = same_scan_cases({case: raw / "imagesTr" / f"{case}_0000{ending}" for case in sorted(cases)})
    if found is None:
        log.info("no %s, and the images do not show cases of one scan: every case counts as a subject", table)
        return None
    log.info("%s; write %s to correct this", found.describe(), table)
    return subjects_of_groups(found.groups, cases)


def unlabelled_cases(raw: Path, ending: str) -> set[str]:
    """Return the test cases of a dataset of nnUNet_raw: the names of their images without channel and ending."""
    return {path.name.removesuffix(ending)[:-5] for path in (raw / "imagesTs").glob(f"[!.]*{ending}")}


def grouped_splits(subjects: Subjects, folds: int) -> list[dict[str, list[str]]]:
    """Split cases into folds that keep every subject together, with similar numbers of cases and of subject sizes.

    The folds are those of `StratifiedGroupKFold(folds, shuffle=True, random_state=SEED)` of scikit-learn 1.8 and newer,
    with the cases sorted, the number of cases of the case's subject as the class, and the subjects numbered in order of
    first appearance. The shuffle is done here, because older versions shuffle in another way.

    Args:
        subjects: The subject of every case.
        folds: Number of folds.

    Returns:
        For each fold the sorted cases of `train` and `val`, as in nnU-Net's splits_final.json.

    Raises:
        DataError: There are fewer subjects than folds.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    cases = sorted(subjects)
    sizes = Counter(subjects.values())
    if len(sizes) < folds:
        raise DataError(
            f"{len(cases)} cases of {len(sizes)} subjects, fewer than the {folds} folds of cross-validation: add "
            "subjects, or give --subjects none for folds by case"
        )
    numbers = {subject: number for number, subject in enumerate(dict.fromkeys(subjects[case] for case in cases))}
    shuffled = np.argsort(np.random.RandomState(SEED).permutation(len(numbers)))
    groups = [shuffled[numbers[subjects[case]]] for case in cases]
    classes = [sizes[subjects[case]] for case in cases]
    if max(Counter(classes).values()) < folds:  # refused by scikit-learn
        classes = [0] * len(cases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer cases than folds cannot be in all of them
        found = list(StratifiedGroupKFold(folds).split(cases, classes, groups))
    return [{"train": [cases[i] for i in train], "val": [cases[i] for i in val]} for train, val in found]


def broken_subject(subjects: Subjects, splits: Collection[Mapping[str, Collection[str]]]) -> str | None:
    """Describe the first subject that a fold has in training and validation; None if there is none."""
    for fold, split in enumerate(splits):
        trained = {subjects[case]: case for case in sorted(split["train"], reverse=True) if case in subjects}
        for case in sorted(split["val"]):
            if (subject := subjects.get(case)) in trained:
                return f"fold {fold} validates '{case}' and trains on '{trained[subject]}' of the same subject"
    return None


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text
