"""What it is worth to a case that the network has trained on another case of its subject.

    python experiments/leak.py BY_CASE BY_SUBJECT

BY_CASE and BY_SUBJECT are experiments on the same cases: the first with nnU-Net's own folds (`run --subjects none`),
the second with folds by subject. Compared are the variants, seeds and configurations that both have. In the second no
case has a partner in training; in the first, some have.

A case's difference is its mean Dice (over labels and trainings) with the folds by case minus that with the folds by
subject. Two estimates: the mean over all cases, which is what the choice of the folds does to a reported score; and the
mean over the cases that had a partner in training minus the mean over the others, which removes what the two splits do
to every case. Intervals are percentiles of 10,000 bootstrap samples of subjects.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from hippo_nnunet.data.subjects import read_subjects
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.experiment.paths import ExperimentPaths

RESAMPLES = 10_000
LEVEL = 0.95


def main(arguments: list[str] | None = None) -> None:
    """Print the estimates as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("by_case", type=Path)
    parser.add_argument("by_subject", type=Path)
    options = parser.parse_args(arguments)
    by_case, by_subject = (ExperimentPaths(folder) for folder in (options.by_case, options.by_subject))
    subjects = read_subjects(by_subject.subjects)
    print(json.dumps(leak(read_per_case(by_case.per_case), read_per_case(by_subject.per_case), subjects), indent=1))


def leak(by_case: pd.DataFrame, by_subject: pd.DataFrame, subjects: dict[str, str]) -> dict[str, object]:
    """Estimate what a partner in training is worth.

    Args:
        by_case: `per_case.csv` with folds by case.
        by_subject: The same with folds by subject, of the same cases.
        subjects: The subject of every case.

    Returns:
        `all_cases` and `partner_in_training`, each with `estimate`, `low` and `high`; the same estimates for each
        `training`, and the numbers of cases.

    Raises:
        ConfigError: The tables differ in cases, have no model in common, or the second has subjects in several folds.
    """
    first, second = (_dice(table) for table in (by_case, by_subject))
    common = first.columns.intersection(second.columns)
    if not first.index.equals(second.index) or common.empty:
        raise ConfigError("the two experiments differ in cases, or have no variant, seed and configuration in common")
    cases = first.index
    subject = np.array([subjects[case] for case in cases])
    if _partner_elsewhere(_folds(by_subject, cases), subject).any():
        raise ConfigError("the second experiment has cases of one subject in different folds: its folds are by case")
    exposed = _partner_elsewhere(_folds(by_case, cases), subject)
    differences = first[common] - second[common]
    return {
        "cases": len(cases),
        "cases_with_partner_in_training": int(exposed.sum()),
        "subjects": len(set(subject)),
        **_estimates(differences.mean(axis=1).to_numpy(), exposed, subject),
        "trainings": {
            str(name): {
                "all_cases": round(float(values.mean()), 4),
                "partner_in_training": round(float(values[exposed].mean() - values[~exposed].mean()), 4),
            }
            for name, values in differences.items()
        },
    }


def _estimates(values: np.ndarray, exposed: np.ndarray, subject: np.ndarray) -> dict[str, dict[str, float]]:
    """Return both estimates with their intervals."""
    names, member = np.unique(subject, return_inverse=True)
    # for each subject: number and sum of its exposed and of its other cases
    sums = [
        np.bincount(member, weights, len(names)) for weights in (exposed, values * exposed, ~exposed, values * ~exposed)
    ]
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    found = {}
    for name, of in (("all_cases", _mean), ("partner_in_training", _contrast)):
        samples = of(*(drawn @ part for part in sums))
        low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        estimate = of(*(part.sum() for part in sums))
        found[name] = {key: round(float(x), 4) for key, x in (("estimate", estimate), ("low", low), ("high", high))}
    return found


def _mean(count: np.ndarray, total: np.ndarray, others: np.ndarray, others_total: np.ndarray) -> np.ndarray:
    return (total + others_total) / (count + others)


def _contrast(count: np.ndarray, total: np.ndarray, others: np.ndarray, others_total: np.ndarray) -> np.ndarray:
    return total / count - others_total / others


def _dice(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean Dice over labels of every case (rows) and training (columns); the ensemble is left out."""
    trained = table[table["variant"] != ENSEMBLE]
    return trained.pivot_table(index="case", columns=["variant", "configuration"], values="dice").sort_index()


def _folds(table: pd.DataFrame, cases: pd.Index) -> np.ndarray:
    folds: np.ndarray = table.drop_duplicates("case").set_index("case")["fold"].loc[cases].to_numpy()
    return folds


def _partner_elsewhere(folds: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Tell of every case whether another one of its subject is validated in another fold, and so trained in its own."""
    same, other = subject[:, None] == subject, folds[:, None] != folds
    found: np.ndarray = (same & other).any(axis=1)
    return found


if __name__ == "__main__":
    main()
