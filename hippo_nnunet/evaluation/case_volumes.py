"""Volumes of cases with intervals and flags, and how well both work on out-of-fold cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.metrics import Label
from hippo_nnunet.evaluation.subjects import subject_names
from hippo_nnunet.evaluation.volume_calibration import LEVEL, LabelCalibration, VolumeCalibration, calibrate

OUTLIER = 3.5
"""Robust z-score beyond which a volume or shape is implausible (Iglewicz & Hoaglin 1993)."""
WORST = 0.1
"""Share of the cases that counts as the worst, rounded up."""
FLAGS = ("volume", "shape", "components", "border", "doubt", "disagreement")
FLAG_WORDS = {
    "volume": "implausible volume, or nothing found",
    "shape": "unusually long or short for its volume",
    "components": "in more than one piece",
    "border": "touches the border of the image",
    "doubt": "the model is less certain than in 95 % of the cases that it was calibrated on",
    "disagreement": "the models disagree more than in 95 % of the cases that they were calibrated on",
    "voxel-size": "its voxels are larger or smaller than the model knows them",
    "size": "the image is larger or smaller than those that the model knows",
    "intensity": "its intensities are lower than the model knows them: is it a CT image?",
    "contrast": "it does not look like the images that the model knows: another contrast, or another part of the head",
    "side": "it looks mirrored left to right: it may be the other hippocampus than the model knows",
    "orientation": "its axes look otherwise than its header says",
}
"""Flags of labels (FLAGS) and of images (those of `known_images`) in words."""
ANY = "any"
SIZES = ("smallest third", "middle third", "largest third")
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


def flags_in_words(judged: pd.DataFrame) -> list[str]:
    """Describe the flags of one case, each once, with the labels that it was raised for unless that is all of them.

    Args:
        judged: Rows of `judge` of one case.
    """
    raised: dict[str, list[str]] = {}
    for label, flags in zip(judged["label"], judged["flags"], strict=True):
        for flag in flags.split():
            raised.setdefault(FLAG_WORDS.get(flag, flag), []).append(label)
    return [f"{', '.join(of)}: {words}" if len(of) < len(judged) else words for words, of in raised.items()]


def cross_validated(
    measured: pd.DataFrame,
    labels: Mapping[str, Label],
    level: float = LEVEL,
    subjects: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Judge each fold by a calibration on the other folds, to test intervals and flags on unseen subjects.

    Args:
        measured: As for `calibrate` and `judge`, with `case` and `fold`; at least two folds.
        labels: See `calibrate`.
        level: See `calibrate`.
        subjects: Subject of each case; those of the fold are left out of its calibration. None: every case is one.

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
    subject = pd.Series(subject_names(measured["case"], subjects), measured.index)
    parts = []
    for fold in folds:
        tested = measured["fold"] == fold
        others = measured[~subject.isin(subject[tested])]
        parts.append(judge(measured[tested], calibrate(others, labels, level, subjects)))
    table = pd.concat(parts, ignore_index=True)
    inside = table["volume_ref_mm3"].between(table["low_mm3"], table["high_mm3"])
    known = table[["low_mm3", "high_mm3", "volume_ref_mm3"]].notna().all(axis=1)
    return table.assign(covered=inside.astype(object).where(known, None))


def coverage_table(judged: pd.DataFrame, subjects: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Count how many intervals hold the reference volume.

    Args:
        judged: Of `cross_validated`.
        subjects: Subject of each case, which intervals of shares count in the place of the cases: see `_share`.

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
                **_share("coverage", closed.set_index("case")["covered"].astype(bool), subjects),
                "width_mm3": width,
                "width_share": width / float(closed["volume_ref_mm3"].mean()) if len(closed) else math.nan,
            }
        )
    if len(rows) > 1:
        states = judged.assign(known=judged["covered"].notna(), held=judged["covered"].eq(True))
        every = states.groupby("case")[["known", "held"]].all()
        rows.append({"label": EVERY_LABEL, **_share("coverage", every.loc[every["known"], "held"], subjects)})
    return pd.DataFrame(rows)


def coverage_by_part(judged: pd.DataFrame, subjects: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Count how many intervals hold the reference volume, by fold and by size.

    The guarantee is for the average case, not for each fold or size.

    Args:
        judged: Of `cross_validated`.
        subjects: See `coverage_table`.

    Returns:
        A row for each label and part of its cases: `label`, `part` (`fold 0` and so on; SIZES: thirds by reference
        volume), and `n`, `coverage`, `coverage_low`, `coverage_high` as in `coverage_table`.
    """
    rows = []
    for label, group in judged[judged["covered"].notna()].groupby("label", sort=False):
        third = (group["volume_ref_mm3"].rank(method="first") - 1) * len(SIZES) // len(group)
        parts = [(f"fold {fold}", group["fold"] == fold) for fold in sorted(group["fold"].unique())]
        parts += [(name, third == number) for number, name in enumerate(SIZES)]
        for part, belongs in parts:
            held = group[belongs].set_index("case")["covered"].astype(bool)
            rows.append({"label": label, "part": part, **_share("coverage", held, subjects)})
    return pd.DataFrame(rows, columns=["label", "part", "n", "coverage", "coverage_low", "coverage_high"])


