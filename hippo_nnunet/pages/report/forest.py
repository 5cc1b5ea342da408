"""The plot of paired differences, prepared: rows and places along the axis, for the page and for papers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.analysis.tables import digits, interval, number, one_model, other_model, retrained
from hippo_nnunet.analysis.verdicts import verdict_sentence
from hippo_nnunet.evaluation.side_by_side import MEAN
from hippo_nnunet.pages.report.style import VERDICT_MARKERS, Marker

QUESTIONS = {
    "variant": "Which network is better?",
    "configuration": "Does the configuration matter?",
    "ensemble": "Does the ensemble help?",
    "control": "Does CLIP's meaning help?",
    "published": "How far from published results?",
}
"""Kind of a comparison to the question that it answers, in the order of the page."""


@dataclass(frozen=True)
class ForestRow:
    """One comparison; `low` to `high` and `narrow_low` to `narrow_high` are NaN if there are too few cases."""

    one: str
    other: str
    scope: str
    first: bool
    difference: float
    low: float
    high: float
    narrow_low: float
    narrow_high: float
    verdict: str
    retrained: str
    text: str
    figures: str

    @property
    def marker(self) -> Marker:
        """The verdict's shape."""
        return VERDICT_MARKERS[self.verdict]


@dataclass(frozen=True)
class Forest:
    """The comparisons of some kinds on one axis.

    Attributes:
        groups: Kind to its rows; kinds in the order of QUESTIONS.
        rope: Half-width of the region of practical equivalence.
        alpha: Two-sided error: intervals are `1 - alpha` and, within, `1 - 2 alpha`.
        reach: The axis goes from minus to plus this.
        ticks: Values to name on the axis.
        metric: One of QUALITY.
    """

    groups: dict[str, list[ForestRow]]
    rope: float
    alpha: float
    reach: float
    ticks: list[float]
    metric: str

    def percent(self, value: float) -> float:
        """Return a value's place along the axis, 0 to 100."""
        return round(50 + 50 * max(-1.0, min(1.0, value / self.reach)), 2)


def prepare_forest(pairs: pd.DataFrame, kinds: Iterable[str]) -> Forest | None:
    """Prepare the comparisons of some kinds.

    Args:
        pairs: Of `Comparison`.
        kinds: Some of QUESTIONS.

    Returns:
        The forest; None if no comparison is of these kinds.
    """
    if pairs.empty:
        return None
    chosen = [kind for kind in QUESTIONS if kind in set(kinds) & set(pairs["kind"])]
    groups = {kind: [_row(row) for row in pairs[pairs["kind"] == kind].to_dict("records")] for kind in chosen}
    if not groups:
        return None
    rope, alpha = float(pairs["rope"].iloc[0]), float(pairs["alpha"].iloc[0])
    values = [v for rows in groups.values() for r in rows for v in (r.difference, r.low, r.high)]
    reach = 1.08 * max([1.6 * rope, *(abs(v) for v in values if np.isfinite(v))])
    return Forest(groups, rope, alpha, reach, _ticks(reach), str(pairs["metric"].iloc[0]))


def verdict_sentences(pairs: pd.DataFrame) -> dict[str, list[ForestRow]]:
    """Return, for each kind of comparison, the rows over all labels: one sentence each."""
    if pairs.empty:
        return {}
    over_labels = pairs[pairs["scope"] == MEAN]
    forest = prepare_forest(over_labels, QUESTIONS)
    return forest.groups if forest else {}


def _row(row: dict[Any, Any]) -> ForestRow:
    form = f"+{digits(row['metric'])}"
    first = row["scope"] == MEAN
    return ForestRow(
        one=one_model(row),
        other=other_model(row),
        scope="all labels" if first else str(row["scope"]),
        first=first,
        difference=float(row["difference"]),
        low=float(row["low"]),
        high=float(row["high"]),
        narrow_low=float(row["low_equivalence"]),
        narrow_high=float(row["high_equivalence"]),
        verdict=str(row["verdict"]),
        retrained=retrained(row),
        text=verdict_sentence(row),
        figures=f"{number(row['difference'], form)} ({interval(row['low'], row['high'], form)})",
    )


def _ticks(reach: float) -> list[float]:
    """Return round values, 0 among them, at most three on each side."""
    rough = reach / 2.5
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(s * scale for s in (1, 2, 5, 10) if s * scale >= rough)
    count = int(reach / step)
    return [round(k * step, 10) for k in range(-count, count + 1)]
