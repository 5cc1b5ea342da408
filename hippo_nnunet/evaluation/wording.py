"""A comparison in sentences, the same for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hippo_nnunet.data.description import MEAN
from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.statistics import BETTER, CANNOT_TELL, EQUIVALENT, POWER, WORSE


def shown_verdict(row: Mapping[Any, Any]) -> str:
    """Return the verdict in words: that of the table, but `slightly better` or `slightly worse` where it is
    `equivalent` and the difference, which is within the margin, is certain.
    """
    if not is_slight(row):
        return str(row["verdict"])
    return f"slightly {BETTER if row['difference'] > 0 else WORSE}"


def is_slight(row: Mapping[Any, Any]) -> bool:
    """Return whether two equivalent models surely differ: by the corrected p and by the interval."""
    return bool(row["verdict"] == EQUIVALENT and row["p_holm"] <= row["alpha"] and row["low"] * row["high"] > 0)


def sentence(row: Mapping[Any, Any]) -> str:
    """Describe what one row of `comparison.csv` shows and does not show.

    Args:
        row: Column to value: one row of `Comparison.pairs`.

    Returns:
        One to three sentences. A positive difference favours the first model.
    """
    digits = ".4f" if row["metric"] in ("dice", "nsd_1mm") else ".2f"
    text = _of_trained_models(row, digits)
    if math.isnan(row.get("p_mixed", math.nan)):
        return text
    interval = f"{row['low_mixed']:+{digits}} to {row['high_mixed']:+{digits}}"
    return f"{text} For the recipes, from their repeats by a mixed model: {interval}."


def _of_trained_models(row: Mapping[Any, Any], digits: str) -> str:
    metric = QUALITY[row["metric"]].after_number
    label = "" if row["scope"] == MEAN else f", {row['scope']}"
    names = f"{row['variant']} {row['configuration']} against {row['against']} {row['against_configuration']}".rstrip()
    difference = f"{row['difference']:+{digits}} {metric}"
    between = f"{1 - row['alpha']:.0%} interval {row['low']:+{digits}} to {row['high']:+{digits}}"
    cases = f"{row['n']} case{'' if row['n'] == 1 else 's'}"
    if row["subjects"] < row["n"]:
        cases += f" of {row['subjects']} subjects"
    start = f"{names}{label}: {shown_verdict(row)}"
    if math.isnan(row["low"]):
        return f"{start}; {difference} on {cases}, too few for an interval."
    if is_slight(row):
        return f"{start}; {difference}, {between}, within the margin of {row['rope']:g} ({cases})."
    if row["verdict"] == EQUIVALENT:
        narrow = f"{row['low_equivalence']:+{digits}} to {row['high_equivalence']:+{digits}}"
        return (
            f"{start}; {difference}, {1 - 2 * row['alpha']:.0%} interval {narrow}, within ±{row['rope']:g} ({cases})."
        )
    if row["verdict"] == CANNOT_TELL:
        text = f"{start}; {difference}, {between}, {cases}."
        if math.isnan(row["detectable"]):
            return text
        return f"{text} A true difference of {row['detectable']:{digits}} would have shown with {POWER:.0%} power."
    beyond = min(abs(row["low"]), abs(row["high"])) > row["rope"]
    size = f", by more than {row['rope']:g}" if beyond else ""
    p = "below 0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}"
    text = f"{start}{size}; {difference}, {between}, {cases}, corrected p {p}."
    if "," not in str(row["folds"]):
        return f"{text} It rests on one fold, which says nothing about new trainings."
    if row["verdict_retrained"] != CANNOT_TELL or math.isnan(row["p_retrained"]):
        return text  # the verdict on new trainings stands beside this sentence
    folds = f"{row['low_retrained']:+{digits}} to {row['high_retrained']:+{digits}}"
    word = "better" if row["verdict"] == BETTER else "worse"
    return f"{text} This holds for these trained models; it is not shown that new trainings would be {word} ({folds})."
