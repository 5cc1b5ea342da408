"""How long a whole experiment of `hippo-nnunet run` took, from its recorded times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.document import OURS, Result
from hippo_nnunet.errors import DataError
from hippo_nnunet.experiment.benchmarks import benchmark_seconds
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_json


def benchmark_experiment(folder: Path) -> Result:
    """Add up the wall-clock time of every job of an experiment.

    Args:
        folder: A finished experiment.

    Returns:
        `seconds` is the sum over all jobs, which is the run's wall-clock time where one job ran at a time, but for
        Snakemake's own start. A training that was already finished counts with its original time.

    Raises:
        ConfigError: It is not an experiment.
        DataError: It is not finished, or a job's time is missing.
    """
    paths = ExperimentPaths(folder)
    experiment = Experiment.load(paths.request)
    manifest = read_json(paths.manifest)
    seconds = {}
    for file in sorted(paths.benchmarks.rglob("*.tsv")):
        seconds["/".join(file.relative_to(paths.benchmarks).with_suffix("").parts)] = benchmark_seconds(file)
    trainings = sum(name.startswith("train/") for name in seconds)
    if trainings != len(experiment.cells()):
        raise DataError(
            f"{folder}: times of {trainings} trainings are there, {len(experiment.cells())} belong to it: finish it "
            "with 'hippo-nnunet run'"
        )
    summary = read_json(paths.summary)
    try:
        return _result(experiment, manifest, summary, seconds)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{folder}: manifest.json or metrics/summary.json is not whole ({type(error).__name__}: {error}): finish "
            "it with 'hippo-nnunet run'"
        ) from error


def _result(experiment: Experiment, manifest: Any, summary: Any, seconds: dict[str, float]) -> Result:
    found = 0
    for fold in manifest["folds"]:
        name = f"train/{fold['variant']}/{fold['configuration']}/fold_{fold['fold']}"
        if not fold.get("resumed") and seconds[name] < fold["trained_seconds"]:
            seconds[name] = fold["trained_seconds"]
            found += 1
    settings = {
        "dataset": experiment.dataset,
        "preset": experiment.preset,
        "variants": list(experiment.variants),
        "folds": {configuration: len(folds) for configuration, folds in experiment.folds.items()},
        "cases": max(entry["cases"] for configurations in summary.values() for entry in configurations.values()),
        "device": manifest["device"],
        "cores": manifest["machine"]["cpus"],
    }
    checks = {
        "training_seconds": sum(value for name, value in seconds.items() if name.startswith("train/")),
        "found_trainings": found,
        "resumed_trainings": sum(bool(fold.get("resumed")) for fold in manifest["folds"]),
        "dice": {
            f"{variant} {configuration}": entry["foreground_mean"]["dice"]["mean"]
            for variant, configurations in summary.items()
            for configuration, entry in configurations.items()
        },
    }
    note = (
        "seconds is the sum over all jobs, the wall-clock time with --jobs 1; a resumed job counts its last part, a "
        "training that was found finished what it took then, without its validation"
    )
    return Result("experiment", settings, {OURS: {"seconds": [sum(seconds.values())]}}, checks, (note,))
