"""Per-case metrics of a folder of predictions, and their summary."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hippo_nnunet.data.grid import grid_difference
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.metrics import METRICS, Label, case_metrics
from hippo_nnunet.evaluation.per_case import COLUMNS
from hippo_nnunet.evaluation.reading import find_reader, grid_of, read_segmentation
from hippo_nnunet.files import write_json, write_table
from hippo_nnunet.progress import tracked

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


def evaluate_folder(
    predictions: Path,
    references: Path,
    labels: Mapping[str, Label],
    file_ending: str,
    cases: Iterable[str] | None = None,
    n_jobs: int = 1,
    ignore_label: int | None = None,
    reader_name: str | None = None,
) -> pd.DataFrame:
    """Measure every prediction in a folder against its reference.

    Args:
        predictions: Folder of `<case><file_ending>`.
        references: Folder of `<case><file_ending>`.
        labels: Foreground labels or regions by name: see `named_labels`.
        file_ending: As in dataset.json: `.nii.gz`.
        cases: The cases to measure; every reference by default, and then a prediction without reference is an error.
        n_jobs: Worker processes; 1 stays in this one.
        ignore_label: See `named_labels`.
        reader_name: nnU-Net's reader that dataset.json names (`overwrite_image_reader_writer`).

    Returns:
        One row per case and label, sorted by case: `case`, `label` and the columns of METRICS.

    Raises:
        DataError: A file is missing or unreadable, or a prediction's geometry is not its reference's.
    """
    have = _cases_in(references, file_ending)
    predicted = _cases_in(predictions, file_ending)
    wanted = have if cases is None else set(cases)
    _refuse(wanted - have, references, "no reference for", "add the labels or leave the cases out")
    _refuse(wanted - predicted, predictions, "no prediction for", "predict them first")
    if cases is None:
        _refuse(predicted - wanted, references, "no reference for the predicted", "name the cases to measure")
    if not wanted:
        raise DataError(f"{references}: no file ends in {file_ending}; give the folder that holds the references")
    order = sorted(wanted)
    reader = find_reader(file_ending, references / f"{order[0]}{file_ending}", reader_name)
    measure = _MeasureCase(predictions, references, dict(labels), file_ending, ignore_label, reader)
    if n_jobs == 1:
        rows = [row for case in tracked(order, "measuring") for row in measure(case)]
    else:
        with ProcessPoolExecutor(n_jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            measured = tracked(pool.map(measure, order, chunksize=8), "measuring", len(order))
            rows = [row for case_rows in measured for row in case_rows]
    return pd.DataFrame(rows, columns=["case", "label", *METRICS])


def tag(table: pd.DataFrame, variant: str, configuration: str, fold: int | Mapping[str, int]) -> pd.DataFrame:
    """Say which model a table of `evaluate_folder` belongs to.

    Args:
        table: Result of `evaluate_folder`.
        variant: Name of the variant: `AttentionUNet`.
        configuration: nnU-Net's configuration: `2d`.
        fold: The fold of every case, or the fold of each.

    Returns:
        A new table with exactly COLUMNS.

    Raises:
        DataError: A case has no fold.
    """
    folds = table["case"].map(lambda case: fold.get(case) if isinstance(fold, Mapping) else fold)
    _refuse(set(table["case"][folds.isna()]), Path(variant), "no fold for", "give the fold of every case")
    tagged = table.assign(fold=folds.astype(int), variant=variant, configuration=configuration)
    return tagged[list(COLUMNS)]


def summarise(per_case: pd.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """Average per-case metrics as nnU-Net does: over cases for each label, then over labels.

    NaN (label absent from reference and prediction) is left out of means; `n` says how many values are in.

    Args:
        per_case: Table with COLUMNS.

    Returns:
        JSON-ready, variant -> configuration -> `cases` (count); `labels`, label -> metric -> mean, std, n;
        `foreground_mean`, metric -> mean (of the labels' means), std (between cases, of a case's mean over labels),
        n; and `folds`, fold -> metric -> foreground mean. std has n - 1 in its denominator; None where undefined.

    Raises:
        DataError: A column is missing, or a case and label occur twice for one variant and configuration.
    """
    missing = [column for column in COLUMNS if column not in per_case.columns]
    if missing:
        raise DataError(f"per-case table lacks the columns {missing}: expected {list(COLUMNS)}")
    repeated = per_case[per_case.duplicated(["variant", "configuration", "case", "label"])]
    if len(repeated):
        row = repeated.iloc[0]
        raise DataError(
            f"per-case table holds case {row['case']}, label {row['label']} twice for {row['variant']} "
            f"{row['configuration']}: every case is validated in one fold only; remove the rows of the wrong fold"
        )
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for (variant, configuration), group in per_case.groupby(["variant", "configuration"], sort=False):
        foreground = {m: _statistics(group.groupby("case")[m].mean()) for m in METRICS}
        for metric, mean in _foreground_means(group).items():
            foreground[metric]["mean"] = mean
        summary.setdefault(str(variant), {})[str(configuration)] = {
            "cases": int(group["case"].nunique()),
            "labels": {
                str(label): {metric: _statistics(rows[metric]) for metric in METRICS}
                for label, rows in group.groupby("label", sort=False)
            },
            "foreground_mean": foreground,
            "folds": {str(fold): _foreground_means(rows) for fold, rows in group.groupby("fold")},
        }
    return summary


def write_tables(per_case: pd.DataFrame, folder: Path) -> None:
    """Write `per_case.csv` and its `summary.json`, each atomically.

    Args:
        per_case: Table with COLUMNS.
        folder: Target folder; created if missing.

    Raises:
        DataError: The table is invalid.
    """
    summary = summarise(per_case)
    write_table(per_case[list(COLUMNS)], folder / "per_case.csv")
    write_json(folder / "summary.json", summary)


@dataclass(frozen=True)
class _MeasureCase:
    """`case_metrics` of the files of one case; a class, so that it can be pickled for worker processes."""

    predictions: Path
    references: Path
    labels: dict[str, Label]
    file_ending: str
    ignore_label: int | None
    reader: BaseReaderWriter

    def __call__(self, case: str) -> list[dict[str, str | float]]:
        prediction_file = self.predictions / f"{case}{self.file_ending}"
        reference_file = self.references / f"{case}{self.file_ending}"
        prediction, found = read_segmentation(self.reader, prediction_file)
        reference, expected = read_segmentation(self.reader, reference_file)
        grids = grid_of(found, prediction.shape), grid_of(expected, reference.shape)
        difference = grid_difference(*grids, str(reference_file))
        if difference:
            raise DataError(f"{prediction_file}: {difference.text}: predict from the labelled image")
        spacing = expected["spacing"]
        if reference.shape[0] == 1 and spacing[0] > 900 * max(spacing[1:]):  # nnU-Net's mark of a 2D image
            reference, prediction, spacing = reference[0], prediction[0], spacing[1:]
        rows = case_metrics(reference, prediction, spacing, self.labels, self.ignore_label)
        return [{"case": case, **row} for row in rows]


def _cases_in(folder: Path, file_ending: str) -> set[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    names = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    return {name[: -len(file_ending)] for name in names if name.endswith(file_ending)}


def _refuse(cases: set[str], where: Path, what: str, remedy: str) -> None:
    if cases:
        shown = ", ".join(sorted(cases)[:5]) + (", ..." if len(cases) > 5 else "")
        raise DataError(f"{where}: {what} {len(cases)} cases ({shown}): {remedy}")


def _statistics(values: pd.Series) -> dict[str, float | int | None]:
    return {"mean": _number(values.mean()), "std": _number(values.std(ddof=1)), "n": int(values.count())}


def _foreground_means(rows: pd.DataFrame) -> dict[str, float | None]:
    means = rows.groupby("label")[list(METRICS)].mean().mean()
    return {metric: _number(means[metric]) for metric in METRICS}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
