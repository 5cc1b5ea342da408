"""Agreement of predicted volumes with the reference's: Bland-Altman and intraclass correlation, per label, in mm3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from hippo_nnunet.evaluation.statistics import ALPHA
from hippo_nnunet.evaluation.subjects import subject_names

Z = 1.96
"""Distance of the limits of agreement from the bias in standard deviations: 95 % of normal differences."""


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of two measurements of the same `n` cases; differences are predicted minus reference, in mm3.

    `bias` is the mean difference, `sd` the differences' standard deviation; `lower` and `upper` are the limits of
    agreement, bias -/+ 1.96 SD. `slope` is the proportional bias: the change of the difference with each mm3 of
    the mean of both volumes; below 0, large structures are underestimated in comparison with small ones. `_low` and
    `_high` are the ends of the interval of each; NaN where it is not known.
    """

    n: int
    bias_mm3: float
    bias_low_mm3: float
    bias_high_mm3: float
    sd_mm3: float
    lower_mm3: float
    lower_low_mm3: float
    lower_high_mm3: float
    upper_mm3: float
    upper_low_mm3: float
    upper_high_mm3: float
    slope: float
    slope_low: float
    slope_high: float


@dataclass(frozen=True)
class IntraclassCorrelation:
    """ICC(A,1) and its interval; NaN if it is undefined (fewer than 3 cases, or volumes that are all equal)."""

    icc: float
    icc_low: float
    icc_high: float


def bland_altman(predicted_mm3: np.ndarray, reference_mm3: np.ndarray, subjects: int | None = None) -> BlandAltman:
    """Compute bias and limits of agreement with their intervals.

    Args:
        predicted_mm3: Shape (cases,), finite.
        reference_mm3: The same cases.
        subjects: Number of subjects that the cases belong to, which the intervals count in the place of the cases: as
            if the cases of a subject were copies, which is cautious. None: every case is one.

    Returns:
        The agreement; with one subject only the bias, the rest NaN.

    Source:
        Bland & Altman 1999 (doi:10.1177/096228029900800204); exact intervals of the limits by the noncentral t
        distribution: Carkeet 2015 (doi:10.1097/OPX.0000000000000513). Normal differences are assumed.
    """
    d = np.asarray(predicted_mm3, dtype=float) - np.asarray(reference_mm3, dtype=float)
    n = len(d)
    units = n if subjects is None else subjects
    bias = float(d.mean()) if n else np.nan
    if units < 2:
        return BlandAltman(n, bias, *[np.nan] * 12)
    sd = float(d.std(ddof=1))
    error = sd / np.sqrt(units)
    half = float(stats.t.ppf(1 - ALPHA / 2, units - 1)) * error
    near, far = (float(stats.nct.ppf(q, units - 1, Z * np.sqrt(units))) * error for q in (ALPHA / 2, 1 - ALPHA / 2))
    return BlandAltman(
        *(n, bias, bias - half, bias + half, sd),
        *(bias - Z * sd, bias - far, bias - near),
        *(bias + Z * sd, bias + near, bias + far),
        *_proportional_bias(d, np.asarray(predicted_mm3, dtype=float) - d / 2, units),
    )


def _proportional_bias(d: np.ndarray, mean: np.ndarray, units: int) -> tuple[float, float, float]:
    """Regress the differences on the mean of both volumes: slope and its interval."""
    if units < 3 or np.ptp(mean) == 0:
        return np.nan, np.nan, np.nan
    line = stats.linregress(mean, d)
    half = float(stats.t.ppf(1 - ALPHA / 2, units - 2)) * line.stderr * np.sqrt((len(d) - 2) / (units - 2))
    return float(line.slope), float(line.slope - half), float(line.slope + half)


def intraclass_correlation(
    predicted_mm3: np.ndarray, reference_mm3: np.ndarray, subjects: int | None = None
) -> IntraclassCorrelation:
    """Compute the intraclass correlation ICC(A,1): two-way, absolute agreement, single measurement.

    A constant bias lowers it, as it should for volumes that replace a manual segmentation; a correlation would not
    detect it.

    Args:
        predicted_mm3: Shape (cases,), finite.
        reference_mm3: The same cases.
        subjects: See `bland_altman`.

    Source:
        McGraw & Wong 1996 (doi:10.1037/1082-989X.1.1.30), tables 4 and 7; called ICC(2,1) by Shrout & Fleiss 1979.
        Ours, because the package that has it, pingouin, is under a copyleft licence; a test compares the two.
    """
    values = np.column_stack([predicted_mm3, reference_mm3]).astype(float)
    n, k = values.shape
    if n < 3 or np.ptp(values) == 0:
        return IntraclassCorrelation(np.nan, np.nan, np.nan)
    mean, cases, raters = values.mean(), values.mean(axis=1), values.mean(axis=0)
    ms_cases = k * np.sum((cases - mean) ** 2) / (n - 1)
    ms_raters = n * np.sum((raters - mean) ** 2) / (k - 1)
    residual = values - cases[:, None] - raters + mean
    ms_error = np.sum(residual**2) / ((n - 1) * (k - 1))
    icc = float((ms_cases - ms_error) / (ms_cases + (k - 1) * ms_error + k * (ms_raters - ms_error) / n))
    if icc >= 1 or ms_error == 0:
        return IntraclassCorrelation(icc, *((1.0, 1.0) if icc >= 1 else (np.nan, np.nan)))
    if subjects is not None:
        n, ms_raters = subjects, ms_raters * subjects / n
    if n < 3:
        return IntraclassCorrelation(icc, np.nan, np.nan)
    a = k * icc / (n * (1 - icc))
    b = 1 + k * icc * (n - 1) / (n * (1 - icc))
    total = (a * ms_raters + b * ms_error) ** 2
    df = total / ((a * ms_raters) ** 2 / (k - 1) + (b * ms_error) ** 2 / ((n - 1) * (k - 1)))
    rest = k * ms_raters + (k * n - k - n) * ms_error
    f_low, f_high = stats.f.ppf(1 - ALPHA / 2, n - 1, df), stats.f.ppf(1 - ALPHA / 2, df, n - 1)
    low = n * (ms_cases - f_low * ms_error) / (f_low * rest + n * ms_cases)
    high = n * (f_high * ms_cases - ms_error) / (rest + n * f_high * ms_cases)
    return IntraclassCorrelation(icc, float(low), float(high))


def agreement_table(per_case: pd.DataFrame, subjects: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Describe the agreement of out-of-fold volumes with the reference's.

    Args:
        per_case: Table with the columns of `metrics/per_case.csv`.
        subjects: Subject of each case; None: every case is one.

    Returns:
        A row for each variant, configuration and label, with the fields of BlandAltman and IntraclassCorrelation.
    """
    rows = []
    for (variant, configuration, label), group in per_case.groupby(["variant", "configuration", "label"], sort=False):
        volumes = group["volume_mm3"].to_numpy(), group["volume_ref_mm3"].to_numpy()
        named = {"variant": variant, "configuration": configuration, "label": label}
        units = len(np.unique(subject_names(group["case"], subjects)))
        agreement = bland_altman(*volumes, units), intraclass_correlation(*volumes, units)
        rows.append({**named, **asdict(agreement[0]), **asdict(agreement[1])})
    return pd.DataFrame(rows)
