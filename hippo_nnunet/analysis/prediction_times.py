"""Prediction times of the test images: from Snakemake's benchmarks, saved in `metrics/prediction_times.csv`."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pandas as pd

from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import ENSEMBLE, recipe_of
from hippo_nnunet.experiment.benchmarks import benchmark_seconds
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_table

COLUMNS = ("variant", "configuration", "images", "seconds")
"""The columns of the file: `seconds` is the wall-clock time of the job, start-up included."""


def prediction_times(experiment: Experiment, folder: Path) -> pd.DataFrame:
    """Return how long each variant, and the ensemble, took for all test images.

    A variant predicts with all complete configurations together, which `configuration` names: `2d+3d_fullres`.

    Returns:
        COLUMNS: from the benchmarks where these and the predicted images exist, else from the saved table.

    Raises:
        DataError: A file cannot be read.
    """
    paths = ExperimentPaths(folder)
    configurations = experiment.configurations_to_predict()
    saved = read_table(paths.prediction_times, COLUMNS)
    rows = {} if saved is None else {row["variant"]: row for row in saved.to_dict("records")}
    for variant in (*experiment.variants, ENSEMBLE):
        configuration = "+".join(c for c in configurations if variant == ENSEMBLE or experiment.fits(variant, c))
        benchmark = paths.benchmarks / "predict" / f"{variant}.tsv"
        images = len([p for p in (paths.predictions / variant).glob("[!.]*") if p.suffix not in (".json", ".pkl")])
        if benchmark.is_file() and images:
            values = (variant, configuration, images, benchmark_seconds(benchmark))
            rows[variant] = dict(zip(COLUMNS, values, strict=True))
    return pd.DataFrame(rows.values(), columns=list(COLUMNS))


def seconds_per_image(times: pd.DataFrame) -> tuple[dict[tuple[str, str], float], list[Note]]:
    """Average the time of a test image over a recipe's repeats.

    Args:
        times: Of `prediction_times`.

    Returns:
        Seconds by recipe and configuration, and notes on what they are.
    """
    seconds: dict[tuple[str, str], list[float]] = {}
    for row in times.to_dict("records"):
        model = recipe_of(str(row["variant"])), str(row["configuration"])
        seconds.setdefault(model, []).append(row["seconds"] / row["images"])
    means = {model: fmean(values) for model, values in seconds.items()}
    notes = []
    if means:
        images = " or ".join(map(str, sorted(times["images"].unique())))
        text = (
            f"Seconds per image: wall-clock time of predicting {images} test images with all trained folds and "
            "mirroring, start and loading included, divided by their number."
        )
        notes.append(Note(NoteKind.TIME_PER_IMAGE, text))
    notes += [
        Note(NoteKind.MODEL_TIME, f"{recipe}: {mean:.1f} s per test image, {configuration} averaged.")
        for (recipe, configuration), mean in means.items()
        if "+" in configuration and recipe != ENSEMBLE
    ]
    return means, notes
