#!/usr/bin/env python3
"""Print one experiment's Dice as the table that `hippo-nnunet compare --against` takes, to compare two experiments.

python scripts/as_published.py results/task04-laptop --configuration 2d > float32.csv
hippo-nnunet compare results/task04-three --against float32.csv
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd


def main() -> None:
    """Do what the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--configuration", default="2d")
    options = parser.parse_args()
    rows = pd.read_csv(options.experiment / "metrics" / "per_case.csv")
    rows = rows[(rows["configuration"] == options.configuration) & (rows["variant"] != "ensemble")]
    if rows.empty:
        sys.exit(f"{options.experiment}: no cases of configuration {options.configuration}")
    table = rows.pivot(index="case", columns=["variant", "label"], values="dice")
    table.columns = [f"{options.experiment.resolve().name}:{variant}_{label}" for variant, label in table.columns]
    table.to_csv(sys.stdout, float_format="%.6f")


if __name__ == "__main__":
    main()
