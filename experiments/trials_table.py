"""What trials found: `python -m experiments.trials_table log.jsonl --reference compact` prints a Markdown table.

The reference is a trial, or trainings of experiments: `--reference UNet@3d_fullres --experiments results/task04-best`.

For each trial of trials.py's log: the mean foreground Dice over cases, and the difference to the reference on the folds
that both have (the mean over seeds, where there are several), with a 95 % interval over subjects.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.data.subjects import read_subjects
from hippo_nnunet.errors import ConfigError, HippoError
from hippo_nnunet.evaluation.pairing import recipe_of
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.evaluation.statistics import paired_result
from hippo_nnunet.experiment.paths import ExperimentPaths

SUBJECTS = Path(__file__).parents[1] / "results" / "task04-recipe" / "subjects.csv"
HEADER = ("trial", "folds", "trainings", "Dice", "difference", "95 %", "minutes")
MARGIN = 0.005


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the logs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--reference", required=True, help="what the trials are compared with: name of one of them, or")
    parser.add_argument("--experiments", type=Path, nargs="+", help="... VARIANT@CONFIGURATION of these experiments")
    parser.add_argument("--subjects", type=Path, default=SUBJECTS, help="CSV file with the subject of each case")
    options = parser.parse_args(arguments)
    rows = [json.loads(line) for log in options.logs for line in log.read_text().splitlines()]
    try:
        others = of_experiments(options.experiments, options.reference) if options.experiments else None
        print(trials_table(rows, options.reference, read_subjects(options.subjects), others))
    except HippoError as error:
        sys.exit(f"error: {error}")


def trials_table(
    rows: Iterable[Mapping[str, Any]], reference: str, subjects: Mapping[str, str], others: pd.Series | None = None
) -> str:
    """Return the Markdown table.

    Args:
        rows: Lines of logs; those of trials that failed are left out.
        reference: Name of a trial, or of `others`.
        subjects: Subject of each case.
        others: Dice of each fold and case, if the reference is no trial.

    Raises:
        ConfigError: No trial has the reference's name, or a case has no subject.
    """
    trained = [row for row in rows if "cases" in row]
    unknown = sorted({case for row in trained for case in row["cases"]} - set(subjects))
    if unknown:
        raise ConfigError(f"{len(unknown)} cases have no subject, such as {unknown[0]}: name their table by --subjects")
    names = list(dict.fromkeys(row["name"] for row in trained))
    if reference not in names and others is None:
        raise ConfigError(f"no trial is named '{reference}'; there are {', '.join(names)}")
    dice = {name: _dice([row for row in trained if row["name"] == name]) for name in names}
    theirs = dice[reference] if others is None else others
    lines = [HEADER, ("---",) * len(HEADER)]
    for name in names:
        of_name = [row for row in trained if row["name"] == name]
        folds = ", ".join(sorted({str(row["fold"]) for row in of_name}))
        minutes = np.mean([row["s_train"] for row in of_name]) / 60
        difference, interval = _against(dice[name], theirs, subjects) if name != reference else ("", "")
        shown = np.mean([row["last mean"] for row in of_name])
        lines.append((name, folds, str(len(of_name)), f"{shown:.4f}", difference, interval, f"{minutes:.1f}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _dice(rows: Iterable[Mapping[str, Any]]) -> pd.Series:
    """Return the foreground mean of each fold and case, averaged over trainings."""
    found = {(row["fold"], row["seed"], case): np.mean(labels) for row in rows for case, labels in row["cases"].items()}
    return pd.Series(found).groupby(level=(0, 2)).mean().rename_axis(("fold", "case"))


def of_experiments(folders: Iterable[Path], name: str) -> pd.Series:
    """Return the foreground mean of each fold and case, averaged over the trainings of VARIANT@CONFIGURATION."""
    variant, _, configuration = name.partition("@")
    tables = [read_per_case(ExperimentPaths(folder).per_case) for folder in folders]
    table = pd.concat(tables, keys=range(len(tables)), names=["experiment"]).reset_index("experiment")
    own = table[(table["variant"].map(recipe_of) == variant) & (table["configuration"] == configuration)]
    if own.empty:
        raise ConfigError(f"these experiments have no training of {name}: write such as UNet@3d_fullres")
    by_training = own.groupby(["experiment", "variant", "fold", "case"])["dice"].mean()
    return by_training.groupby(level=("fold", "case")).mean()


def _against(dice: pd.Series, reference: pd.Series, subjects: Mapping[str, str]) -> tuple[str, str]:
    differences = (dice - reference).dropna()
    if differences.empty:
        return "other folds", ""
    folds, cases = (np.array(differences.index.get_level_values(level)) for level in (0, 1))
    found = paired_result(differences.to_numpy(), MARGIN, folds, subjects=np.array([subjects[case] for case in cases]))
    return f"{found.mean:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}"


if __name__ == "__main__":
    main()
