"""Which markers an experiment ends with, what each needs, and which of them lie.

A marker below `.done/` says that a job is done. Paths are relative to the experiment's folder.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.experiment import damage
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import DONE, ExperimentPaths
from hippo_nnunet.nnunet.finished import check_finished, is_finished, lacks_descriptions
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import read_plans

PRODUCTS = ("predictions", "submission")
"""What is made of the test images."""


def ensemble_cells(experiment: Experiment) -> list[Cell]:
    """Return the trainings that can be members of the ensemble: those of complete configurations."""
    complete = experiment.complete_configurations()
    return [cell for cell in experiment.cells() if cell.configuration in complete]


def evaluated(experiment: Experiment) -> list[Path]:
    """Return the markers that the metrics need: every training, and the ensemble where there can be one."""
    markers = [cell.marker for cell in experiment.cells()]
    return [*markers, DONE / "ensemble"] if ensemble_cells(experiment) else markers


def predictors(experiment: Experiment, variant: str) -> list[Path]:
    """Return the markers that predicting the test images with a variant, or with the ensemble, needs."""
    if variant == ENSEMBLE:
        return [DONE / "ensemble"]
    wanted = experiment.configurations_to_predict()
    return [c.marker for c in experiment.cells() if c.variant == variant and c.configuration in wanted]


def results(experiment: Experiment, products: Collection[str]) -> list[Path]:
    """Return the markers of everything but the manifest and the report.

    Args:
        experiment: What was asked.
        products: What the data allows, of PRODUCTS.
    """
    markers = [DONE / "evaluate"]
    ensembled = bool(ensemble_cells(experiment))
    if "predictions" in products:
        markers += [DONE / "predict" / variant for variant in experiment.variants]
        markers += [DONE / "predict" / ENSEMBLE] if ensembled else []
    if "submission" in products and ensembled:
        markers.append(DONE / "submission")
    return markers


def final(experiment: Experiment, products: Collection[str]) -> list[Path]:
    """Return the markers that the workflow ends with."""
    return [*results(experiment, products), DONE / "manifest", DONE / "report"]


def all_markers(experiment: Experiment, products: Collection[str]) -> list[Path]:
    """Return the marker of every job, in the order of the work."""
    first = [DONE / "data", DONE / "plan", *(DONE / "preprocess" / c for c in experiment.folds)]
    return [*first, *evaluated(experiment), *final(experiment, products)]


def products_of(dataset: Path, source: Path | None) -> tuple[str, ...]:
    """Tell what can be made of the test images: predictions where there are some, an archive where they are .nii.gz.

    Args:
        dataset: The dataset's raw folder, which need not exist yet.
        source: The Decathlon task that it will be converted from; an archive is taken to hold test images.
    """
    if dataset.is_dir():
        images = [p for p in (dataset / "imagesTs").glob("[!.]*") if p.is_file()]
        archive = bool(images) and all(p.name.endswith(".nii.gz") for p in images)
        return PRODUCTS if archive else PRODUCTS[:1] if images else ()
    if source is None or source.is_file() or any((source / "imagesTs").glob("[!.]*")):
        return PRODUCTS
    return ()


def lost(experiment: Experiment, folder: Path, folders: NnunetFolders) -> list[Path]:
    """Return the markers that lie although what they stand for is gone or damaged.

    Plans and preprocessed data count only while a training needs them.

    Args:
        experiment: What was asked.
        folder: The experiment's folder.
        folders: nnU-Net's folders.

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
    damaged = {folder / path for path in damage.changed(folder)}
    gone = [marker for marker, own in files.items() if damaged & {*own} or not all(path.exists() for path in own)]
    predicted = {marker: paths.predictions / marker.name for marker in _predictions(experiment)}
    cases = damage.test_cases(experiment, folders)
    gone += [marker for marker, path in predicted.items() if not path.exists() or not damage.holds(path, cases)]
    if not damage.is_manifest(folder):
        gone.append(DONE / "manifest")
    validated = damage.validation_cases(experiment, folders) if ensemble_cells(experiment) else set()
    if not damage.holds(paths.out_of_fold, validated):
        gone.append(DONE / "ensemble")
    trained = {c.marker: experiment.result_folder(c, folders.results) for c in experiment.cells()}
    untrained = [marker for marker, fold in trained.items() if not is_finished(fold)]
    gone += untrained + [m for m, fold in trained.items() if m not in untrained and lacks_descriptions(fold)]
    if untrained:
        gone += damage.lost_preparations(experiment, folders)
    return [marker for marker in dict.fromkeys(gone) if (folder / marker).exists()]


def _predictions(experiment: Experiment) -> list[Path]:
    return [DONE / "predict" / name for name in (*experiment.variants, ENSEMBLE)]


def check_trained(experiment: Experiment, folders: NnunetFolders) -> None:
    """Refuse folds that are trained already, but by another schedule or with other plans than now.

    Raises:
        ConfigError: Names the fold and what differs.
    """
    plans_file = folders.preprocessed / experiment.dataset / f"{experiment.plans}.json"
    if not plans_file.is_file():
        return
    plans = read_plans(experiment.dataset, experiment.plans, folders)
    for cell in experiment.cells():
        folder = experiment.result_folder(cell, folders.results)
        if is_finished(folder):
            check_finished(folder, cell.trainer, plans, cell.configuration)
