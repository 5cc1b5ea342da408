"""Volumes of new cases with intervals, and flags for cases that deserve a look, calibrated on out-of-fold cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.metrics import Label
from hippo_nnunet.evaluation.segmentation_shape import MEASURES, measure_labels

LEVEL = 0.9
OUTLIER = 3.5
"""Robust z-score beyond which a volume or shape is implausible (Iglewicz & Hoaglin 1993)."""
DOUBTFUL = 0.95
"""Quantile of the calibration cases' doubt above which a case is flagged."""
FLAGS = ("volume", "shape", "components", "doubt")

_COLUMNS = ("case", "label", *MEASURES)


@dataclass(frozen=True)
class Segmentation:
    """One segmented case.

    Attributes:
        case: Its name.
        array: Integer array of shape (d, h, w).
        spacing_mm: Voxel size along each axis, in the order of the array's axes.
        probabilities: What it was made from, shape (c, d, h, w); None where unknown.
    """

    case: str
    array: np.ndarray
    spacing_mm: Sequence[float]
    probabilities: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class LabelCalibration:
    """What out-of-fold cases say of one label.

    Attributes:
        residuals_mm3: Reference minus predicted volume of each case, ascending.
        log_volume: Median and robust standard deviation of the logarithm of the reference volumes.
        elongation: The same of the references' elongation; None where it is unknown.
        doubt: Doubt above which a case is flagged; None where it is unknown.
    """

    residuals_mm3: tuple[float, ...]
    log_volume: tuple[float, float] | None
    elongation: tuple[float, float] | None = None
    doubt: float | None = None

    def interval(self, volume_mm3: float, level: float) -> tuple[float, float]:
        """Return the interval of the true volume, in mm3; NaN for an end that so few cases cannot bound."""
        n, tail = len(self.residuals_mm3), (1 - level) / 2
        lower = math.floor((n + 1) * tail + 1e-9)
        upper = math.ceil((n + 1) * (1 - tail) - 1e-9)
        low = max(0.0, volume_mm3 + self.residuals_mm3[lower - 1]) if lower >= 1 else math.nan
        high = max(0.0, volume_mm3 + self.residuals_mm3[upper - 1]) if upper <= n else math.nan
        return low, high


@dataclass(frozen=True)
class VolumeCalibration:
    """What new volumes are judged by.

    Attributes:
        labels: Foreground labels: name to value or values.
        by_label: Calibration of each.
        level: Share of true volumes that intervals shall hold.
    """

    labels: Mapping[str, Label]
    by_label: Mapping[str, LabelCalibration]
    level: float = LEVEL


def calibrate(measured: pd.DataFrame, labels: Mapping[str, Label], level: float = LEVEL) -> VolumeCalibration:
    """Calibrate intervals and flags on out-of-fold predictions.

    Args:
        measured: A row for each case and label: `label`, `volume_mm3` (predicted), `volume_ref_mm3`; and where they are
            known `elongation_ref` (of the reference) and `doubt`. The rows of one model in `metrics/per_case.csv` do.
        labels: Foreground labels: see `named_labels`.
        level: Coverage of the intervals, 0 to 1. Fewer than 2 / (1 - level) - 1 cases cannot bound an interval.

    Raises:
        DataError: A label has no row.

    Source:
        Split conformal prediction with signed residuals, which allows for bias: Lei et al. 2018
        (doi:10.1080/01621459.2017.1307116); each tail gets half of the error. The coverage is at least `level` for
        cases exchangeable with these, each predicted by a model that has not seen it. New cases are predicted by all
        folds' models together, of which this guarantee does not speak.
    """
    by_label = {}
    for label in labels:
        rows = measured[measured["label"] == label]
        if rows.empty:
            raise DataError(f"no case to calibrate the volumes of label {label} with: evaluate the experiment first")
        volumes = rows.loc[rows["volume_ref_mm3"] > 0, "volume_ref_mm3"]
        by_label[label] = LabelCalibration(
            residuals_mm3=tuple(sorted((rows["volume_ref_mm3"] - rows["volume_mm3"]).tolist())),
            log_volume=_robust(np.log(volumes)),
            elongation=_robust(rows["elongation_ref"]) if "elongation_ref" in rows else None,
            doubt=_quantile(rows["doubt"]) if "doubt" in rows else None,
        )
    return VolumeCalibration(dict(labels), by_label, level)


def volume_table(segmentations: Iterable[Segmentation], calibration: VolumeCalibration) -> pd.DataFrame:
    """Measure segmented cases; one in memory at a time where `segmentations` is a generator.

    Args:
        segmentations: The cases.
        calibration: Of `calibrate`.

    Returns:
        See `judge`.

    Raises:
        DataError: See `measure_labels`.
    """
    rows = [
        {"case": s.case, **row}
        for s in segmentations
        for row in measure_labels(s.array, s.spacing_mm, calibration.labels, s.probabilities)
    ]
    return judge(pd.DataFrame(rows, columns=list(_COLUMNS)), calibration)


def judge(measured: pd.DataFrame, calibration: VolumeCalibration) -> pd.DataFrame:
    """Add intervals and flags to measured volumes.

    Args:
        measured: A row for each case and label: `case`, `label` and the columns of `measure_labels` that are known.
        calibration: Of `calibrate`.

    Returns:
        The same rows and `low_mm3`, `high_mm3` (NaN where too few cases calibrate them) and `flags`: those of FLAGS
        that apply, joined by spaces. `volume`: implausible against the references, or 0; `shape`: elongation
        implausible; `components`: in more than one piece; `doubt`: more than in 95 % of the calibration cases.
    """
    table = measured.reset_index(drop=True)
    low, high, flags = [], [], []
    for row in table.to_dict("records"):
        known = calibration.by_label[row["label"]]
        ends = known.interval(row["volume_mm3"], calibration.level)
        low.append(ends[0])
        high.append(ends[1])
        flags.append(" ".join(_flags({str(key): value for key, value in row.items()}, known)))
    return table.assign(low_mm3=low, high_mm3=high, flags=flags)


