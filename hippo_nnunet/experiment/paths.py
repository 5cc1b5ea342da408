"""Where everything lies in an experiment's folder, relative to it."""

from __future__ import annotations

from pathlib import Path

ENSEMBLE = "ensemble"
"""Name of the ensemble among the variants, and of its folder."""

FILE = "experiment.yaml"
MANIFEST = "manifest.json"
DONE = Path(".done")
"""Folder of the markers of finished jobs."""
PER_CASE = Path("metrics") / "per_case.csv"
COMPARISON = Path("metrics") / "comparison.csv"
VOLUMETRY = Path("metrics") / "volumetry.csv"
NOTEBOOK = Path("metrics") / "notebook_dice.csv"
TIMES = Path("metrics") / "prediction_times.csv"
VOLUMES = Path(ENSEMBLE) / "volumes.csv"
CHOICE = Path(ENSEMBLE) / "choice.json"
OUT_OF_FOLD = Path(ENSEMBLE) / "out_of_fold"
REPORT = Path("report") / "index.html"
