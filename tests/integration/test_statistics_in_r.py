"""The statistics of a real experiment, computed again by R's packages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("boot", "coin", "psych", "sandwich")


def test_the_tables_of_an_experiment_agree_with_r(tmp_path: Path) -> None:
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    load = "; ".join(f"library({package})" for package in PACKAGES)
    if subprocess.run(["Rscript", "-e", load], capture_output=True, check=False).returncode:
        pytest.skip(f"R lacks one of the packages {', '.join(PACKAGES)}")
    experiment = tmp_path / "experiment"
    shutil.copytree(ROOT / "results" / "task04-laptop", experiment, ignore=shutil.ignore_patterns("submission"))
    script = ["Rscript", str(ROOT / "experiments" / "check_statistics.R"), str(experiment)]

    good = subprocess.run(script, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout + good.stderr

    table = experiment / "metrics" / "comparison.csv"
    header, first, *_ = table.read_text("utf-8").splitlines()
    cells = first.split('"')  # the folds are quoted, and the difference is the third number after them
    numbers = cells[2].split(",")
    numbers[3] = str(float(numbers[3]) + 1e-5)
    table.write_text("\n".join([header, '"'.join([cells[0], cells[1], ",".join(numbers), *cells[3:]])]), "utf-8")
    wrong = subprocess.run(script, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1, wrong.stdout + wrong.stderr
    assert "difference" in wrong.stdout
