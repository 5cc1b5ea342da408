"""The comparison of a whole experiment: its metrics, times, and the notebooks' score of the same predictions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.comparison import Comparison, Options, compare
from hippo_nnunet.evaluation.notebook_dice import notebook_dice_by_case
from hippo_nnunet.evaluation.pairing import read_per_case, recipe_of
from hippo_nnunet.evaluation.published import read_published
from hippo_nnunet.evaluation.side_by_side import MEAN
from hippo_nnunet.evaluation.wording import sentence
from hippo_nnunet.nnunet.finished import SUMMARY
from hippo_nnunet.nnunet.paths import NnunetFolders, folders_for
from hippo_nnunet.nnunet.preprocessed import read_json
from hippo_nnunet.workflow.experiment import ENSEMBLE, FILE, Cell, Experiment
from hippo_nnunet.workflow.products import OUT_OF_FOLD

PER_CASE = Path("metrics") / "per_case.csv"
COMPARISON = Path("metrics") / "comparison.csv"


def compare_experiment(
    folder: Path, options: Options, against: Path | None = None, root: Path | None = None
) -> Comparison:
    """Compare the models of an experiment.

    Args:
        folder: The experiment's folder. What it lacks beside `metrics/per_case.csv` is missing in the result, and
            named in its notes.
        options: How to compare; `number_of_folds` comes from the experiment.
        against: File of published Dice: see `read_published`.
        root: nnU-Net's root folder, which wins over its variables; None: its variables, else `nnunet` in the folder.

    Returns:
        The comparison; in its `models`, rows of scope MEAN also have `notebook_dice`, `trained_seconds` (mean of a
        fold) and `predict_seconds` (of a test image, start included).

    Raises:
        ConfigError: See `compare`; or there is no such folder.
        DataError: The metrics are missing or unsound, or the published file is.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the folder of an experiment")
    table = read_per_case(folder / PER_CASE)
    labels, cases = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table["case"]))
    published = read_published(against, labels, cases) if against else None
    experiment = Experiment.load(folder / FILE) if (folder / FILE).is_file() else None
    if experiment is not None:
        options = replace(options, number_of_folds=experiment.number_of_folds)
    comparison = compare(table, options, published)
    if experiment is None:
        note = f"{FILE} is missing: no times, and no score of the notebooks' protocol."
        return replace(comparison, notes=(*comparison.notes, note))
    folders = folders_for(root, {}) if root is not None else folders_for(folder / "nnunet")
    notes: list[str] = []
    models = comparison.models
    over_labels = models["scope"] == MEAN
    extra = {
        "trained_seconds": _trained_seconds(experiment, folder, folders, notes),
        "predict_seconds": _predict_seconds(experiment, folder, notes),
    }
    for column, values in extra.items():
        found = [
            values.get((variant, configuration), np.nan)
            for variant, configuration in models[["variant", "configuration"]].itertuples(index=False)
        ]
        models[column] = pd.Series(found, index=models.index, dtype=float).where(over_labels)
    models["notebook_dice"] = _notebook_column(experiment, folder, folders, table, models, notes)
    return replace(comparison, models=models, notes=(*comparison.notes, *notes))


def write_comparison(comparison: Comparison, folder: Path) -> Path | None:
    """Write `metrics/comparison.csv` atomically, in the place of an older one.

    Returns:
        The file; None where there is no pair to write.

    Raises:
        DataError: It cannot be written.
    """
    if comparison.pairs.empty:
        return None
    path = folder / COMPARISON
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        comparison.pairs.to_csv(temporary, index=False)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): make its folder writable") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def as_json(comparison: Comparison) -> str:
    """Return everything as JSON: options, tables as lists of rows, sentences and notes; null where undefined."""
    tables = {name: getattr(comparison, name) for name in ("models", "pairs", "ranks")}
    return json.dumps(
        {
            "options": {**asdict(comparison.options), "rope": comparison.options.margin},
            **{name: json.loads(frame.to_json(orient="records")) for name, frame in tables.items()},
            "sentences": [sentence(row) for row in comparison.pairs.to_dict("records")],
            "notes": comparison.notes,
        },
        indent=1,
        allow_nan=False,
    )


def prediction_files(
    experiment: Experiment, folder: Path, folders: NnunetFolders, table: pd.DataFrame, ending: str
) -> dict[tuple[str, str], dict[str, Path]]:
    """Name the out-of-fold segmentation of every case of every variant in the table of metrics.

    Args:
        experiment: What was asked.
        folder: The experiment's folder.
        folders: nnU-Net's folders.
        table: Of `read_per_case`.
        ending: File ending of the segmentations.

    Returns:
        (variant, configuration) to case to file; nobody has looked whether the files exist.
    """
    files: dict[tuple[str, str], dict[str, Path]] = {}
    columns = table[["variant", "configuration", "fold", "case"]].drop_duplicates()
    for variant, configuration, fold, case in columns.itertuples(index=False):
        if variant == ENSEMBLE:
            place = folder / OUT_OF_FOLD
        else:
            cell = Cell(variant, experiment.trainer(variant), configuration, int(fold))
            place = experiment.result_folder(cell, folders.results) / "validation"
        files.setdefault((variant, configuration), {})[case] = place / f"{case}{ending}"
    return files


