"""The tables of a comparison and of volumes, as cells of text, for the terminal, the report and papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from hippo_nnunet.analysis.verdicts import FAILURE_DICE
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.evaluation.comparison import Comparison
from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.side_by_side import full_rows
from hippo_nnunet.evaluation.wording import shown_verdict

NONE = "–"
_EXTRA = {
    "fold_sd": "SD of folds",
    "seed_sd": "SD of seeds",
    "notebook_dice": "notebooks' score",
    "trained_seconds": "training, min per fold",
    "predict_seconds": "prediction, s per image",
}


@dataclass(frozen=True)
class ShownTable:
    """A table as it is read.

    Attributes:
        name: File name without ending.
        caption: What it holds.
        columns: Headings.
        words: How many of the first columns are words; the others are numbers, aligned right.
        rows: Cells as text, one list per row.
        starts: Positions of the rows that begin a new group.
        data: The same figures unrounded, for the CSV file.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    words: int
    rows: list[list[str]]
    starts: frozenset[int]
    data: pd.DataFrame


def results_table(comparison: Comparison, mm_form: str = ".2f") -> ShownTable:
    """Prepare mean and spread of every metric of every model: the mean over labels first, then each label.

    Args:
        comparison: Its `models` are shown.
        mm_form: Format of distances.
    """
    models, metric = comparison.models, comparison.options.metric
    own = {"fold_sd": f"{metric}_fold_sd", "seed_sd": f"{metric}_seed_sd"}
    extra = {own.get(key, key): heading for key, heading in _EXTRA.items()}
    shown = {key: heading for key, heading in extra.items() if key in models and models[key].notna().any()}
    headings = [quality.heading for quality in QUALITY.values()]
    headings[1:1] = ["5th pct.", "worst", "failed"]
    rows, starts = [], []
    for position, row in enumerate(models.to_dict("records")):
        first = row["scope"] == MEAN
        if first:
            starts.append(position)
        forms = {name: digits(name, mm_form) for name in QUALITY}
        figures = [_with_sd(row, name, form) for name, form in forms.items()]
        figures[1:1] = [number(row["dice_p05"]), number(row["dice_worst"]), str(row["failures"])]
        further = {**row, "trained_seconds": row.get("trained_seconds", float("nan")) / 60}
        further_forms = [".1f" if key.endswith("seconds") else digits(key, mm_form) for key in shown]
        rows.append(
            [
                *_named(row, position - starts[-1]),
                *figures,
                *(number(further[key], form) if first else "" for key, form in zip(shown, further_forms, strict=True)),
            ]
        )
    return ShownTable(
        "results",
        "Out of fold: mean over cases, in brackets the standard deviation between cases. 5th pct.: 5 % of the cases "
        f"have a lower Dice; failed: cases with Dice below {FAILURE_DICE:g}.",
        ("model", "label", *headings, *shown.values()),
        2,
        rows,
        frozenset(starts),
        models,
    )


def summary_table(comparison: Comparison) -> ShownTable:
    """Prepare what fits 80 columns: each model's Dice with its tail, HD95 and failures, by label.

    Args:
        comparison: Its `models` are shown, without those that were trained on fewer cases.
    """
    models = full_rows(comparison.models)
    rows, starts = [], []
    for position, row in enumerate(models.to_dict("records")):
        if row["scope"] == MEAN:
            starts.append(position)
        rows.append(
            [
                *_named(row, position - starts[-1]),
                number(row["dice"]),
                number(row["dice_p05"]),
                number(row["hd95_mm"], ".2f"),
                str(row["failures"]),
            ]
        )
    caption = (
        f"Out of fold. 5th pct.: 5 % of the cases have a lower Dice; failed: cases with Dice below {FAILURE_DICE:g}."
    )
    columns = ("model", "label", "Dice", "5th pct.", "HD95, mm", "failed")
    return ShownTable("summary", caption, columns, 2, rows, frozenset(starts), models)


def _named(row: dict[Any, Any], below: int) -> list[str]:
    """Return model and label of a row: the model in the first row of a block, its folds and cases in the second."""
    repeats = f" ({row['repeats']} seeds)" if row["repeats"] > 1 else ""
    named = (f"{one_model(row)}{repeats}", f"{_folds(row['folds'])}, {counted(row['cases'], 'case')}")
    return [named[below] if below < len(named) else "", "all labels" if row["scope"] == MEAN else row["scope"]]


