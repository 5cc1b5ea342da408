"""What a model reached out of fold, with the tails: the figures of the packaged model's description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.data.description import MEAN
from hippo_nnunet.data.subjects import Subjects
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.case_volumes import coverage_table as coverage_of
from hippo_nnunet.evaluation.case_volumes import cross_validated, hit_rates
from hippo_nnunet.evaluation.metrics import QUALITY, Label
from hippo_nnunet.evaluation.statistics import bootstrap_intervals
from hippo_nnunet.evaluation.subjects import subject_names, subject_values
from hippo_nnunet.evaluation.volumetry import agreement_table
from hippo_nnunet.files import json_values

_WORST = 5
_AGREEMENT = (
    "bias_mm3", "bias_low_mm3", "bias_high_mm3", "lower_mm3", "upper_mm3", "icc", "icc_low", "icc_high", "slope",
)  # fmt: skip


def performance(
    per_case: pd.DataFrame,
    measured: pd.DataFrame,
    labels: Mapping[str, Label],
    level: float,
    subjects: Subjects | None,
) -> dict[str, Any]:
    """Describe a model's out-of-fold predictions.

    Args:
        per_case: Its rows of `metrics/per_case.csv`.
        measured: Its out-of-fold volumes: see `measure_volumes`.
        labels: Labels of the volumes, the total included.
        level: Coverage of the intervals that are tested.
        subjects: Subject of each case; None: every case is one.

    Returns:
        JSON-ready: number of cases, subjects and folds; for each label and their mean, for each metric: mean with its
        95 % interval over subjects (bootstrap BCa), standard deviation over cases, median, what 5 % and 1 % of the
        cases are worse than (`worst_5`, `worst_1`), and `worst`; the worst cases; agreement of volumes; coverage of
        intervals calibrated on other folds; and worth of the flags.

    Raises:
        DataError: The two tables are not of the same cases.
    """
    cases = per_case["case"].unique()
    if set(cases) != set(measured["case"]):
        raise DataError("metrics and out-of-fold predictions are not of the same cases: evaluate the experiment again")
    mean = per_case.groupby("case", sort=False)[[*QUALITY]].mean().reset_index().assign(label=MEAN)
    rows = pd.concat([per_case[["case", "label", *QUALITY]], mean])
    by_label = {
        label: {metric: _described(group, metric, subjects) for metric in QUALITY}
        for label, group in rows.groupby("label", sort=False)
    }
    dice = mean.set_index("case")["dice"]
    folds = int(per_case["fold"].nunique())
    agreement = agreement_table(measured.assign(variant="", configuration=""), subjects=subjects)
    found = {
        "cases": len(cases),
        "subjects": len(np.unique(subject_names(cases, subjects))),
        "folds": folds,
        "by_label": by_label,
        "worst_cases": dice.nsmallest(_WORST).to_dict(),
        "volumes": agreement.set_index("label")[[*_AGREEMENT]].to_dict("index"),
        "level": level,
        "coverage": {},
        "flags": {},
    }
    if folds > 1:
        judged = cross_validated(measured, labels, level, subjects)
        found["coverage"] = coverage_of(judged, subjects).set_index("label").to_dict("index")
        found["flags"] = hit_rates(judged, dice, subjects=subjects).set_index("flag").to_dict("index")
    rounded: dict[str, Any] = json_values(found, 5)
    return rounded


def _described(group: pd.DataFrame, metric: str, subjects: Subjects | None) -> dict[str, float]:
    known = group.dropna(subset=[metric])
    values = known[metric].to_numpy(dtype=float)
    _, index = np.unique(subject_names(known["case"], subjects), return_inverse=True)
    low, high = bootstrap_intervals(subject_values(values, index))[0] if index.max() > 0 else (math.nan, math.nan)
    descending = QUALITY[metric].sign < 0
    tails = {f"worst_{share}": np.percentile(values, 100 - share if descending else share) for share in (5, 1)}
    return {
        "mean": values.mean(),
        "low": low,
        "high": high,
        "sd": values.std(ddof=1),
        "median": np.median(values),
        **tails,
        "worst": values.max() if descending else values.min(),
    }
