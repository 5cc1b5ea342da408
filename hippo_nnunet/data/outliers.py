"""Find outliers among the cases of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import norm

from hippo_nnunet.data.exploration import Exploration
from hippo_nnunet.data.exploration_case import AXES, DIRECTIONS, TOTAL

THRESHOLD = 3.5
"""Robust z-score beyond which a case is an outlier."""
MINIMUM_CASES = 8
# A label present in this share of cases is expected in all.
_COMMON = 0.95


@dataclass(frozen=True)
class Outlier:
    """One quantity in which a case is an outlier.

    Args:
        case: the case.
        quantity: what was measured.
        reason: the value, its unit, the median, and the robust z-score; or that a label is missing.
        z: the robust z-score; infinite for a label that nearly all others have.
    """

    case: str
    quantity: str
    reason: str
    z: float


@dataclass(frozen=True)
class Screening:
    """The result of a search for outliers.

    Args:
        z: robust z-scores, a row for each case, a column for each quantity; NaN if a case has no value.
        outliers: those beyond the threshold; the most extreme case first, within a case the most extreme quantity.
        expected: how many of them are to be expected by chance if every quantity were normally distributed.
    """

    z: pd.DataFrame
    outliers: tuple[Outlier, ...]
    expected: float

    @property
    def cases(self) -> list[str]:
        """The outlying cases, the most extreme first."""
        return list(dict.fromkeys(outlier.case for outlier in self.outliers))

    def reasons(self, case: str) -> list[str]:
        """Return the reasons of a case, the most extreme first; empty if it is not an outlier."""
        return [outlier.reason for outlier in self.outliers if outlier.case == case]


@dataclass(frozen=True)
class _Quantity:
    name: str
    unit: str
    values: pd.Series[Any]
    logarithmic: bool = False


def robust_z(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distance from the median in robust standard deviations.

    Args:
        values: shape (n,); NaN stays NaN and counts for nothing.

    Returns:
        ``(x - median) / (1.4826 MAD)``; where more than half of the values are equal, so that the MAD is 0, the mean
        absolute deviation times 1.2533 takes its place; 0 where all are equal.

    Source: Iglewicz and Hoaglin, How to detect and handle outliers (1993), modified z-score.
    """
    known = values[np.isfinite(values)]
    if not known.size:
        return np.full(values.shape, np.nan)
    centred = values - np.median(known)
    deviations = np.abs(known - np.median(known))
    scale = np.median(deviations) / norm.ppf(0.75)
    # Rounding alone makes equal spacings differ.
    if scale <= 1e-6 * max(1.0, float(np.abs(known).max())):
        scale = deviations.mean() * np.sqrt(np.pi / 2)
    if scale <= 1e-6 * max(1.0, float(np.abs(known).max())):
        return np.where(np.isfinite(values), 0.0, np.nan)
    return np.asarray(centred / scale)


def screen(exploration: Exploration) -> Screening:
    """Screen every case for outlying sizes, spacings, intensities, volumes, shares and positions.

    Returns:
        The screening, with THRESHOLD. Volumes are compared on a logarithmic scale, because they are positive and
        skewed. With fewer than ``MINIMUM_CASES`` values of a quantity, nothing is called an outlier in it.
    """
    found, columns, tested = [], {}, 0
    cases = exploration.cases.case
    for quantity in _quantities(exploration):
        values = quantity.values.reindex(cases.index).to_numpy(float)
        scaled = np.log10(np.where(values > 0, values, np.nan)) if quantity.logarithmic else values
        z = robust_z(scaled)
        columns[quantity.name] = z
        if np.isfinite(scaled).sum() < MINIMUM_CASES:
            continue
        tested += int(np.isfinite(scaled).sum()) if np.nanmax(np.abs(z)) > 0 else 0
        median = float(np.nanmedian(values[np.isfinite(scaled)]))
        for index in np.flatnonzero(np.abs(z) > THRESHOLD):
            value = f"{readable(float(values[index]))} {quantity.unit}".rstrip()
            reason = f"{quantity.name}: {value} (median {readable(median)}), robust z {z[index]:+.1f}"
            found.append(Outlier(cases.iloc[index], quantity.name, reason, float(z[index])))
    found.extend(_missing_labels(exploration))
    furthest: dict[str, float] = {}
    for outlier in found:
        furthest[outlier.case] = max(furthest.get(outlier.case, 0.0), abs(outlier.z))
    found.sort(key=lambda o: (-furthest[o.case], o.case, -abs(o.z)))
    return Screening(pd.DataFrame(columns, index=cases), tuple(found), float(2 * norm.sf(THRESHOLD) * tested))


def typical_case(exploration: Exploration, screening: Screening) -> str:
    """Return the case nearest to the median in all quantities; if possible labelled and not an outlier."""
    candidates = exploration.labelled if len(exploration.labelled) else exploration.cases
    filled = candidates[candidates[f"volume_mm3_{TOTAL}"] > 0] if len(exploration.labelled) else candidates
    names = list((filled if len(filled) else candidates).case)
    names = [name for name in names if name not in screening.cases] or names
    return str(screening.z.abs().mean(axis=1).fillna(0.0)[names].idxmin())


def readable(value: float) -> str:
    """Format a number with three significant digits, from 100 as an integer with thousands separators."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _quantities(exploration: Exploration) -> Iterator[_Quantity]:
    cases, labelled = exploration.cases, exploration.labelled
    for axis in AXES:
        yield _Quantity(f"extent along {axis}", "mm", cases[f"extent_{axis}_mm"])
    for axis in AXES:
        yield _Quantity(f"spacing along {axis}", "mm", cases[f"spacing_{axis}_mm"])
    for index, name in enumerate(exploration.channels):
        if exploration.normalisation(index) != "ZScoreNormalization":
            yield _Quantity(f"median intensity of {name}", "", cases[f"channel{index}_p50"])
            continue
        # The image's scale is arbitrary and removed by the z-score.
        for column, words in (("p00_5", "0.5th"), ("p99_5", "99.5th")):
            values = pd.Series(exploration.z_scored(index, column), cases.index)
            yield _Quantity(f"{words} percentile of {name} after z-score", "SD", values)
    if labelled.empty:
        return
    for name in [*exploration.labels, *([TOTAL] if len(exploration.labels) > 1 else [])]:
        yield _Quantity(f"volume of {name}", "mm³", labelled[f"volume_mm3_{name}"], logarithmic=True)
    if len(exploration.labels) > 1 and not exploration.regions_overlap:
        total = labelled[f"volume_mm3_{TOTAL}"]
        for name in list(exploration.labels)[: -1 if len(exploration.labels) == 2 else None]:
            volume = labelled[f"volume_mm3_{name}"]
            share = 100 * volume.where(volume > 0) / total
            yield _Quantity(f"share of {name} in the foreground", "%", share)
    for way in DIRECTIONS:
        yield _Quantity(f"centre of the foreground towards {way}", "mm", labelled[f"centre_{way}_mm_{TOTAL}"])


def _missing_labels(exploration: Exploration) -> Iterator[Outlier]:
    labelled = exploration.labelled
    for name in exploration.labels if len(labelled) >= MINIMUM_CASES else ():
        empty = labelled[f"volume_mm3_{name}"] == 0
        if 1 - empty.mean() >= _COMMON:
            for case in labelled.case[empty]:
                reason = f"no voxel of {name}, which {(~empty).sum()} of {len(empty)} cases have"
                yield Outlier(str(case), f"volume of {name}", reason, np.inf)