def cross_validated(measured: pd.DataFrame, labels: Mapping[str, Label], level: float = LEVEL) -> pd.DataFrame:
    """Judge each fold by a calibration on the other folds: what intervals and flags are worth on unseen cases.

    Args:
        measured: As for `calibrate` and `judge`, with `case` and `fold`; at least two folds.
        labels: See `calibrate`.
        level: See `calibrate`.

    Returns:
        See `judge`; and `covered`, whether the interval holds the reference volume (None where it has an open end).

    Raises:
        DataError: Fewer than two folds.
    """
    folds = sorted(measured["fold"].unique())
    if len(folds) < 2:
        raise DataError(
            f"got cases of {len(folds)} fold, expected two or more, to calibrate on one and test on another"
        )
    parts = [
        judge(measured[measured["fold"] == fold], calibrate(measured[measured["fold"] != fold], labels, level))
        for fold in folds
    ]
    table = pd.concat(parts, ignore_index=True)
    inside = table["volume_ref_mm3"].between(table["low_mm3"], table["high_mm3"])
    closed = table["low_mm3"].notna() & table["high_mm3"].notna()
    return table.assign(covered=inside.astype(object).where(closed, None))


def coverage_table(judged: pd.DataFrame) -> pd.DataFrame:
    """Count how many intervals hold the reference volume.

    Args:
        judged: Of `cross_validated`.

    Returns:
        A row for each label: `label`, `n` (intervals with two ends), `coverage` with its exact 95 % interval
        `coverage_low`, `coverage_high` (Clopper & Pearson), and `width_mm3`, the mean width. NaN for n 0.
    """
    rows = []
    for label, group in judged.groupby("label", sort=False):
        closed = group[group["covered"].notna()]
        rows.append(
            {
                "label": label,
                **_share("coverage", int(closed["covered"].astype(bool).sum()), len(closed)),
                "width_mm3": float((closed["high_mm3"] - closed["low_mm3"]).mean()),
            }
        )
    return pd.DataFrame(rows)


def hit_rates(judged: pd.DataFrame, dice: pd.Series, worst: float = 0.1) -> pd.DataFrame:
    """Tell how many of the worst cases were flagged, next to how many of all.

    Args:
        judged: Of `cross_validated` or `judge`.
        dice: Mean Dice of each case, indexed by case.
        worst: Share of the cases that counts as the worst, rounded up.

    Returns:
        A row for any flag, and for each of FLAGS: `flag`, `n` (worst cases), `hit_rate` of the worst cases with its
        exact 95 % interval, `flagged` (share of all cases), and `p`, the chance of as many hits for as many flags set
        at random (hypergeometric).

    Raises:
        DataError: A judged case has no Dice.
    """
    cases = judged["case"].unique()
    scores = dice.reindex(cases).dropna()
    if len(scores) < len(cases):
        raise DataError(f"{len(cases) - len(scores)} flagged cases have no Dice: measure them, or leave them out")
    lowest = set(scores.nsmallest(math.ceil(worst * len(scores))).index)
    rows = []
    for flag in ("any", *FLAGS):
        raised = judged["flags"].str.split().map(bool if flag == "any" else lambda found, f=flag: f in found)
        flagged = set(judged.loc[raised, "case"])
        hits = len(flagged & lowest)
        chance = float(stats.hypergeom.sf(hits - 1, len(cases), len(flagged), len(lowest)))
        share = {"flagged": len(flagged) / len(cases), "p": chance}
        rows.append({"flag": flag, **_share("hit_rate", hits, len(lowest)), **share})
    return pd.DataFrame(rows)


def _flags(row: Mapping[str, float], known: LabelCalibration) -> list[str]:
    volume = row["volume_mm3"]
    found = {
        "volume": volume <= 0 or _is_outlier(math.log(volume), known.log_volume),
        "shape": _is_outlier(row.get("elongation", math.nan), known.elongation),
        "components": row.get("components", 0) > 1,
        "doubt": known.doubt is not None and row.get("doubt", math.nan) > known.doubt,
    }
    return [flag for flag in FLAGS if found[flag]]


def _is_outlier(value: float, centre: tuple[float, float] | None) -> bool:
    return centre is not None and abs(value - centre[0]) > OUTLIER * centre[1]


def _robust(values: pd.Series) -> tuple[float, float] | None:
    """Median and scaled median absolute deviation; None where nothing varies or is known."""
    known = values.dropna().to_numpy(dtype=float)
    if len(known) < 3:
        return None
    scale = float(stats.median_abs_deviation(known, scale="normal"))
    return (float(np.median(known)), scale) if scale > 0 else None


def _quantile(values: pd.Series) -> float | None:
    known = values.dropna()
    return float(known.quantile(DOUBTFUL)) if len(known) else None


def _share(name: str, hits: int, n: int) -> dict[str, float | int]:
    if not n:
        return {"n": 0, name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan}
    interval = stats.binomtest(hits, n).proportion_ci(method="exact")
    return {"n": n, name: hits / n, f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
