"""Stale markers: those of jobs whose results, or those of a training that they use, are missing. Torch-free.

Only names of files are looked at, and the hashes of the few small files that the manifest records.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hippo_nnunet.data.subjects import Subjects
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.markers import ensemble_cells, evaluated, predictors, test_images
from hippo_nnunet.experiment.paths import DONE, RELATIVE, ExperimentPaths
from hippo_nnunet.files import hash_file, read_object
from hippo_nnunet.nnunet.finished import check_finished, is_finished, lacks_descriptions
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.plans import configuration_of, read_plans
from hippo_nnunet.nnunet.preprocessed import stored_cases
from hippo_nnunet.nnunet.splits import read_splits
from hippo_nnunet.nnunet.subset import trained_split

HASHED = (RELATIVE.per_case, RELATIVE.summary, RELATIVE.choice)
"""Results whose hash the manifest records."""


def stale_markers(experiment: Experiment, folder: Path, folders: NnunetFolders) -> list[Path]:
    """Return the markers of finished jobs that have to run again, relative to the experiment's folder.

    Their results are missing or damaged, or they use a training that has still to be done: one that the request has
    gained, such as another fold or configuration, or one whose results were deleted.

    Plans and preprocessed data count only while a training needs them.

    Raises:
        DataError: Plans or split cannot be read.
    """
    paths = ExperimentPaths(folder)
    files = {
        DONE / "evaluate": [paths.per_case, paths.summary],
        DONE / "ensemble": [paths.choice],
        DONE / "submission": [paths.submission(experiment.task)],
        DONE / "report": [paths.report],
    }
    altered = {folder / path for path in altered_results(folder)}
    stale = [marker for marker, own in files.items() if altered & {*own} or not all(path.exists() for path in own)]
    images = image_cases(experiment, folders)
    stale += [
        DONE / "predict" / variant
        for variant in (*experiment.variants, ENSEMBLE)
        if not (paths.predictions / variant).exists() or not has_all(paths.predictions / variant, images)
    ]
    if read_manifest(folder) is None:
        stale.append(DONE / "manifest")
    if _lacks_models(experiment, folder):
        stale += [DONE / "ensemble", DONE / "evaluate", DONE / "manifest"]
    if ensemble_cells(experiment) and not has_all(paths.out_of_fold, validation_cases(experiment, folders)):
        stale.append(DONE / "ensemble")
    trained = {cell.marker: experiment.result_folder(cell, folders.results) for cell in experiment.cells()}
    untrained = [marker for marker, fold in trained.items() if not is_finished(fold)]
    stale += untrained + [m for m, fold in trained.items() if m not in untrained and lacks_descriptions(fold)]
    if untrained:
        stale += stale_preparations(experiment, folders)
    # Snakemake does not make the missing inputs of a job whose output exists
    uses = {
        DONE / "ensemble": [cell.marker for cell in ensemble_cells(experiment)],
        DONE / "evaluate": evaluated(experiment),
    }
    uses |= {DONE / "predict" / v: predictors(experiment, v) for v in (*experiment.predicting_variants, ENSEMBLE)}
    for marker, inputs in uses.items():
        if any(used in stale or not (folder / used).exists() for used in inputs):
            stale.append(marker)
    return [marker for marker in dict.fromkeys(stale) if (folder / marker).exists()]


def altered_results(folder: Path) -> set[Path]:
    """Return those of HASHED that exist, but differ from what the experiment's last run wrote.

    Empty without a manifest, with one that holds no hashes, or with one that is older than the results.
    """
    written = [_modified_ns(folder / DONE / name) for name in ("ensemble", "evaluate", "manifest")]
    if written[-1] < max(written):
        return set()
    hashes = (read_manifest(folder) or {}).get("sha256")
    known = hashes if isinstance(hashes, dict) else {}
    return {
        path
        for path in HASHED
        if path.as_posix() in known and (folder / path).is_file() and file_hash(folder / path) != known[path.as_posix()]
    }


def _lacks_models(experiment: Experiment, folder: Path) -> bool:
    """Tell whether variants or folds of the last results have been deleted from the request."""
    try:
        arguments = {**(read_manifest(folder) or {}).get("arguments", {})}
        arguments.pop("plans", None)
        written = Experiment(**arguments)
    except (TypeError, AttributeError, ConfigError):  # of another version, or damaged
        return False
    return experiment.difference(written) is not None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the content of the manifest; None if it is missing or damaged."""
    try:
        return read_object(ExperimentPaths(folder).manifest)
    except DataError:
        return None


def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if there is none."""
    return hash_file(path) if path.is_file() else None


def has_all(folder: Path, cases: Iterable[str]) -> bool:
    """Tell whether a folder has a file of every case, with any file ending."""
    names = [path.name for path in folder.glob("[!.]*")]
    return all(any(name.startswith(f"{case}.") for name in names) for case in cases)


def image_cases(experiment: Experiment, folders: NnunetFolders) -> set[str]:
    """Return the cases of the test images: their names without channel and ending."""
    return {path.name.rpartition("_")[0] for path in test_images(folders.raw / experiment.dataset)}


def validation_cases(experiment: Experiment, folders: NnunetFolders) -> set[str]:
    """Return the cases of the split; empty if there is no split yet.

    Raises:
        DataError: The split cannot be read.
    """
    return {case for split in read_splits(experiment.dataset, folders) or [] for case in split["val"]}


def stale_preparations(experiment: Experiment, folders: NnunetFolders) -> list[Path]:
    """Return the markers of the jobs that a training needs again, because plans or preprocessed cases are missing.

    Each comes with the jobs between it and the training: Snakemake runs only jobs whose outputs another job asks for.

    Args:
        experiment: The request; some of it is to be trained or validated.
        folders: nnU-Net's folders.

    Raises:
        DataError: Plans or split cannot be read.
    """
    folder = folders.preprocessed / experiment.dataset
    plans = folder / f"{experiment.plans}.json"
    if plans.is_file():
        content = read_object(plans)
        known = content.get("configurations", {})
        identifiers = {
            c: configuration_of(content, c).get("data_identifier", c) if c in known else c for c in experiment.folds
        }
        cases = validation_cases(experiment, folders)
        stale = [
            DONE / "preprocess" / c
            for c, name in identifiers.items()
            if not (folder / name).is_dir() or not cases <= stored_cases(folder / name)
        ]
    else:
        stale = [DONE / "plan", *(DONE / "preprocess" / c for c in experiment.folds)]
    if stale and not (folders.raw / experiment.dataset / "dataset.json").is_file():
        stale = [DONE / "data", DONE / "plan", *stale]
    return list(dict.fromkeys(stale))


def check_trained(experiment: Experiment, folders: NnunetFolders, subjects: Subjects) -> None:
    """Refuse folds that are trained already, but by another schedule or with other plans or cases than now.

    Args:
        experiment: The request.
        folders: nnU-Net's folders.
        subjects: Of `split_subjects`.

    Raises:
        ConfigError: Names the fold and what differs.
        DataError: Plans or split cannot be read.
    """
    plans_file = folders.preprocessed / experiment.dataset / f"{experiment.plans}.json"
    if not plans_file.is_file():
        return
    plans = read_plans(experiment.dataset, experiment.plans, folders)
    splits = read_splits(experiment.dataset, folders) or []
    for cell in experiment.cells():
        folder = experiment.result_folder(cell, folders.results)
        if is_finished(folder):
            split = splits[cell.fold] if cell.fold < len(splits) else None
            split = split and trained_split(cell.trainer, cell.fold, split, subjects)
            check_finished(folder, cell.trainer, plans, cell.configuration, split)


def _modified_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
