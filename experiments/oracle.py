"""What an oracle would reach that knew for each case which published method is best.

    python -m experiments.oracle results/reference/nnunet_3d_1000epochs.csv

The file is that of `hippo-nnunet compare --against`: `case`, `<method>_Anterior`, `<method>_Posterior`. Printed are the
mean Dice of each method, that of the best method for each case, and how the methods' Dice correlates over the cases.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from hippo_nnunet.evaluation.per_case import read_published
from hippo_nnunet.files import read_csv

LABELS = ("Anterior", "Posterior")


def main() -> None:
    """Print the figures of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    print(oracle_text(parser.parse_args().file))


def oracle_text(file: Path) -> str:
    """Return the lines to print."""
    cases = [str(case) for case in read_csv(file)["case"]]
    published = read_published(file, LABELS, cases)
    dice = pd.DataFrame({method: table.mean(axis=1) for method, table in published.items()})
    lines = [f"{method}: {mean:.4f}" for method, mean in dice.mean().items()]
    lines.append(f"the best for each of {len(dice)} cases: {dice.max(axis=1).mean():.4f}")
    return "\n".join([*lines, f"least correlation of two methods over the cases: {dice.corr().min(axis=None):.2f}"])


if __name__ == "__main__":
    main()
