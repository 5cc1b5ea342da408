"""What Snakemake measured of an experiment's jobs."""

from __future__ import annotations

import csv
from pathlib import Path

from hippo_nnunet.errors import DataError


def benchmark_seconds(file: Path) -> float:
    """Return how long a job took.

    Args:
        file: Below `ExperimentPaths.benchmarks`.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with file.open(newline="") as rows:
            return float(next(csv.DictReader(rows, delimiter="\t"))["s"])
    except (OSError, StopIteration, KeyError, TypeError, ValueError) as error:
        reason = str(error) or "no row of figures"
        raise DataError(f"{file} cannot be read as a benchmark ({reason}): delete it") from error
