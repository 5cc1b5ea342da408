"""The report's tables as files: CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hippo_nnunet import files
from hippo_nnunet.analysis.tables import ShownTable

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


ENDINGS = (".csv", ".md", ".tex")
"""The files of a written table."""
_MINUS = re.compile(r"(?<![\w)-])-(?=[\d.])")


def write_table(table: ShownTable, folder: Path) -> None:
    """Write `NAME.csv` (unrounded), `NAME.md` and `NAME.tex`."""
    files.write_table(table.data, folder / f"{table.name}.csv")
    files.write_text(folder / f"{table.name}.md", markdown(table))
    files.write_text(folder / f"{table.name}.tex", latex(table))


def markdown(table: ShownTable) -> str:
    """Return the table in GitHub's Markdown."""
    rule = ["---" if column < table.words else "---:" for column in range(len(table.columns))]
    rows = (table.columns, *table.rows)
    lines = [[cell.replace("|", r"\|").replace("<", "&lt;") for cell in row] for row in rows]
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
            rf"\caption{{{_latex_cell(table.caption)}}}",
            rf"\label{{tab:{table.name}}}",
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


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_latex_cell(cell) for cell in cells) + r" \\"


def _latex_cell(text: str) -> str:
    """Escape a cell, and give its numbers a minus sign where text has a hyphen."""
    return _MINUS.sub("$-$", escape_latex(text))


def minus(text: str) -> str:
    """Return text whose negative numbers have a minus sign instead of a hyphen."""
    return _MINUS.sub("\N{MINUS SIGN}", text)
