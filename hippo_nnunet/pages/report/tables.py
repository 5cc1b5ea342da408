"""The report's tables, prepared once: shown on the page, and written as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hippo_nnunet.evaluation.comparison import Comparison
from hippo_nnunet.evaluation.side_by_side import MEAN, QUALITY

METRICS = {"dice": "Dice", "nsd_1mm": "NSD 1 mm", "hd95_mm": "HD95, mm", "assd_mm": "ASSD, mm"}
NONE = "–"
_EXTRA = {
    "fold_sd": "SD of folds",
    "seed_sd": "SD of seeds",
    "notebook_dice": "notebooks' score",
    "trained_seconds": "training, min a fold",
    "predict_seconds": "prediction, s an image",
}
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "–": "--",
    "³": r"\textsuperscript{3}",
}


@dataclass(frozen=True)
class ShownTable:
    """A table as it is read.

    Attributes:
        name: File name without ending.
        caption: What it holds.
        columns: Headings.
        words: How many of the first columns are words; the others are numbers, aligned right.
        rows: Cells as text, one list a row.
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


def results_table(comparison: Comparison) -> ShownTable:
    """Prepare mean and spread of every metric of every model, per label; a mean over labels first."""
    models, metric = comparison.models, comparison.options.metric
    own = {"fold_sd": f"{metric}_fold_sd", "seed_sd": f"{metric}_seed_sd"}
    extra = {own.get(key, key): heading for key, heading in _EXTRA.items()}
    shown = {key: heading for key, heading in extra.items() if key in models and models[key].notna().any()}
    rows, starts = [], []
    for position, row in enumerate(models.to_dict("records")):
        first = row["scope"] == MEAN
        if first:
            starts.append(position)
        below = position - starts[-1]
        repeats = f" ({row['repeats']} seeds)" if row["repeats"] > 1 else ""
        named = (f"{one_model(row)}{repeats}", f"{_folds(row['folds'])}, {counted(row['cases'], 'case')}")
        figures = [f"{number(row[name], digits(name))} ({number(row[f'{name}_sd'], digits(name))})" for name in METRICS]
        further = {**row, "trained_seconds": row.get("trained_seconds", float("nan")) / 60}
        forms = [".1f" if key.endswith("seconds") else digits(key) for key in shown]
        rows.append(
            [
                named[below] if below < len(named) else "",
                "all labels" if first else row["scope"],
                *figures,
                *(number(further[key], form) if first else "" for key, form in zip(shown, forms, strict=True)),
            ]
        )
    return ShownTable(
        "results",
        "Out of fold: mean over cases, in brackets the standard deviation between cases.",
        ("model", "label", *METRICS.values(), *shown.values()),
        2,
        rows,
        frozenset(starts),
        models,
    )


def comparison_table(comparison: Comparison) -> ShownTable | None:
    """Prepare the paired differences; None where there is no pair."""
    pairs = comparison.pairs
    if pairs.empty:
        return None
    form = f"+{digits(str(pairs['metric'].iloc[0]))}"
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
                row["verdict"],
                retrained(row),
            ]
        )
    percent = f"{1 - pairs['alpha'].iloc[0]:.0%}"
    headings = ("cases", "difference", f"{percent} interval", "p, Holm", "rank-biserial", "dz", "detectable")
    return ShownTable(
        "comparison",
        f"Paired differences in {METRICS[str(pairs['metric'].iloc[0])]}; a positive one speaks for the first model; "
        f"equivalent within ±{pairs['rope'].iloc[0]:g}.",
        ("model", "against", "label", *headings, "as trained", "if trained again"),
        3,
        rows,
        frozenset(starts),
        pairs,
    )


