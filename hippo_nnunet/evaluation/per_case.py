"""Tables of per-case results, the experiment's own and published ones: read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hippo_nnunet.data.description import MEAN
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.metrics import EMPTY, METRICS
from hippo_nnunet.files import read_csv

COLUMNS = ("case", "fold", "variant", "configuration", "label", *METRICS)
"""The columns of `metrics/per_case.csv`."""


def read_per_case(path: Path) -> pd.DataFrame:
    """Read and check a `metrics/per_case.csv`.

    Returns:
        Its rows, with the columns COLUMNS.

    Raises:
        DataError: Missing, empty or unreadable; or see `check_design`.
    """
    try:
        table = read_csv(path)
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: the experiment has no metrics yet; finish it with hippo-nnunet run"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table ({error}): evaluate the experiment again") from error
    try:
        check_design(table)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return table.astype({"fold": int})


def score_empty(table: pd.DataFrame) -> pd.DataFrame:
    """Give the best score to an empty prediction of an empty reference, which has none in `metrics/per_case.csv`.

    A model that invents the label has Dice 0 there. Left out, the cases on which models differ most would count for
    neither, and a difference of means would not be the mean of the differences.

    Args:
        table: Checked table of per-case metrics.

    Source:
        The convention of the BraTS challenges (Bakas et al. 2018, arXiv:1811.02629).
    """
    return table.fillna(EMPTY)


def check_design(table: pd.DataFrame) -> None:
    """Refuse a table whose models were not measured on the same cases in the same folds.

    Variants of one configuration have to share folds, cases and labels. Configurations may have other folds, but a
    case cannot lie in two folds, and a fold that two configurations share has the same cases in both.

    Raises:
        DataError: Names the variant, and the cases or labels.
    """
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(f"lacks the columns {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    if table.empty:
        raise DataError("holds no case: the experiment is empty; evaluate it again")
    if MEAN in set(table["label"]):
        raise DataError(f"a label is called {MEAN}, as the mean over labels is: give it another name")
    _check_values(table)
    folds = table.groupby("case")["fold"].nunique()
    _refuse(folds.index[folds > 1], "in two folds: the models come from different splits")
    first_labels = set(table["label"])
    designs: dict[str, tuple[str, set[int]]] = {}
    contents: dict[int, tuple[str, set[str]]] = {}
    for (variant, configuration), rows in table.groupby(["variant", "configuration"], sort=False):
        name = f"{variant} {configuration}"
        lacking = first_labels - set(rows["label"])
        if lacking:
            raise DataError(f"{name} lacks the labels {_listed(lacking)} that others have: measure the same labels")
        cells = rows.groupby("case")["label"].nunique()
        _refuse(cells.index[cells < len(first_labels)], f"without a row for every label in {name}")
        own_folds = set(rows["fold"].astype(int))
        first, folds_there = designs.setdefault(str(configuration), (name, own_folds))
        if own_folds != folds_there:
            raise DataError(
                f"{name} has the folds {_listed(own_folds)}, {first} has {_listed(folds_there)}: variants are compared "
                "on identical folds; train the missing ones"
            )
        for fold in sorted(own_folds):
            cases = set(rows.loc[rows["fold"] == fold, "case"])
            first, cases_there = contents.setdefault(fold, (name, cases))
            _refuse(cases_there - cases, f"measured for {first}, but not for {name}, in fold {fold}")
            _refuse(cases - cases_there, f"measured for {name}, but not for {first}, in fold {fold}")


def read_published(path: Path, labels: Sequence[str], cases: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Read a CSV file with a column `case` and, for each method and label, a column `<method>_<label>` of Dice.

    Args:
        path: The file; other columns (such as `<method>_fold`) are ignored.
        labels: Labels of the experiment; upper and lower case do not matter in the file.
        cases: Cases of the experiment.

    Returns:
        Method to a table with a row for each case and a column for each label.

    Raises:
        DataError: Missing or unreadable, a case twice, values outside 0 to 1, no method with all labels, or no case of
            the experiment.
    """
    try:
        table = read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error})") from error
    if "case" not in table.columns or table["case"].isna().any():
        raise DataError(f"{path}: got the columns {', '.join(table.columns)}, expected 'case' with a name in every row")
    repeated = table.loc[table["case"].duplicated(), "case"]
    if len(repeated):
        raise DataError(f"{path}: case {repeated.iloc[0]} stands twice; keep one row for each case")
    table = table.set_index("case")
    suffixes = {label: f"_{label.lower()}" for label in labels}
    lower = {column.lower(): column for column in table.columns}
    first = suffixes[labels[0]]
    methods = {name[: -len(first)] for name in lower if name.endswith(first)}
    columns = {m: {label: lower.get(f"{m}{end}") for label, end in suffixes.items()} for m in methods}
    complete = {m: found for m, found in columns.items() if all(found.values())}
    if not complete:
        raise DataError(
            f"{path}: no method has a column for each of {', '.join(labels)}; name them <method>_<label>, such as "
            f"conv{first}"
        )
    if not table.index.isin(cases).any():
        raise DataError(f"{path}: holds none of the experiment's cases: got {table.index[0]}, expected {cases[0]}")
    published = {}
    for method in sorted(complete, key=lambda m: list(lower).index(f"{m}{first}")):
        values = table[[str(complete[method][label]) for label in labels]].set_axis(list(labels), axis=1)
        if not all(pd.api.types.is_numeric_dtype(kind) for kind in values.dtypes) or ((values < 0) | (values > 1)).any(
            axis=None
        ):
            raise DataError(f"{path}: {method} holds something else than Dice from 0 to 1: correct the file")
        published[method] = values.rename_axis(columns="label")
    return published


def _check_values(table: pd.DataFrame) -> None:
    for column in ("fold", *METRICS):
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise DataError(f"column {column} holds something else than numbers: evaluate the experiment again")
    unnamed = table[["case", "variant", "configuration", "label"]].isna().any(axis=1)
    _refuse(table.index[unnamed], "in rows without a name of the case, variant, configuration or label")
    infinite = np.isinf(table[list(METRICS)]).any(axis=1)
    _refuse(table.loc[infinite, "case"], "with an infinite metric")
    shares = table[["dice", "nsd_1mm"]]
    _refuse(table.loc[((shares < 0) | (shares > 1)).any(axis=1), "case"], "with a Dice or NSD outside 0 to 1")
    found = (table[["volume_ref_mm3", "volume_mm3"]] > 0).any(axis=1)
    _refuse(
        table.loc[table[list(EMPTY)].isna().any(axis=1) & found, "case"], "without a metric of a label that is there"
    )
    folds = table["fold"]
    counted = np.isfinite(folds) & (folds == folds.round()) & (folds >= 0)
    _refuse(table.loc[~counted, "case"], "without a fold from 0 on")
    repeated = table.duplicated(["variant", "configuration", "case", "label"])
    _refuse(table.loc[repeated, "case"], "with a label that stands twice for one variant and configuration")


def _refuse(cases: Iterable[object], what: str) -> None:
    names = sorted({str(case) for case in cases})
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise DataError(f"{len(names)} cases {what} ({shown}): evaluate every variant on the same cases")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))
