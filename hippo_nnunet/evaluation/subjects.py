"""The subject as the unit of statistics: its name, fold and contribution to a mean over cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np


def subject_names(cases: Iterable[str], subjects: Mapping[str, str] | None) -> np.ndarray:
    """Return the subject of each case; cases that are not in `subjects`, or all if it is None, are their own."""
    return np.array([(subjects or {}).get(case, case) for case in cases], dtype=object).astype(str)


def folds_of_subjects(folds: np.ndarray | None, subjects: np.ndarray) -> np.ndarray | None:
    """Return the fold of each subject; None without folds, or if a subject is in two.

    Args:
        folds: Fold of each case, shape (cases,).
        subjects: Number of each case's subject, from 0; shape (cases,).
    """
    if folds is None:
        return None
    pairs = np.unique(np.column_stack([subjects, folds]), axis=0)
    return pairs[:, 1] if len(pairs) == subjects.max() + 1 else None


def subject_values(values: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Return one value for each subject, with the mean of all cases and the spread that this mean has over subjects.

    Their standard error is the cluster-robust one of the cases' mean. If every case is a subject, they are the values.

    Args:
        values: Shape (cases,).
        subjects: Number of each case's subject, from 0; shape (cases,).

    Returns:
        Shape (subjects,): `mean + (total of the subject - its cases * mean) * subjects / cases`.

    Source:
        The mean of all cases as a ratio of two totals over subjects, linearised: Cochran 1977, Sampling Techniques,
        chapter 6.
    """
    mean = values.mean()
    deviations = np.bincount(subjects, values - mean)
    return np.asarray(mean + deviations * len(deviations) / len(values))
