#!/usr/bin/env python3
"""Print an experiment's table, or write the tables of README.md and docs/results.md from `results/`.

python scripts/results_table.py results/task04-laptop
python scripts/results_table.py --write
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hippo_nnunet.analysis.compare import compare_experiment
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.evaluation.comparison import Options
from hippo_nnunet.evaluation.pairing import BASELINE, subset_size, without_size
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_object

HEADER = ("variant", "configuration", "folds", "cases", "Dice ant. / post. / mean", "NSD 1 mm", "HD95", "min per fold")
CURVE = ("training cases", "variant", "trainings", "Dice (95 % interval)", "difference to UNet (95 % interval)")
METHODS = ("method", "Dice ant. / post. / mean", "protocol")
PUBLISHED = (
    (
        "nnU-Net v2, 3d_fullres, 1000 epochs, H100",
        "0.9000 / 0.8836 / 0.8918",
        "5-fold, trained on 208 of 260 cases, these 220 scored, folds by case",
    ),
    ("nnU-Net v1, 2D, 1000 epochs", "mean 0.8691", "5-fold, 260 cases, folds by case"),
    (
        "published notebooks, 2D U-Net",
        "0.869 / 0.851 / 0.860",
        "one split; their own score, which counts background, says 0.9225",
    ),
)
OURS = (
    ("3D U-Net, one training", "task04-recipe", "UNet", "3d_fullres", "folds by subject"),
    (
        "ensemble of three more 3D U-Nets and the 2D one below",
        "task04-best",
        "ensemble",
        "2d+3d_fullres",
        "folds by subject",
    ),
    (
        "2D U-Net, seven adjacent slices, one training",
        "task04-best",
        "UNet_7slices_40epochs",
        "2d",
        "folds by subject",
    ),
)
"""Rows of the README: name, experiment, variant, configuration, folds."""


def results_table(experiment: Path) -> str:
    """Return a Markdown table of `metrics/summary.json` and `manifest.json`; figures are means over cases.

    Of an experiment with fewer training cases, that is `curve_table`.
    """
    paths = ExperimentPaths(experiment)
    summary, manifest = read_object(paths.summary), read_object(paths.manifest)
    if any(subset_size(variant) for variant in summary):
        return curve_table(experiment)
    rows = [HEADER, ("---",) * len(HEADER)]
    for variant, configurations in summary.items():
        for configuration, entry in configurations.items():
            mean = entry["foreground_mean"]
            seconds = [
                fold["trained_seconds"]
                for fold in manifest["folds"]
                if (fold["variant"], fold["configuration"]) == (variant, configuration) and fold["trained_seconds"]
            ]
            rows.append(
                (
                    variant,
                    configuration,
                    str(len(entry["folds"])),
                    str(entry["cases"]),
                    _dice(entry),
                    f"{mean['nsd_1mm']['mean']:.4f}",
                    f"{mean['hd95_mm']['mean']:.2f} mm",
                    f"{statistics.mean(seconds) / 60:.1f}" if seconds else "",
                )
            )
    return _markdown(rows)


def curve_table(experiment: Path) -> str:
    """Return a Markdown table of Dice against the number of training cases, and of differences to UNet at each."""
    comparison = compare_experiment(experiment, Options(), notebook=False)
    pairs = comparison.pairs[comparison.pairs["scope"] == MEAN]
    differences = {
        (without_size(pair["variant"]), subset_size(pair["variant"])): _with_interval(pair, "difference", "+")
        for _, pair in pairs.iterrows()
        if without_size(pair["against"]) == BASELINE
    }
    rows = [CURVE, ("---",) * len(CURVE)]
    for _, point in comparison.curve.sort_values("size", kind="stable").iterrows():
        size = None if pd.isna(point["size"]) else int(point["size"])
        found = _with_interval(point, "mean"), differences.get((point["variant"], size), "")
        rows.append((str(size or "all"), point["variant"], str(point["trainings"]), *found))
    return _markdown(rows)


def _with_interval(row: pd.Series, name: str, sign: str = "") -> str:
    value, low, high = (f"{row[column]:{sign}.4f}" for column in (name, "low", "high"))
    return f"{value} ({low} to {high})"


def readme_table(results: Path) -> str:
    """Return the README's Markdown table: published figures, and ours from the experiments in `results`."""
    rows = [METHODS, ("---",) * len(METHODS), *PUBLISHED]
    for name, experiment, variant, configuration, folds in OURS:
        entry = read_object(ExperimentPaths(results / experiment).summary)[variant][configuration]
        number, cases = len(entry["folds"]), entry["cases"]
        protocol = f"{number}-fold, trained on {cases - cases // number} of {cases} cases, {folds}"
        rows.append((f"ours, {name}", _dice(entry), protocol))
    return _markdown(rows)


def _dice(entry: Mapping[str, Any]) -> str:
    dice = [label["dice"]["mean"] for label in entry["labels"].values()]
    return " / ".join(f"{d:.4f}" for d in [*dice, entry["foreground_mean"]["dice"]["mean"]])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_tables(text: str, results: Path) -> str:
    """Return a page with each table between `<!-- NAME -->` and `<!-- /NAME -->` made anew.

    `NAME` is that of an experiment in `results`, or `methods` for the README's table.
    """

    def table(found: re.Match[str]) -> str:
        name = found[1]
        made = readme_table(results) if name == "methods" else results_table(results / name)
        return f"<!-- {name} -->\n{made}\n<!-- /{name} -->"

    return re.sub(r"<!-- (methods|task04-[\w-]+) -->.*?<!-- /\1 -->", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    elif sys.argv[1] == "--write":
        root = Path(__file__).parents[1]
        for page in (root / "README.md", root / "docs" / "results.md"):
            page.write_text(with_tables(page.read_text(encoding="utf-8"), root / "results"), encoding="utf-8")
    else:
        print(results_table(Path(sys.argv[1])))