def _notebook_column(
    experiment: Experiment,
    folder: Path,
    folders: NnunetFolders,
    table: pd.DataFrame,
    models: pd.DataFrame,
    notes: list[str],
) -> pd.Series:
    """Compute the notebooks' score for the rows of scope MEAN; NaN and a note where it cannot be computed."""
    column = pd.Series(np.nan, index=models.index)
    preprocessed = folders.preprocessed / experiment.dataset
    try:
        dataset = read_json(preprocessed / "dataset.json")
        labels, ending = dataset["labels"], str(dataset["file_ending"])
    except (DataError, KeyError) as error:
        notes.append(f"No score of the notebooks' protocol: {error}.")
        return column
    if sorted(map(str, labels.values())) != sorted(map(str, range(len(labels)))):
        notes.append("No score of the notebooks' protocol: it is defined for plain labels 0, 1, 2, ... only.")
        return column
    by_case: dict[tuple[str, str], list[dict[str, float]]] = {}
    for (variant, configuration), files in prediction_files(experiment, folder, folders, table, ending).items():
        references = {case: preprocessed / "gt_segmentations" / f"{case}{ending}" for case in files}
        try:
            scores = notebook_dice_by_case(files, references, len(labels))
        except DataError as error:
            notes.append(f"No score of the notebooks' protocol for {variant} {configuration}: {error}")
            scores = {}
        by_case.setdefault((recipe_of(variant), configuration), []).append(scores)
    for row in models.index[models["scope"] == MEAN]:
        repeats = by_case[str(models.at[row, "variant"]), str(models.at[row, "configuration"])]
        folds = [int(fold) for fold in str(models.at[row, "folds"]).split(",")]
        cases = set(table.loc[table["fold"].isin(folds), "case"])
        chosen = [[score for case, score in repeat.items() if case in cases] for repeat in repeats]
        column[row] = np.mean([np.mean(repeat) for repeat in chosen]) if all(chosen) else np.nan
    return column


def _trained_seconds(
    experiment: Experiment, folder: Path, folders: NnunetFolders, notes: list[str]
) -> dict[tuple[str, str], float]:
    """Average training time of a fold by recipe and configuration, from the manifest or nnU-Net's folders."""
    manifest = folder / "manifest.json"
    known: list[Mapping[str, Any]] = read_json(manifest)["folds"] if manifest.is_file() else []
    seconds: dict[tuple[str, str], list[float]] = {}
    for cell in experiment.cells():
        entries = [f for f in known if (f["variant"], f["configuration"], f["fold"]) == _key(cell)]
        summary = experiment.result_folder(cell, folders.results) / SUMMARY
        entry = entries[0] if entries else read_json(summary) if summary.is_file() else {}
        if entry.get("trained_seconds") is not None:
            key = (recipe_of(cell.variant), cell.configuration)
            seconds.setdefault(key, []).append(float(entry["trained_seconds"]))
    missing = {(recipe_of(c.variant), c.configuration) for c in experiment.cells()} - set(seconds)
    notes += [f"No training time is recorded for {' '.join(key)}." for key in sorted(missing)]
    return {key: float(np.mean(values)) for key, values in seconds.items()}


def _predict_seconds(experiment: Experiment, folder: Path, notes: list[str]) -> dict[tuple[str, str], float]:
    """Time of a test image where test images were predicted; a variant predicts with all complete configurations."""
    configurations = experiment.configurations_to_predict()
    together = "+".join(configurations)
    seconds: dict[tuple[str, str], list[float]] = {}
    for variant in (*experiment.variants, ENSEMBLE):
        benchmark = folder / "benchmarks" / "predict" / f"{variant}.tsv"
        images = len([p for p in (folder / "predictions" / variant).glob("[!.]*") if p.suffix not in (".json", ".pkl")])
        if benchmark.is_file() and images:
            taken = float(pd.read_csv(benchmark, sep="\t")["s"].iloc[0]) / images
            seconds.setdefault((recipe_of(variant), together), []).append(taken)
    if len(configurations) > 1:
        singles = {key[0]: np.mean(values) for key, values in seconds.items() if key[0] != ENSEMBLE}
        notes += [f"{recipe}: {taken:.1f} s a test image, {together} averaged." for recipe, taken in singles.items()]
    return {key: float(np.mean(values)) for key, values in seconds.items()}


def _key(cell: Cell) -> tuple[str, str, int]:
    return cell.variant, cell.configuration, cell.fold
