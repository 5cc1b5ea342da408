"""The subject as the unit of statistics: its name, fold and contribution to a mean over cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

MIN_FOLD_SUBJECTS = 10
"""Folds with fewer subjects are resampled together: a bootstrap within m subjects lacks 1/m of the variance."""


def subject_names(cases: Iterable[str], subjects: Mapping[str, str] | None) -> np.ndarray:
    """Return the subject of each case; cases that are not in `subjects`, or all if it is None, are their own."""
    return np.array([(subjects or {}).get(case, case) for case in cases], dtype=object).astype(str)


def folds_of_subjects(folds: np.ndarray | None, subjects: np.ndarray) -> np.ndarray | None:
    """Return the fold of each subject, to resample within folds; None without folds, or where that is not sound.

    It is not if a subject is in two folds, or a fold has fewer than MIN_FOLD_SUBJECTS.

    Args:
        folds: Fold of each case, shape (cases,).
        subjects: Number of each case's subject, from 0; shape (cases,).
    """
    if folds is None:
        return None
    pairs = np.unique(np.column_stack([subjects, folds]), axis=0)
    if len(pairs) != subjects.max() + 1 or np.unique(pairs[:, 1], return_counts=True)[1].min() < MIN_FOLD_SUBJECTS:
        return None
    return pairs[:, 1]


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
