"""How long the test images took to predict: read from Snakemake's benchmarks, and kept in `metrics/`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import ENSEMBLE, recipe_of
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_table

COLUMNS = ("variant", "configuration", "images", "seconds")
"""The columns of the file: `seconds` is the wall-clock time of the whole job, its start and loading included."""


def prediction_times(experiment: Experiment, folder: Path) -> pd.DataFrame:
    """Tell how long each variant, and the ensemble, took for all test images.

    A variant predicts with all complete configurations together, which `configuration` names: `2d+3d_fullres`.

    Args:
        experiment: What was asked.
        folder: The experiment's folder.

    Returns:
        COLUMNS: from the benchmarks where these and the predicted images are there, else what the folder keeps.

    Raises:
        DataError: A file cannot be read.
    """
    configuration = "+".join(experiment.configurations_to_predict())
    paths = ExperimentPaths(folder)
    kept = read_table(paths.prediction_times, COLUMNS)
    rows = {} if kept is None else {row["variant"]: row for row in kept.to_dict("records")}
    for variant in (*experiment.variants, ENSEMBLE):
        benchmark = paths.benchmarks / "predict" / f"{variant}.tsv"
        images = len([p for p in (paths.predictions / variant).glob("[!.]*") if p.suffix not in (".json", ".pkl")])
        if benchmark.is_file() and images:
            try:
                seconds = float(pd.read_csv(benchmark, sep="\t")["s"].iloc[0])
            except (OSError, ValueError, KeyError, IndexError) as error:
                raise DataError(f"{benchmark} cannot be read as a benchmark ({error}): delete it") from error
            rows[variant] = dict(zip(COLUMNS, (variant, configuration, images, seconds), strict=True))
    return pd.DataFrame(rows.values(), columns=list(COLUMNS))


def seconds_per_image(times: pd.DataFrame, notes: list[Note]) -> dict[tuple[str, str], float]:
    """Average the time of a test image over a recipe's repeats, and say in `notes` what it is.

    Args:
        times: Of `prediction_times`.
        notes: Gets what is to be said of them.

    Returns:
        Seconds by recipe and configuration.
    """
    seconds: dict[tuple[str, str], list[float]] = {}
    for row in times.to_dict("records"):
        key = recipe_of(str(row["variant"])), str(row["configuration"])
        seconds.setdefault(key, []).append(row["seconds"] / row["images"])
    means = {key: float(np.mean(values)) for key, values in seconds.items()}
    if means:
        counts = sorted(times["images"].unique())
        text = (
            f"Seconds an image: wall-clock time of predicting {' or '.join(map(str, counts))} test images with all "
            "trained folds and mirroring, start and loading included, divided by their number."
        )
        notes.append(Note(NoteKind.TIME_PER_IMAGE, text))
    notes += [
        Note(NoteKind.MODEL_TIME, f"{recipe}: {taken:.1f} s a test image, {together} averaged.")
        for (recipe, together), taken in means.items()
        if "+" in together and recipe != ENSEMBLE
    ]
    return means
