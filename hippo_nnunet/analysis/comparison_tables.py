"""The tables and lines that `compare` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from hippo_nnunet.analysis.volume_tables import volumetry_table
from hippo_nnunet.evaluation.comparison import Comparison
from hippo_nnunet.evaluation.pairing import Model
from hippo_nnunet.evaluation.side_by_side import MEAN
from hippo_nnunet.evaluation.wording import sentence

METRICS = {"dice": "Dice", "nsd_1mm": "NSD 1 mm", "hd95_mm": "HD95 mm", "assd_mm": "ASSD mm"}


def comparison_parts(comparison: Comparison) -> Iterator[Table | str]:
    """Yield what `compare` prints: models, differences, ranks, volumes, sentences, notes."""
    yield _models(comparison.models, comparison.options.metric)
    pairs = comparison.pairs
    if not pairs.empty:
        yield _pairs(pairs)
    if not comparison.ranks.empty:
        yield _ranks(comparison.ranks)
    if not comparison.volumes.empty:
        yield volumetry_table(comparison.volumes)
    for row in pairs.to_dict("records"):
        if row["scope"] == MEAN:
            yield sentence(row)
    yield from (f"note: {note}" for note in comparison.notes)


def _models(models: pd.DataFrame, metric: str) -> Table:
    table = Table(title="out of fold: mean (standard deviation between cases)")
    extra = {
        f"{metric}_fold_sd": "SD folds",
        f"{metric}_seed_sd": "SD seeds",
        "notebook_dice": "notebook Dice",
        "trained_seconds": "min a fold",
        "predict_seconds": "s an image",
    }
    shown = [column for column in extra if column in models and models[column].notna().any()]
    for column in ("variant", "configuration", "folds", "label"):
        table.add_column(column)
    for column in ("cases", *METRICS.values(), *(extra[column] for column in shown)):
        table.add_column(column, justify="right")
    blocks = [Model(v, c).block + c for v, c in models[["variant", "configuration"]].itertuples(index=False)]
    for position, row in enumerate(models.to_dict("records")):
        first = row["scope"] == MEAN
        repeats = f" ({row['repeats']} seeds)" if row["repeats"] > 1 else ""
        named = (f"{row['variant']}{repeats}", row["configuration"], row["folds"]) if first else ("", "", "")
        figures = [f"{_number(row[m])} ({_number(row[f'{m}_sd'])})" for m in METRICS]
        times = {**row, "trained_seconds": row.get("trained_seconds", float("nan")) / 60}
        last = position + 1 == len(blocks) or blocks[position + 1] != blocks[position]
        table.add_row(
            *named,
            row["scope"],
            str(row["cases"]),
            *figures,
            *(_number(times[column], ".1f" if column.endswith("seconds") else ".4f") for column in shown),
            end_section=last,
        )
    return table


def _pairs(pairs: pd.DataFrame) -> Table:
    rope, alpha = pairs["rope"].iloc[0], pairs["alpha"].iloc[0]
    table = Table(title=f"differences in {pairs['metric'].iloc[0]}; equivalent within ±{rope:g}")
    for column in ("variant", "against", "label"):
        table.add_column(column)
    numbers = ("cases", "difference", f"{1 - alpha:.0%} interval", "Holm p", "rank-biserial", "dz", "detectable")
    for column in numbers:
        table.add_column(column, justify="right")
    table.add_column("verdict")
    table.add_column("if trained again")
    for row in pairs.to_dict("records"):
        first = row["scope"] == MEAN
        names = [
            f"{row['variant']} {row['configuration']}",
            f"{row['against']} {row['against_configuration']}".strip(),
        ]
        table.add_row(
            *(names if first else ("", "")),
            row["scope"],
            str(row["n"]),
            _number(row["difference"], "+.4f"),
            f"{_number(row['low'], '+.4f')} to {_number(row['high'], '+.4f')}",
            _number(row["p_holm"], ".3g"),
            _number(row["rank_biserial"], "+.2f"),
            _number(row["cohens_dz"], "+.2f"),
            _number(row["detectable"]),
            row["verdict"],
            row["verdict_retrained"],
        )
    return table


def _ranks(ranks: pd.DataFrame) -> Table:
    places: Sequence[int] = sorted(ranks["rank"].unique())
    table = Table(title="share of resampled cases in which a model takes each rank")
    for column in ("among", "variant", "configuration"):
        table.add_column(column)
    for place in places:
        table.add_column(str(place), justify="right")
    groups = ranks.groupby(["among", "variant", "configuration"], sort=False)
    for names, rows in groups:
        share = rows.set_index("rank")["share"]
        table.add_row(*map(str, names), *(_number(share.get(place), ".0%") for place in places))
    return table


def _number(value: Any, form: str = ".4f") -> str:
    return "-" if value is None or pd.isna(value) else format(value, form)
