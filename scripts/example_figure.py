#!/usr/bin/env python3
"""Draw cases of an experiment with the expert's outlines and those of their out-of-fold predictions.

python scripts/example_figure.py task04 Task04_Hippocampus docs/images/out_of_fold.png --variant UNet -c 3d_fullres

The cases are those at the 10th, 50th and 90th percentile of Dice.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import nibabel
import numpy as np

from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.pages.figure import DASHES, EDGE
from hippo_nnunet.pages.palette import REFERENCE, label_colour

PERCENTILES = (10, 50, 90)
PLANES = {"sagittal": 0, "axial": 2}


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("task", type=Path, help="folder with imagesTr and labelsTr")
    parser.add_argument("target", type=Path)
    parser.add_argument("--variant", default="UNet")
    parser.add_argument("--configuration", "-c", default="3d_fullres")
    options = parser.parse_args()
    figure, axes = plt.subplots(len(PLANES), len(PERCENTILES), figsize=(9, 5.6), constrained_layout=True)
    found = cases(ExperimentPaths(options.experiment), options.variant, options.configuration)
    for column, (case, dice, prediction) in enumerate(found):
        files = (options.task / "imagesTr" / f"{case}.nii.gz", options.task / "labelsTr" / f"{case}.nii.gz", prediction)
        arrays = [np.asarray(nibabel.as_closest_canonical(nibabel.load(file)).dataobj) for file in files]
        for axis, across in zip(axes[:, column], PLANES.values(), strict=True):
            show(axis, arrays, across)
        axes[0, column].set_title(f"{case}: Dice {dice:.3f}", fontsize=9)
    for axis, plane in zip(axes[:, 0], PLANES, strict=True):
        axis.set_ylabel(plane, fontsize=9)
    options.target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.target, dpi=110)


def cases(paths: ExperimentPaths, variant: str, configuration: str) -> list[tuple[str, float, Path]]:
    """Return the cases at the percentiles, their Dice and their out-of-fold predictions."""
    table = read_per_case(paths.per_case)
    table = table[(table["variant"] == variant) & (table["configuration"] == configuration)]
    dice = table.groupby("case")["dice"].mean().sort_values()
    folds = table.set_index("case")["fold"].to_dict()
    experiment = Experiment.load(paths.request)
    model = paths.nnunet(None).results / experiment.dataset / experiment.model(variant, configuration)
    chosen = [str(dice.index[round((len(dice) - 1) * percentile / 100)]) for percentile in PERCENTILES]
    return [(c, float(dice[c]), model / f"fold_{folds[c]}" / "validation" / f"{c}.nii.gz") for c in chosen]


def show(axis: Any, arrays: list[np.ndarray], across: int) -> None:
    """Show image, reference and prediction in the slice with the largest reference; anterior on the left or on top."""
    reference = arrays[1]
    others = tuple(other for other in range(3) if other != across)
    place = int((reference > 0).sum(axis=others).argmax())
    turned = [array.take(place, axis=across).T for array in arrays]
    image, *masks = [array[:, ::-1] if across == 0 else array for array in turned]
    axis.imshow(image, cmap="gray", origin="lower")
    for mask, dashes in zip(masks, ("solid", DASHES), strict=True):
        for label in (1, 2):
            if (mask == label).any():
                colour = REFERENCE if dashes == "solid" else label_colour(label - 1)
                outline = axis.contour(mask == label, [0.5], colors=colour, linestyles=[dashes], linewidths=1.5)
                outline.set_path_effects(EDGE)
    axis.set(xticks=[], yticks=[])


if __name__ == "__main__":
    main()
