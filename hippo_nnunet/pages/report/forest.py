"""The plot of paired differences, prepared: rows and places along the axis, for the page and for papers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.analysis.tables import digits, one_model, other_model, retrained, with_interval
from hippo_nnunet.analysis.verdicts import NOT_JUDGED, verdict_sentence
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.evaluation.wording import shown_verdict
from hippo_nnunet.pages.report.style import VERDICT_MARKERS, Marker

QUESTIONS = {
    "variant": "Which network is better?",
    "configuration": "Does the configuration matter?",
    "ensemble": "Does the ensemble help?",
    "control": "Does CLIP's meaning help?",
    "published": "How far from published results, or other experiments?",
    "subset": "Which network is better with fewer training cases?",
    "subset control": "Does CLIP's meaning help with fewer training cases?",
}
"""Kind of a comparison to the question that it answers, in the order of the page."""

_INNER, _OUTER = 38.0, 42.0
"""Half-widths, in percent, of the inner part of a broken axis, and where the outer part begins."""
_DWARFED = 4.0
"""Ratio of two neighbouring extents from which the axis is broken between them."""
_ROOM = 1.08


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
    badge: str
    retrained: str
    text: str
    figures: str

    @property
    def judged(self) -> bool:
        """Whether there is a verdict."""
        return self.verdict != NOT_JUDGED

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
        reach: The axis goes from minus to plus this, or is broken there.
        beyond: End of the axis where it is broken: from `reach` to here it has a smaller scale. None: not broken.
        ticks: Values to name on the axis.
        metric: One of QUALITY.
    """

    groups: dict[str, list[ForestRow]]
    rope: float
    alpha: float
    reach: float
    beyond: float | None
    ticks: list[float]
    metric: str

    def percent(self, value: float) -> float:
        """Return a value's place along the axis, 0 to 100."""
        share = abs(value) / self.reach
        if self.beyond is None:
            half = 50 * min(1.0, share)
        elif share <= 1:
            half = _INNER * share
        else:
            rest = min(1.0, (abs(value) - self.reach) / (self.beyond - self.reach))
            half = _OUTER + (50 - _OUTER) * rest
        return round(50 + math.copysign(half, value), 2)

    @property
    def breaks(self) -> list[float]:
        """Places along the axis where it is broken."""
        gap = (_INNER + _OUTER) / 2
        return [] if self.beyond is None else [50 - gap, 50 + gap]


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
    rows = [row for own in groups.values() for row in own]
    extents: list[float] = []
    for row in rows:
        extent = float(np.nanmax(np.abs([0.0, row.difference, row.low, row.high])))
        extents[-1:] = [*extents[-1:], extent] if row.first else [max(extents[-1], extent)]
    reach, beyond = _axis_ends(sorted(extents), 1.6 * rope)
    ticks = _ticks(reach)
    if beyond is not None:
        far = [row.difference for row in rows if abs(row.difference) > reach]
        ticks += [_rounded(value) for value in {math.copysign(max(map(abs, far)), v) for v in far}]
    return Forest(groups, rope, alpha, reach, beyond, ticks, str(pairs["metric"].iloc[0]))


def verdict_sentences(pairs: pd.DataFrame) -> dict[str, list[ForestRow]]:
    """Return, for each kind of comparison, the rows over all labels: one sentence each."""
    if pairs.empty:
        return {}
    over_labels = pairs[pairs["scope"] == MEAN]
    forest = prepare_forest(over_labels, QUESTIONS)
    return forest.groups if forest else {}


def signed(value: float) -> str:
    """Return `+0.005`, `0` or `−0.005`, with a minus sign."""
    return f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _axis_ends(extents: Sequence[float], least: float) -> tuple[float, float | None]:
    """Return where the axis ends or is broken and, if it is broken, where it ends.

    It is broken where a gap of at least _DWARFED separates the larger extents from the others: else those would be dots
    at 0.

    Args:
        extents: Of each pair of models, ascending.
        least: The axis reaches at least this far.
    """
    inner = [max(least, extent) for extent in extents]
    gaps = [after / before for before, after in pairwise(inner)]
    if gaps and max(gaps) >= _DWARFED:
        return _ROOM * inner[int(np.argmax(gaps))], _ROOM * inner[-1]
    return _ROOM * inner[-1], None


def _rounded(value: float) -> float:
    """Round to two significant digits, towards zero."""
    scale = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return math.trunc(value / scale) * scale


def _row(row: dict[Any, Any]) -> ForestRow:
    form = f"+{digits(row['metric'])}"
    first = row["scope"] == MEAN
    if row["verdict"] == NOT_JUDGED:  # its figures say nothing about the networks
        row = {**row, **dict.fromkeys(("difference", "low", "high", "low_equivalence", "high_equivalence"), np.nan)}
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
        badge=shown_verdict(row),
        retrained=retrained(row),
        text=verdict_sentence(row),
        figures=with_interval(row, "difference", form, ("low", "high")),
    )


def _ticks(reach: float) -> list[float]:
    """Return round values, 0 among them, at most three on each side."""
    rough = reach / 2.5
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(s * scale for s in (1, 2, 5, 10) if s * scale >= rough)
    count = int(reach / step)
    return [round(k * step, 10) for k in range(-count, count + 1)]