def hit_rates(judged: pd.DataFrame, dice: pd.Series, subjects: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Compare the share of flagged cases among the worst with that among all.

    Args:
        judged: Of `cross_validated` or `judge`.
        dice: Mean Dice of each case, indexed by case.
        subjects: See `coverage_table`.

    Returns:
        A row for ANY flag, and for each of FLAGS: `flag`; `n`, worst cases; `hit_rate`, share of them that is flagged,
        with its exact 95 % interval; `flagged`, share of all cases that is, which is also the hit rate to expect of as
        many flags set at random; `precision`, share of the flagged cases that are among the worst, with its interval
        (NaN if none is flagged); `worst`, their share of all cases, which is the precision to expect at random; and
        `p`, the chance of as many subjects with a flag and a case among the worst, for as many flags set at random
        among subjects with equally many cases (hypergeometric).

    Raises:
        DataError: A judged case has no Dice.
    """
    cases = judged["case"].unique()
    scores = dice.reindex(cases).dropna()
    if len(scores) < len(cases):
        raise DataError(f"{len(cases) - len(scores)} flagged cases have no Dice: measure them, or leave them out")
    is_worst = pd.Series(np.isin(cases, scores.nsmallest(math.ceil(WORST * len(scores))).index), cases)
    rows = []
    for flag in (ANY, *FLAGS):
        raised = judged["flags"].str.split().map(bool if flag == ANY else lambda found, f=flag: f in found)
        flagged = pd.Series(np.isin(cases, judged.loc[raised, "case"].unique()), cases)
        precision = _share("precision", is_worst[flagged], subjects)
        del precision["n"]
        rows.append(
            {
                "flag": flag,
                **_share("hit_rate", flagged[is_worst], subjects),
                "flagged": flagged.mean(),
                **precision,
                "worst": is_worst.mean(),
                "p": _chance(flagged, is_worst, subjects),
            }
        )
    return pd.DataFrame(rows)


def _chance(flagged: pd.Series[bool], worst: pd.Series[bool], subjects: Mapping[str, str] | None) -> float:
    from scipy import stats  # not above: judging new scans does not need it, and the import takes a second

    by_subject = pd.DataFrame({"flagged": flagged, "worst": worst, "size": 1}).groupby(
        subject_names(flagged.index, subjects)
    )
    found = by_subject.agg({"flagged": "any", "worst": "any", "size": "sum"})
    hits, chances = int((found["flagged"] & found["worst"]).sum()), np.ones(1)
    for _, group in found.groupby("size"):
        n, flags, lowest = len(group), int(group["flagged"].sum()), int(group["worst"].sum())
        chances = np.convolve(chances, stats.hypergeom.pmf(np.arange(min(flags, lowest) + 1), n, flags, lowest))
    return float(min(1.0, chances[hits:].sum()))


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


def _share(name: str, hits: pd.Series[bool], subjects: Mapping[str, str] | None) -> dict[str, float | int]:
    """Return the share of hits with its 95 % interval by Clopper and Pearson, and the number of cases.

    The interval counts subjects in the place of cases, as if the cases of a subject were copies, which is cautious.
    """
    from scipy import stats

    n = len(hits)
    if not n:
        return {"n": 0, name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan}
    share, units = float(hits.mean()), len(np.unique(subject_names(hits.index, subjects)))
    low = stats.beta.ppf(0.025, share * units, units - share * units + 1) if share > 0 else 0.0
    high = stats.beta.ppf(0.975, share * units + 1, units - share * units) if share < 1 else 1.0
    return {"n": n, name: share, f"{name}_low": float(low), f"{name}_high": float(high)}
