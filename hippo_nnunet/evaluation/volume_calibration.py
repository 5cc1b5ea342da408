"""Calibration on out-of-fold cases: intervals of new volumes, and which values are plausible."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.data.description import TOTAL
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.metrics import Label
from hippo_nnunet.evaluation.subjects import subject_names

LEVEL = 0.9
UNUSUAL = 0.95
"""Quantile of the calibration cases' doubt and disagreement above which a case is flagged; and the share of references
that must not touch the image's border for a mask that does to be flagged."""


@dataclass(frozen=True)
class LabelCalibration:
    """The calibration of one label; the defaults mean no calibration.

    Attributes:
        residuals_mm3: Reference minus predicted volume of each case, ascending.
        weights: Weight of each residual: `1 / ((subjects + 1) * cases of its subject)`.
        log_volume: Median and robust standard deviation of the logarithm of the reference volumes.
        elongation: The same of the references' elongation.
        doubt: Doubt above which a case is flagged.
        disagreement: Disagreement above which a case is flagged.
        may_be_empty: Whether a reference is empty.
        off_border: Whether references do not touch the image's border.
    """

    residuals_mm3: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    log_volume: tuple[float, float] | None = None
    elongation: tuple[float, float] | None = None
    doubt: float | None = None
    disagreement: float | None = None
    may_be_empty: bool = False
    off_border: bool = False

    def interval(self, volume_mm3: float, level: float) -> tuple[float, float]:
        """Return the interval of the true volume, in mm3.

        NaN for an end that so few cases cannot bound, and for both where nothing was found of a label that no
        reference lacks: errors of existing masks say nothing about a missing one.
        """
        if volume_mm3 <= 0 and not self.may_be_empty:
            return math.nan, math.nan
        low, high = (
            volume_mm3 + _weighted_quantile(self.residuals_mm3[::step], self.weights[::step], (1 + level) / 2)
            for step in (-1, 1)
        )
        return float(np.maximum(low, 0.0)), float(np.maximum(high, 0.0))  # unlike max, these keep NaN

    @property
    def subjects(self) -> int:
        """Number of subjects that the residuals belong to."""
        return round(1 / (1 - sum(self.weights))) - 1


@dataclass(frozen=True)
class VolumeCalibration:
    """The calibration by which new volumes are judged.

    Attributes:
        labels: Foreground labels: name to value or values.
        by_label: Calibration of each.
        level: Nominal coverage of the intervals; NaN without calibration.
    """

    labels: Mapping[str, Label]
    by_label: Mapping[str, LabelCalibration]
    level: float = LEVEL


def calibrate(
    measured: pd.DataFrame,
    labels: Mapping[str, Label],
    level: float = LEVEL,
    subjects: Mapping[str, str] | None = None,
) -> VolumeCalibration:
    """Calibrate intervals and flags on out-of-fold predictions.

    Args:
        measured: A row for each case and label: `label`, `volume_mm3` (predicted), `volume_ref_mm3` (NaN where the
            reference is not known in full: such a case is left out); and where they are known `elongation_ref` and
            `border_ref` (of the reference), `doubt` and `disagreement`. The rows of one model in
            `metrics/per_case.csv` do.
        labels: Foreground labels: see `named_labels`.
        level: Coverage of the intervals, 0 to 1. Fewer than `subjects_needed(level)` subjects cannot bound an interval.
        subjects: Subject of each case, by the column `case`; None: every row of a label is a subject.

    Raises:
        ConfigError: The level is not between 0 and 1.
        DataError: A label has no row.

    Source:
        Split conformal prediction with signed residuals, which allows for bias: Lei et al. 2018
        (doi:10.1080/01621459.2017.1307116); each tail gets half of the error. Every subject has the same weight,
        divided among its cases: Lee, Barber and Willett 2023 (arXiv:2306.06342, hierarchical conformal prediction). The
        coverage is at least `level` for a case of a new subject, where subjects are exchangeable, and cases within a
        subject, each predicted by a model that has not seen the subject. New cases are predicted by all folds' models
        together, which this guarantee does not cover.
    """
    _check_level(level)
    by_label = {}
    for label in labels:
        rows = measured[(measured["label"] == label) & measured["volume_ref_mm3"].notna()]
        if rows.empty:
            raise DataError(f"no case to calibrate the volumes of label {label} with: evaluate the experiment first")
        volumes = rows.loc[rows["volume_ref_mm3"] > 0, "volume_ref_mm3"]
        off_border = "border_ref" in rows and 1 - rows["border_ref"].astype(float).mean() >= UNUSUAL
        residuals = rows["volume_ref_mm3"] - rows["volume_mm3"]
        names = rows.index if subjects is None else subject_names(rows["case"], subjects)
        _, subject, sizes = np.unique(names, return_inverse=True, return_counts=True)
        order = np.argsort(residuals.to_numpy(), kind="stable")
        by_label[label] = LabelCalibration(
            residuals_mm3=tuple(residuals.iloc[order].tolist()),
            weights=tuple((1 / ((len(sizes) + 1) * sizes[subject[order]])).tolist()),
            log_volume=_robust(np.log(volumes)),
            elongation=_robust(rows["elongation_ref"]) if "elongation_ref" in rows else None,
            doubt=_quantile(rows["doubt"]) if "doubt" in rows else None,
            disagreement=_quantile(rows["disagreement"]) if "disagreement" in rows else None,
            may_be_empty=len(volumes) < len(rows),
            off_border=bool(off_border),
        )
    return VolumeCalibration(dict(labels), by_label, level)


