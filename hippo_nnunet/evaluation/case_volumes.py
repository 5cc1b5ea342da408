"""Volumes of cases with intervals and flags, and how well both work on out-of-fold cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from scipy import stats

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.metrics import Label
from hippo_nnunet.evaluation.volume_calibration import LEVEL, LabelCalibration, VolumeCalibration, calibrate

OUTLIER = 3.5
"""Robust z-score beyond which a volume or shape is implausible (Iglewicz & Hoaglin 1993)."""
WORST = 0.1
"""Share of the cases that counts as the worst."""
FLAGS = ("volume", "shape", "components", "border", "doubt", "disagreement")
ANY = "any"
EVERY_LABEL = "every label"
"""Name of the row with the joint coverage of the intervals of all labels of a case."""


def judge(measured: pd.DataFrame, calibration: VolumeCalibration) -> pd.DataFrame:
    """Add intervals and flags to measured volumes.

    Args:
        measured: A row for each case and label: `case`, `label` and the columns of `measure_labels` that are known.
        calibration: Of `calibrate`.

    Returns:
        The same rows and `low_mm3`, `high_mm3` (NaN: see `LabelCalibration.interval`), `level`, `calibration_cases`,
        and `flags`: those of FLAGS that apply, joined by spaces. `volume`: implausible against the references, or 0
        where no reference is; `shape`: elongation implausible; `components`: in more than one piece; `border`:
        touches the image's border, which references do not; `doubt`, `disagreement`: more than in 95 % of the
        calibration cases.
    """
    table = measured.reset_index(drop=True)
    added = []
    for row in table.to_dict("records"):
        known = calibration.by_label[row["label"]]
        interval = known.interval(row["volume_mm3"], calibration.level)
        added.append((*interval, calibration.level, len(known.residuals_mm3), " ".join(_flags(row, known))))
    return table.join(pd.DataFrame(added, columns=["low_mm3", "high_mm3", "level", "calibration_cases", "flags"]))


def cross_validated(measured: pd.DataFrame, labels: Mapping[str, Label], level: float = LEVEL) -> pd.DataFrame:
    """Judge each fold by a calibration on the other folds, to test intervals and flags on unseen cases.

    Args:
        measured: As for `calibrate` and `judge`, with `case` and `fold`; at least two folds.
        labels: See `calibrate`.
        level: See `calibrate`.

    Returns:
        See `judge`; and `covered`, whether the interval holds the reference volume (None if it has an open end, or
        the reference is not known).

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
    known = table[["low_mm3", "high_mm3", "volume_ref_mm3"]].notna().all(axis=1)
    return table.assign(covered=inside.astype(object).where(known, None))


def coverage_table(judged: pd.DataFrame) -> pd.DataFrame:
    """Count how many intervals hold the reference volume.

    Args:
        judged: Of `cross_validated`.

    Returns:
        A row for each label and, where there are several, EVERY_LABEL: `label`, `n` (intervals with two ends; cases
        that have them for every label), `coverage` with its exact 95 % interval `coverage_low`, `coverage_high`
        (Clopper & Pearson), `width_mm3`, the mean width, and `width_share`, it over the mean reference volume (both
        NaN for EVERY_LABEL). NaN for n 0.
    """
    rows = []
    for label, group in judged.groupby("label", sort=False):
        closed = group[group["covered"].notna()]
        width = float((closed["high_mm3"] - closed["low_mm3"]).mean())
        rows.append(
            {
                "label": label,
                **_share("coverage", int(closed["covered"].astype(bool).sum()), len(closed)),
                "width_mm3": width,
                "width_share": width / float(closed["volume_ref_mm3"].mean()) if len(closed) else math.nan,
            }
        )
    if len(rows) > 1:
        states = judged.assign(known=judged["covered"].notna(), held=judged["covered"].eq(True))
        counts = states.groupby("case")[["known", "held"]].all().sum()
        rows.append({"label": EVERY_LABEL, **_share("coverage", int(counts["held"]), int(counts["known"]))})
    return pd.DataFrame(rows)


def hit_rates(judged: pd.DataFrame, dice: pd.Series, worst: float = WORST) -> pd.DataFrame:
    """Compare the share of flagged cases among the worst with that among all.

    Args:
        judged: Of `cross_validated` or `judge`.
        dice: Mean Dice of each case, indexed by case.
        worst: Share of the cases that counts as the worst, rounded up.

    Returns:
        A row for ANY flag, and for each of FLAGS: `flag`; `n`, worst cases; `hit_rate`, share of them that is flagged,
        with its exact 95 % interval; `flagged`, share of all cases that is, which is also the hit rate to expect of as
        many flags set at random; `precision`, share of the flagged cases that are among the worst, with its interval
        (NaN if none is flagged); `worst`, their share of all cases, which is the precision to expect at random; and
        `p`, the chance of as many hits for as many flags set at random (hypergeometric).

    Raises:
        DataError: A judged case has no Dice.
    """
    cases = judged["case"].unique()
    scores = dice.reindex(cases).dropna()
    if len(scores) < len(cases):
        raise DataError(f"{len(cases) - len(scores)} flagged cases have no Dice: measure them, or leave them out")
    lowest = set(scores.nsmallest(math.ceil(worst * len(scores))).index)
    rows = []
    for flag in (ANY, *FLAGS):
        raised = judged["flags"].str.split().map(bool if flag == ANY else lambda found, f=flag: f in found)
        flagged = set(judged.loc[raised, "case"])
        hits = len(flagged & lowest)
        precision = _share("precision", hits, len(flagged))
        del precision["n"]
        rows.append(
            {
                "flag": flag,
                **_share("hit_rate", hits, len(lowest)),
                "flagged": len(flagged) / len(cases),
                **precision,
                "worst": len(lowest) / len(cases),
                "p": float(stats.hypergeom.sf(hits - 1, len(cases), len(flagged), len(lowest))),
            }
        )
    return pd.DataFrame(rows)


def _flags(row: Mapping[Any, Any], known: LabelCalibration) -> list[str]:
    volume = row["volume_mm3"]
    missing = volume <= 0 and not known.may_be_empty
    found = {
        "volume": missing or (volume > 0 and _is_outlier(math.log(volume), known.log_volume)),
        "shape": _is_outlier(row.get("elongation", math.nan), known.elongation),
        "components": row.get("components", 0) > 1,
        "border": known.off_border and bool(row.get("border", False)),
        "doubt": known.doubt is not None and row.get("doubt", math.nan) > known.doubt,
        "disagreement": known.disagreement is not None and row.get("disagreement", math.nan) > known.disagreement,
    }
    return [flag for flag in FLAGS if found[flag]]


def _is_outlier(value: float, centre: tuple[float, float] | None) -> bool:
    return centre is not None and abs(value - centre[0]) > OUTLIER * centre[1]


def _share(name: str, hits: int, n: int) -> dict[str, float | int]:
    if not n:
        return {"n": 0, name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan}
    interval = stats.binomtest(hits, n).proportion_ci(method="exact")
    return {"n": n, name: hits / n, f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
