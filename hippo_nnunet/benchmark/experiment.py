"""How long a whole experiment of `hippo-nnunet run` took, read from what it left."""

from __future__ import annotations

import csv
from pathlib import Path

from hippo_nnunet.benchmark.document import OURS, Result
from hippo_nnunet.errors import DataError
from hippo_nnunet.nnunet.preprocessed import read_json
from hippo_nnunet.workflow.experiment import FILE, Experiment


def benchmark_experiment(folder: Path) -> Result:
    """Add up the wall-clock time of every job of an experiment.

    Args:
        folder: A finished experiment.

    Returns:
        `seconds` is the sum over all jobs, which is the run's wall-clock time where one job ran at a time, but for
        Snakemake's own start.

    Raises:
        ConfigError: It is not an experiment.
        DataError: It is not finished, or a job's time is missing.
    """
    experiment = Experiment.load(folder / FILE)
    manifest = read_json(folder / "manifest.json")
    seconds = {}
    for file in sorted((folder / "benchmarks").rglob("*.tsv")):
        with file.open(newline="") as rows:
            seconds["/".join(file.relative_to(folder / "benchmarks").with_suffix("").parts)] = [
                float(row["s"]) for row in csv.DictReader(rows, delimiter="\t")
            ][-1]
    trainings = sum(name.startswith("train/") for name in seconds)
    if trainings != len(experiment.cells()):
        raise DataError(
            f"{folder}: times of {trainings} trainings are there, {len(experiment.cells())} belong to it: finish it "
            "with 'hippo-nnunet run'"
        )
    summary = read_json(folder / "metrics" / "summary.json")
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
        "resumed_trainings": sum(bool(fold.get("resumed")) for fold in manifest["folds"]),
        "dice": {
            f"{variant} {configuration}": entry["foreground_mean"]["dice"]["mean"]
            for variant, configurations in summary.items()
            for configuration, entry in configurations.items()
        },
    }
    note = "seconds is the sum over all jobs, the wall-clock time with --jobs 1; a resumed job counts its last part"
    return Result("experiment", settings, {OURS: {"seconds": [sum(seconds.values())]}}, checks, (note,))
