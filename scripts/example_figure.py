#!/usr/bin/env python3
"""Draw the README's picture: one case of an experiment, its reference and its out-of-fold prediction.

python scripts/example_figure.py DEMO_FOLDER docs/images/phantom.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pandas as pd

from hippo_nnunet.pages.figure import DASHES, EDGE
from hippo_nnunet.pages.palette import REFERENCE, label_colour


def draw(demo: Path, target: Path) -> None:
    """Draw the case of median Dice in three slices: reference in white, prediction dashed in its labels' colours."""
    table = pd.read_csv(demo / "experiment" / "metrics" / "per_case.csv")
    dice = table[table.variant == "AttentionUNet"].groupby("case").dice.mean().sort_values()
    case = dice.index[len(dice) // 2]
    fold = table.loc[table.case == case, "fold"].iloc[0]
    results = next((demo / "nnunet" / "nnUNet_results").glob("*/AttentionUNetTrainer*"))
    image, reference, prediction = (
        np.asarray(nibabel.load(path).dataobj)
        for path in (
            demo / "Task04_Phantom" / "imagesTr" / f"{case}.nii.gz",
            demo / "Task04_Phantom" / "labelsTr" / f"{case}.nii.gz",
            results / f"fold_{fold}" / "validation" / f"{case}.nii.gz",
        )
    )
    by_size = np.argsort((reference > 0).sum(axis=(0, 1)))
    slices = sorted(by_size[[-1, -6, -11]])
    figure, axes = plt.subplots(1, len(slices), figsize=(9, 3.6), constrained_layout=True)
    for axis, z in zip(axes, slices, strict=True):
        axis.imshow(image[:, :, z].T, cmap="gray", origin="lower")
        for mask, dashes in ((reference, "solid"), (prediction, DASHES)):
            for label in (1, 2):
                if (mask[:, :, z] == label).any():
                    outline = (mask[:, :, z] == label).T.astype(float)
                    colour = REFERENCE if mask is reference else label_colour(label - 1)
                    drawn = axis.contour(outline, [0.5], colors=colour, linestyles=[dashes], linewidths=1.5)
                    drawn.set_path_effects(EDGE)
        axis.set_title(f"slice {z}", fontsize=9)
        axis.axis("off")
    figure.suptitle(
        f"synthetic case {case}, Dice {dice[case]:.2f}: reference white, Attention U-Net dashed; "
        "anterior gold, posterior violet",
        fontsize=9,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
