#!/usr/bin/env python3
"""Print the table of results of docs/results.md from an experiment's folder.

python scripts/results_table.py results/task04-laptop
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_object

HEADER = ("variant", "configuration", "folds", "cases", "Dice ant. / post. / mean", "NSD 1 mm", "HD95", "min per fold")


def results_table(experiment: Path) -> str:
    """Return a Markdown table of `metrics/summary.json` and `manifest.json`; figures are means over cases."""
    paths = ExperimentPaths(experiment)
    summary, manifest = read_object(paths.summary), read_object(paths.manifest)
    rows = [HEADER, ("---",) * len(HEADER)]
    for variant, configurations in summary.items():
        for configuration, entry in configurations.items():
            dice = [entry["labels"][label]["dice"]["mean"] for label in entry["labels"]]
            mean = entry["foreground_mean"]
            seconds = [
                fold["trained_seconds"]
                for fold in manifest["folds"]
                if (fold["variant"], fold["configuration"]) == (variant, configuration) and fold["trained_seconds"]
            ]
            rows.append(
                (
                    variant,
                    configuration,
                    str(len(entry["folds"])),
                    str(entry["cases"]),
                    " / ".join(f"{d:.4f}" for d in [*dice, mean["dice"]["mean"]]),
                    f"{mean['nsd_1mm']['mean']:.4f}",
                    f"{mean['hd95_mm']['mean']:.2f} mm",
                    f"{statistics.mean(seconds) / 60:.1f}" if seconds else "",
                )
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(results_table(Path(sys.argv[1])))
