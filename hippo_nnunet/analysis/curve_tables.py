"""Tables of models that were trained on different numbers of cases: their means, and differences at equal numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hippo_nnunet.analysis.tables import ShownTable, counted, digits, interval, number, one_model
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.evaluation.comparison import Comparison
from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.pairing import SUBSETS, Model
from hippo_nnunet.evaluation.statistics import ALPHA


def curve_table(comparison: Comparison) -> ShownTable | None:
    """Prepare the metric against the number of training cases; None if all models were trained on all cases.

    Args:
        comparison: Its `curve` is shown, with the columns of `with_training_cases`.
    """
    curve, metric = comparison.curve, comparison.options.metric
    if curve.empty:
        return None
    rows: list[list[str]] = []
    starts = []
    for _, group in curve.groupby(["variant", "configuration"], sort=False):
        starts.append(len(rows))
        for position, row in enumerate(group.to_dict("records")):
            names = (one_model(row), counted(row["repeats"], "seed") if row["repeats"] > 1 else "")
            rows.append(
                [
                    names[position] if position < len(names) else "",
                    "all" if pd.isna(row["size"]) else f"{row['size']:.0f}",
                    _trained_on(row),
                    number(row["mean"], digits(metric)),
                    interval(row["low"], row["high"], digits(metric)),
                ]
            )
    heading, level = QUALITY[metric].heading, f"{1 - ALPHA:.0%}"
    caption = f"{heading} against the number of training cases, out of fold on the same validation cases."
    columns = ("model", "cases", "trained on", heading, f"{level} interval")
    return ShownTable("training_cases", caption, columns, 1, rows, frozenset(starts), curve)


def equal_cases_table(comparison: Comparison) -> ShownTable | None:
    """Prepare the differences over all labels between models trained on equal, smaller numbers; None if there are none.

    Args:
        comparison: Its `pairs` are shown.
    """
    pairs = comparison.pairs
    if not pairs.empty:
        pairs = pairs[pairs["kind"].isin(SUBSETS) & (pairs["scope"] == MEAN)]
    if pairs.empty:
        return None
    groups: dict[tuple[str, str], list[dict[Any, Any]]] = {}
    for row in pairs.to_dict("records"):
        one, other = Model(row["variant"], row["configuration"]), Model(row["against"], row["against_configuration"])
        where = "" if one.configuration == other.configuration else f" {other.configuration}"
        named = (f"{one.full_recipe} {one.configuration}", f"against {other.full_recipe}{where}")
        groups.setdefault(named, []).append({**row, "size": one.size})
    form = f"+{digits(comparison.options.metric)}"
    rows: list[list[str]] = []
    starts = []
    for names, group in groups.items():
        starts.append(len(rows))
        for position, row in enumerate(sorted(group, key=lambda row: int(row["size"]))):
            shown = " ".join(names) if len(group) == 1 else "".join(names[position : position + 1])
            mixed = "" if pd.isna(row["low_mixed"]) else "_mixed"
            span = interval(row[f"low{mixed}"], row[f"high{mixed}"], form)
            figures = [number(row[f"difference{mixed}"], form), span]
            rows.append([shown, str(row["size"]), *figures, str(row["verdict"])])
    over_seeds = " and, where both models have several seeds, further choices of the cases (a mixed model of them)"
    caption = (
        f"Differences in {QUALITY[comparison.options.metric].heading} at equal numbers of training cases; positive: "
        "the first model is better. The interval holds further subjects"
        f"{over_seeds if pairs['low_mixed'].notna().any() else ''}; the verdict is about these trained models."
    )
    columns = ("model", "cases", "difference", f"{1 - ALPHA:.0%} interval", "as trained")
    return ShownTable("equal_training_cases", caption, columns, 1, rows, frozenset(starts), pairs)


def _trained_on(row: dict[Any, Any]) -> str:
    """Return the mean number of training cases and, if it differs between trainings, its range."""
    mean, low, high = row["cases"], row["cases_min"], row["cases_max"]
    return number(mean, ".0f") if low == high or pd.isna(mean) else f"{mean:.1f} ({low:.0f}–{high:.0f})"
