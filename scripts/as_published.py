#!/usr/bin/env python3
"""Print one experiment's Dice as the table that `hippo-nnunet compare --against` takes, to compare two experiments.

python scripts/as_published.py results/task04-laptop --configuration 2d > float32.csv
hippo-nnunet compare results/task04-three --against float32.csv
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.experiment.paths import ExperimentPaths


def main() -> None:
    """Do what the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--configuration", default="2d")
    options = parser.parse_args()
    rows = read_per_case(ExperimentPaths(options.experiment).per_case)
    rows = rows[(rows["configuration"] == options.configuration) & (rows["variant"] != ENSEMBLE)]
    if rows.empty:
        sys.exit(f"{options.experiment}: no cases of configuration {options.configuration}")
    table = rows.pivot(index="case", columns=["variant", "label"], values="dice")
    table.columns = [f"{options.experiment.resolve().name}:{variant}_{label}" for variant, label in table.columns]
    table.to_csv(sys.stdout, float_format="%.6f")


if __name__ == "__main__":
    main()
