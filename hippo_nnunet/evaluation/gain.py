"""The mean foreground Dice of tables of cases and labels, and the difference of two tables with its interval."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from hippo_nnunet.evaluation.statistics import ALPHA, MIN_CASES, RESAMPLES


@dataclass(frozen=True)
class Gain:
    """How much higher the Dice of an ensemble is than that of a single model with the same postprocessing.

    Attributes:
        dice: The gain in mean foreground Dice.
        low: Lower end of its 95 % bootstrap interval; None with fewer than MIN_CASES subjects.
        high: Upper end.
        members: The members of the ensemble; empty where they were chosen for each fold.
    """

    dice: float
    low: float | None
    high: float | None
    members: tuple[str, ...] = ()


def gain_between(table: np.ndarray, other: np.ndarray, subjects: np.ndarray) -> Gain:
    """Compare two tables of the same cases.

    Args:
        table: Dice, shape (cases, labels); NaN where undefined.
        other: The same cases of what is compared with.
        subjects: Number of each case's subject, from 0; shape (cases,). Subjects are resampled.

    Source:
        Percentile interval of the cluster bootstrap: Davison and Hinkley 1997, section 3.8.
    """
    dice = (mean_score(table) or 0.0) - (mean_score(other) or 0.0)
    count = int(subjects.max()) + 1
    if count < MIN_CASES:
        return Gain(dice, None, None)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)[:, subjects]
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample without any case of a label
        one, two = (
            np.nanmean((drawn @ np.nan_to_num(rows)) / (drawn @ np.isfinite(rows).astype(int)), axis=1)
            for rows in (table, other)
        )
    low, high = np.nanquantile(one - two, [ALPHA / 2, 1 - ALPHA / 2])
    return Gain(dice, float(low), float(high))


def label_means(table: np.ndarray) -> np.ndarray:
    """Return the mean over cases of each label, NaN left out; NaN for a label that no case has."""
    defined = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.where(defined, table, 0).sum(axis=0) / defined.sum(axis=0)


def mean_score(table: np.ndarray) -> float | None:
    """Return the mean over labels of their means over cases, as nnU-Net's `foreground_mean`; None without any."""
    means = label_means(table)
    return float(means[~np.isnan(means)].mean()) if not np.isnan(means).all() else None
