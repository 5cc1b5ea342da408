"""The markers of an experiment's jobs, and which of them each job needs.

A marker below `.done/` says that a job is finished. Paths are relative to the experiment's folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from hippo_nnunet.data.archive import task_files
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import DONE

PRODUCTS = ("predictions", "submission")
"""What can be made of the test images."""
_IMAGE, _RAW_IMAGE = re.compile(r"[^.].*\.nii(\.gz)?"), re.compile(r"[^.].*_[0-9]{4}\.[^/]+")


def ensemble_cells(experiment: Experiment) -> list[Cell]:
    """Return the trainings that can be members of the ensemble: those on all cases, of complete configurations."""
    complete, full = experiment.ensembled_configurations(), experiment.full_variants
    return [cell for cell in experiment.cells() if cell.configuration in complete and cell.variant in full]


def teachers(experiment: Experiment, variant: str, configuration: str, fold: int) -> list[Path]:
    """Return the markers of the trainings that have to be finished before a variant's, because it learns from them."""
    names = experiment.teachers(variant)
    return [
        cell.marker
        for cell in experiment.cells()
        if cell.trainer in names and (cell.configuration, cell.fold) == (configuration, fold)
    ]


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
        experiment: The request.
        products: What the data allows, of PRODUCTS.
    """
    markers = [DONE / "evaluate"]
    ensembled = bool(ensemble_cells(experiment))
    if "predictions" in products:
        markers += [DONE / "predict" / variant for variant in experiment.predicting_variants]
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
        source: The Decathlon task that it will be converted from, or its archive; one that is damaged is taken to hold
            test images.
    """
    if dataset.is_dir():
        images = test_images(dataset)
        archive = bool(images) and all(p.name.endswith(".nii.gz") for p in images)
        return PRODUCTS if archive else PRODUCTS[:1] if images else ()
    if source is None:
        return PRODUCTS
    try:
        paths = task_files(source)
    except DataError:  # its conversion reports it
        return PRODUCTS
    return PRODUCTS if any(path.parent.name == "imagesTs" and _IMAGE.fullmatch(path.name) for path in paths) else ()


def test_images(dataset: Path) -> list[Path]:
    """Return the test images of a raw dataset; other files in their folder, such as a README, are left out."""
    paths = (dataset / "imagesTs").glob("*")
    return [path for path in paths if _RAW_IMAGE.fullmatch(path.name) and path.is_file()]