def agreement_table(agreement: pd.DataFrame) -> ShownTable:
    """Prepare bias, limits of agreement and ICC of the volumes, of `Content.agreement`."""
    rows, starts, last = [], [], None
    for position, row in enumerate(agreement.to_dict("records")):
        model = f"{row['variant']} {row['configuration']}"
        if model != last:
            starts.append(position)
        bias = interval(row["bias_low_mm3"], row["bias_high_mm3"], "+.0f")
        rows.append(
            [
                "" if model == last else model,
                row["label"],
                str(row["n"]),
                f"{number(row['bias_mm3'], '+.0f')} ({bias})",
                interval(row["lower_mm3"], row["upper_mm3"], "+.0f"),
                f"{number(row['icc'], '.3f')} ({interval(row['icc_low'], row['icc_high'], '.3f')})",
            ]
        )
        last = model
    return ShownTable(
        "volumes",
        "Predicted minus reference volume, in mm³; in brackets 95 % intervals.",
        ("model", "label", "cases", "bias, mm³", "limits of agreement, mm³", "ICC(A,1)"),
        2,
        rows,
        frozenset(starts),
        agreement,
    )


def write_table(table: ShownTable, folder: Path) -> None:
    """Write `NAME.csv` (unrounded), `NAME.md` and `NAME.tex`."""
    folder.mkdir(parents=True, exist_ok=True)
    table.data.to_csv(folder / f"{table.name}.csv", index=False)
    (folder / f"{table.name}.md").write_text(markdown(table), encoding="utf-8")
    (folder / f"{table.name}.tex").write_text(latex(table), encoding="utf-8")


def markdown(table: ShownTable) -> str:
    """Return the table in GitHub's Markdown."""
    rule = ["---" if column < table.words else "---:" for column in range(len(table.columns))]
    lines = [[_markdown(cell) for cell in row] for row in (table.columns, *table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]]) + f"\n\n{table.caption}\n"


def latex(table: ShownTable) -> str:
    """Return the table as LaTeX that needs the package booktabs."""
    columns = "l" * table.words + "r" * (len(table.columns) - table.words)
    body = []
    for position, row in enumerate(table.rows):
        if position and position in table.starts:
            body.append(r"\addlinespace")
        body.append(_latex_row(row))
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            rf"\caption{{{escape_latex(table.caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_row(table.columns),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Return text in which LaTeX finds no command."""
    return "".join(_LATEX.get(character, character) for character in text)


def number(value: Any, form: str = ".4f") -> str:
    """Return a number in a format; a dash where it is not known."""
    if value is None or pd.isna(value):
        return NONE
    text = format(value, form)
    return text.lstrip("+-") if float(text) == 0 else text


def interval(low: Any, high: Any, form: str) -> str:
    """Return `low to high`; a dash where an end is not known."""
    return NONE if pd.isna(low) or pd.isna(high) else f"{number(low, form)} to {number(high, form)}"


def counted(count: int, what: str) -> str:
    """Return `1 case`, `2 cases`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def digits(metric: str) -> str:
    """Return the format of a metric: four decimals, or two for mm."""
    return ".2f" if metric.removesuffix("_fold_sd").removesuffix("_seed_sd").endswith("_mm") else ".4f"


def one_model(row: Any) -> str:
    """Name the first model of a row of `Comparison.pairs`."""
    return f"{row['variant']} {row['configuration']}"


def other_model(row: Any) -> str:
    """Name the second model of a row of `Comparison.pairs`."""
    return f"{row['against']} {row['against_configuration']}".rstrip()


def retrained(row: Any) -> str:
    """Return the verdict on training again; `not known` where there is no test over folds."""
    return "not known" if pd.isna(row["p_retrained"]) else str(row["verdict_retrained"])


def metric_heading(metric: str) -> str:
    """Name a metric of a comparison, and say in which direction it improves."""
    return METRICS[metric] if QUALITY[metric] > 0 else f"{METRICS[metric]} (less is better; the sign is turned)"


def _folds(folds: str) -> str:
    """Return `folds 0–4` of `0,1,2,3,4`."""
    numbers = [int(fold) for fold in folds.split(",")]
    whole = len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
    shown = f"{numbers[0]}–{numbers[-1]}" if whole else ", ".join(map(str, numbers))
    return f"fold {shown}" if len(numbers) == 1 else f"folds {shown}"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"


def _markdown(cell: str) -> str:
    return cell.replace("|", r"\|").replace("<", "&lt;")