def comparison_table(comparison: Comparison, mm_form: str = ".2f") -> ShownTable | None:
    """Prepare the paired differences; None if there is no pair.

    Args:
        comparison: Its `pairs` are shown.
        mm_form: Format of distances.
    """
    pairs = comparison.pairs
    if pairs.empty:
        return None
    form = f"+{digits(str(pairs['metric'].iloc[0]), mm_form)}"
    rows, starts = [], []
    for position, row in enumerate(pairs.to_dict("records")):
        first = row["scope"] == MEAN
        if first:
            starts.append(position)
        names = [one_model(row), other_model(row)] if first else ["", ""]
        rows.append(
            [
                *names,
                "all labels" if first else row["scope"],
                str(row["n"]),
                number(row["difference"], form),
                interval(row["low"], row["high"], form),
                number(row["p_holm"], ".3g"),
                number(row["rank_biserial"], "+.2f"),
                number(row["cohens_dz"], "+.2f"),
                number(row["detectable"], form[1:]),
                number(row["rope_to_pass"], form[1:]),
                shown_verdict(row),
                retrained(row),
            ]
        )
    percent = f"{1 - pairs['alpha'].iloc[0]:.0%}"
    headings = (
        "cases",
        "difference",
        f"{percent} interval",
        "p, Holm",
        "rank-biserial",
        "dz",
        "detectable",
        "margin to pass",
    )
    return ShownTable(
        "comparison",
        f"Paired differences in {QUALITY[str(pairs['metric'].iloc[0])].heading}; positive: the first model is better; "
        f"equivalent within ±{pairs['rope'].iloc[0]:g}; margin to pass: the smallest that would give equivalent.",
        ("model", "against", "label", *headings, "as trained", "if trained again"),
        3,
        rows,
        frozenset(starts),
        pairs,
    )


def ranks_table(ranks: pd.DataFrame) -> ShownTable:
    """Prepare how often each model takes each rank; `ranks` as of `rank_table`."""
    places = sorted(ranks["rank"].unique())
    rows = []
    for names, group in ranks.groupby(["among", "variant", "configuration"], sort=False):
        share = group.set_index("rank")["share"]
        rows.append([*map(str, names), *(number(share.get(place), ".0%") for place in places)])
    columns = ("among", "variant", "configuration", *map(str, places))
    caption = "Share of the resamples of subjects in which a model takes each rank."
    return ShownTable("ranks", caption, columns, 3, rows, frozenset(), ranks)


def number(value: Any, form: str = ".4f") -> str:
    """Return a number in a format; a dash where it is not known."""
    if value is None or pd.isna(value):
        return NONE
    text = format(value, form)
    return text.lstrip("+-") if float(text.rstrip("%")) == 0 else text


def interval(low: Any, high: Any, form: str) -> str:
    """Return `low to high`; a dash where an end is not known."""
    return NONE if pd.isna(low) or pd.isna(high) else f"{number(low, form)} to {number(high, form)}"


def counted(count: int, what: str) -> str:
    """Return `1 case`, `2 cases`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def digits(metric: str, mm_form: str = ".2f") -> str:
    """Return the format of a metric: four decimals, or `mm_form` for distances."""
    return mm_form if metric.removesuffix("_fold_sd").removesuffix("_seed_sd").endswith("_mm") else ".4f"


def one_model(row: Any) -> str:
    """Name the first model of a row of `Comparison.pairs`."""
    return f"{row['variant']} {row['configuration']}"


def other_model(row: Any) -> str:
    """Name the second model of a row of `Comparison.pairs`."""
    return f"{row['against']} {row['against_configuration']}".rstrip()


def retrained(row: Any) -> str:
    """Return the verdict on training again; `not known` where there is no test over folds."""
    return "not known" if pd.isna(row["p_retrained"]) else str(row["verdict_retrained"])


def _with_sd(row: dict[Any, Any], name: str, form: str) -> str:
    sd = number(row[f"{name}_sd"], form)
    return number(row[name], form) if sd == NONE else f"{number(row[name], form)} ({sd})"


def with_interval(row: dict[Any, Any], name: str, form: str, ends: tuple[str, str] | None = None) -> str:
    """Return a figure and in brackets its interval, from the columns `<name>_low` and `<name>_high` or from `ends`."""
    low, high = (row[end] for end in ends or (f"{name}_low", f"{name}_high"))
    span = interval(low, high, form)
    return number(row[name], form) if span == NONE else f"{number(row[name], form)} ({span})"


def _folds(folds: str) -> str:
    """Return `folds 0–4` of `0,1,2,3,4`."""
    numbers = [int(fold) for fold in folds.split(",")]
    whole = len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
    shown = f"{numbers[0]}–{numbers[-1]}" if whole else ", ".join(map(str, numbers))
    return f"fold {shown}" if len(numbers) == 1 else f"folds {shown}"