def uncalibrated(labels: Mapping[str, Label]) -> VolumeCalibration:
    """Return a calibration without intervals; only missing labels and several pieces are flagged."""
    return VolumeCalibration(dict(labels), {label: LabelCalibration() for label in labels}, math.nan)


def calibration_json(calibration: VolumeCalibration) -> dict[str, Any]:
    """Return a calibration as what JSON holds, without its level; `calibration_from` reads it."""
    return {
        "labels": {name: list(np.atleast_1d(np.asarray(label)).tolist()) for name, label in calibration.labels.items()},
        "by_label": {name: asdict(of_label) for name, of_label in calibration.by_label.items()},
    }


def calibration_from(content: Mapping[str, Any], level: float = LEVEL) -> VolumeCalibration:
    """Read what `calibration_json` returned.

    Args:
        content: The JSON object.
        level: Coverage of the intervals, 0 to 1.

    Raises:
        ConfigError: The level is not between 0 and 1.
        KeyError, TypeError, ValueError, AttributeError: It is another object.
    """
    _check_level(level)
    labels: dict[str, Label] = {}
    for name, values in content["labels"].items():
        labels[name] = int(values[0]) if len(values) == 1 else tuple(map(int, values))
    by_label = {}
    for name in labels:
        entry: dict[str, Any] = {
            key: tuple(map(float, value)) if isinstance(value, list) else value
            for key, value in content["by_label"][name].items()
        }
        by_label[name] = LabelCalibration(**entry)
        if len(by_label[name].weights) != len(by_label[name].residuals_mm3):
            raise ValueError(f"{name} has another number of weights than of residuals")
    return VolumeCalibration(labels, by_label, level)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"coverage {level:g}: expected a share between 0 and 1, such as 0.9")


def subjects_needed(level: float) -> int:
    """Return how many calibration subjects it takes to bound an interval: 19 for 0.9."""
    return math.ceil(2 / (1 - level) - 1e-9) - 1


def with_total(labels: Mapping[str, Label]) -> dict[str, Label]:
    """Add TOTAL, the union of all labels, unless a label or region is that already.

    Args:
        labels: See `named_labels`.

    Raises:
        DataError: A label that is not the union has that name.
    """
    sets = {name: set(np.atleast_1d(np.asarray(label)).tolist()) for name, label in labels.items()}
    union = set().union(*sets.values())
    if union in sets.values():
        return dict(labels)
    if TOTAL in labels:
        raise DataError(f"a label is called {TOTAL} and is not all labels together: rename it in dataset.json")
    return {**labels, TOTAL: tuple(sorted(union))}


def _weighted_quantile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    """Return the first value at which the weights add up to a share; NaN if they do not."""
    position = int(np.searchsorted(np.cumsum(weights), share - 1e-9))
    return values[position] if position < len(values) else math.nan


def _robust(values: pd.Series) -> tuple[float, float] | None:
    """Median and scaled median absolute deviation; None if nothing varies or is known."""
    from scipy import stats  # not above: judging new scans does not need it, and the import takes a second

    known = values.dropna().to_numpy(dtype=float)
    if len(known) < 3:
        return None
    scale = float(stats.median_abs_deviation(known, scale="normal"))
    return (float(np.median(known)), scale) if scale > 0 else None


def _quantile(values: pd.Series) -> float | None:
    known = values.dropna()
    return float(known.quantile(UNUSUAL)) if len(known) else None
