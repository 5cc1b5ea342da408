"""The differences that docs/findings.md states, from `results/`.

    python -m experiments.findings            prints the table
    python -m experiments.findings --write    puts it into docs/findings.md

findings.json lists them: the experiments in `results/` that have the two models (merged, as by merge.py, if there are
several), and the models; or a model and what `hippo-nnunet compare --against` takes: a published method's file, or
another experiment. The comparison is that of `hippo-nnunet compare` with a negligible difference of 0.005 Dice.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.merge import merge
from hippo_nnunet.analysis.compare import compare_experiment
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.data.subjects import read_subjects
from hippo_nnunet.errors import ConfigError, HippoError
from hippo_nnunet.evaluation.comparison import Comparison, Options
from hippo_nnunet.evaluation.fold_means import corrected_test
from hippo_nnunet.evaluation.pairing import ENSEMBLE, recipe_of
from hippo_nnunet.evaluation.per_case import read_per_case, score_empty
from hippo_nnunet.evaluation.statistics import paired_result
from hippo_nnunet.evaluation.subjects import subject_names
from hippo_nnunet.evaluation.wording import shown_verdict
from hippo_nnunet.experiment.paths import ExperimentPaths

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "findings.md"
OPENING, CLOSING = "<!-- findings -->", "<!-- /findings -->"
NEGLIGIBLE = 0.005
SIMILAR = 0.01
"""Margins of equivalence from here on are not printed."""
NO_CASES = pd.DataFrame(columns=["variant", "configuration", "fold", "case", "dice"])
HEADER = (
    *("question", "models", "trainings", "cases", "difference in Dice", "95 %"),
    *("equivalent within", "verdict", "recipes, 95 %", "seed 0 of both"),
)


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/findings.md")
    options = parser.parse_args()
    try:
        table = findings_table(json.loads((ROOT / "experiments" / "findings.json").read_text()), ROOT / "results")
    except HippoError as error:
        sys.exit(f"error: {error}")
    if not options.write:
        print(table)
        return
    before, opening, rest = PAGE.read_text(encoding="utf-8").partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not opening or not closing:
        sys.exit(f"error: {PAGE} has no {OPENING} and {CLOSING}: put them where the table belongs")
    PAGE.write_text(f"{before}{OPENING}\n{table}\n{CLOSING}{after}", encoding="utf-8")


def findings_table(findings: list[dict[str, Any]], results: Path) -> str:
    """Return the Markdown table.

    Args:
        findings: See the module; by default `against_configuration` is `configuration`, `part` the mean of the labels.
        results: Folder of the experiments.

    Raises:
        ConfigError: Experiments do not belong together, or do not have the models.
    """
    rows = [HEADER, ("---",) * len(HEADER)]
    for finding in findings:
        pieces, file = tuple(results / piece for piece in finding["pieces"]), finding.get("compared_with")
        comparison = _compare(pieces, results / file if file else None)
        rows.append(_row(finding, comparison, results))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@cache
def _compare(pieces: tuple[Path, ...], published: Path | None) -> Comparison:
    options = Options(rope=NEGLIGIBLE)
    if len(pieces) == 1:
        return compare_experiment(pieces[0], options, published)
    with tempfile.TemporaryDirectory() as folder:
        return compare_experiment(merge(pieces, Path(folder) / "merged"), options, published)


def _row(finding: dict[str, Any], comparison: Comparison, results: Path) -> tuple[str, ...]:
    variant, configuration, against = finding["variant"], finding["configuration"], finding["against"]
    published = "compared_with" in finding
    other = "" if published else finding.get("against_configuration", configuration)
    pairs = comparison.pairs
    pairs = pairs[(pairs["scope"] == finding.get("part", MEAN)) & (pairs["metric"] == "dice")]
    names = ["variant", "configuration", "against", "against_configuration"]
    found = pairs[(pairs[names] == [variant, configuration, against, other]).all(axis=1)]
    if len(found) != 1:
        raise ConfigError(f"{', '.join(finding['pieces'])}: no comparison of {variant} with {against}")
    pair = found.iloc[0]
    trainings: list[int | str] = [_repeats(comparison, variant, configuration)]
    trainings.append(_others(results, finding) if published else _repeats(comparison, against, other))
    same = other == configuration
    both = (variant, against) if same else (f"{variant} {configuration}", f"{against} {other}".strip())
    return (
        finding["question"],
        f"`{both[0]}` - `{both[1]}`",
        " and ".join(map(str, trainings)),
        str(pair["n"]),
        f"{pair['difference']:+.4f}",
        f"{pair['low']:+.4f} to {pair['high']:+.4f}",
        f"{pair['rope_to_pass']:.4f}" if pair["rope_to_pass"] < SIMILAR else "",
        shown_verdict(pair),
        _of_recipes(results, finding, pair),
        _first_seeds(results, finding) if _unequal(trainings) and variant != ENSEMBLE else "",
    )


def _unequal(trainings: list[int | str]) -> bool:
    """Tell whether both numbers are known and differ."""
    return len({*trainings}) > 1 and all(isinstance(number, int) for number in trainings)


def _of_recipes(results: Path, finding: dict[str, Any], pair: pd.Series) -> str:
    """Return the interval of the test over folds; empty without one: a published model, other folds, few cases."""
    low, high = pair["low_retrained"], pair["high_retrained"]
    if "compared_with" in finding:  # which `compare` compares case by case
        one, other = _scores(results, finding)
        if not one.index.equals(other.index):
            return ""
        means = (one - other).groupby("fold").mean()
        result = corrected_test(means.to_numpy(), len(means))
        low, high = result.low, result.high
    return "" if pd.isna(low) else f"{low:+.4f} to {high:+.4f}"


def _first_seeds(results: Path, finding: dict[str, Any]) -> str:
    """Return difference and interval between the trainings with seed 0; empty if one model has none."""
    one, other = _scores(results, finding, first=True)
    difference = (one - other).dropna().reset_index()
    if difference.empty:
        return ""
    subjects = subject_names(
        difference["case"], read_subjects(ExperimentPaths(results / finding["pieces"][0]).subjects)
    )
    folds = difference["fold"].to_numpy()
    result = paired_result(difference["dice"].to_numpy(), NEGLIGIBLE, folds, subjects=subjects)
    return f"{result.mean:+.4f} ({result.low:+.4f} to {result.high:+.4f})"


def _scores(results: Path, finding: dict[str, Any], first: bool = False) -> list[pd.Series]:
    """Return both models' Dice by fold and case, over labels and trainings, or of the one without a seed word."""
    recipe, _, configuration = finding["against"].rpartition(": ")[2].partition(" ")
    others = [finding["compared_with"]] if "compared_with" in finding else finding["pieces"]
    models = (
        (finding["pieces"], finding["variant"], finding["configuration"]),
        (others, recipe, configuration or finding.get("against_configuration", finding["configuration"])),
    )
    scores = []
    for pieces, name, trained_in in models:
        table = pd.concat(_per_case(results / piece) for piece in pieces)
        named = table["variant"] if first else table["variant"].map(recipe_of)
        own = table[(named == name) & (table["configuration"] == trained_in)]
        scores.append(own.groupby(["fold", "case"])["dice"].mean())
    return scores


@cache
def _per_case(folder: Path) -> pd.DataFrame:
    """Return the scores of an experiment's cases; a published method has none by fold."""
    path = ExperimentPaths(folder).per_case
    return score_empty(read_per_case(path)) if path.is_file() else NO_CASES


def _others(results: Path, finding: dict[str, Any]) -> int | str:
    """Return how many trainings the other experiment has of the model, or that it is published."""
    paths = ExperimentPaths(results / finding["compared_with"])
    if not paths.per_case.is_file():
        return "published"
    recipe, configuration = finding["against"].partition(": ")[2].split()
    models = read_per_case(paths.per_case)[["variant", "configuration"]].drop_duplicates()
    return sum(recipe_of(v) == recipe and c == configuration for v, c in models.itertuples(index=False))


def _repeats(comparison: Comparison, recipe: str, configuration: str) -> int:
    """Return how many trainings of a recipe the comparison averages."""
    models = comparison.models
    found = models[
        (models["variant"] == recipe) & (models["configuration"] == configuration) & (models["scope"] == MEAN)
    ]
    return int(found["repeats"].iloc[0])


if __name__ == "__main__":
    main()
