"""Damage to files at rest: cut off, emptied, overwritten in part, deleted, or of another time."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

from fault_world import DATASET, MODEL

PREPROCESSED = f"nnunet/nnUNet_preprocessed/{DATASET}"
RESULTS = f"nnunet/nnUNet_results/{DATASET}/{MODEL}"
CUT = ("cut", "emptied", "deleted")
"""What is done to tensors and pickles, which have no checksum."""
TEXT = (*CUT, "garbage")
PACKED = ("cut", "deleted", "garbage")
"""What is done to files that have a checksum."""
ONCE_PLANNED = ("prepared", "half", "fold0", "trained")


@dataclass(frozen=True)
class Target:
    """Files of which one is damaged.

    Attributes:
        name: As in docs/reliability.md.
        pattern: Glob below the experiment's folder.
        ways: How; one is drawn.
        stages: When something still reads it; one is drawn.
    """

    name: str
    pattern: str
    ways: tuple[str, ...]
    stages: tuple[str, ...]


TARGETS = (
    Target("checkpoint_latest", f"{RESULTS}/fold_*/checkpoint_latest.pth", CUT, ("half",)),
    Target("checkpoint_final", f"{RESULTS}/fold_*/checkpoint_final.pth", CUT, ("fold0", "trained", "ensembled")),
    Target("preprocessed image", f"{PREPROCESSED}/CompactPlans_2d/*.b2nd", CUT, ("prepared", "half", "fold0")),
    Target("preprocessed properties", f"{PREPROCESSED}/CompactPlans_2d/*.pkl", CUT, ("prepared", "half", "fold0")),
    Target("plans", f"{PREPROCESSED}/CompactPlans.json", TEXT, ONCE_PLANNED),
    Target("plans of the model", f"{RESULTS}/plans.json", TEXT, ("fold0", "trained", "ensembled")),
    Target("dataset.json of the model", f"{RESULTS}/dataset.json", TEXT, ("fold0", "trained", "ensembled")),
    Target("dataset.json, raw", f"nnunet/nnUNet_raw/{DATASET}/dataset.json", TEXT, ("converted",)),
    Target("dataset.json, preprocessed", f"{PREPROCESSED}/dataset.json", TEXT, ONCE_PLANNED),
    Target("splits_final.json", f"{PREPROCESSED}/splits_final.json", TEXT, ONCE_PLANNED),
    Target("references", f"{PREPROCESSED}/gt_segmentations/*.nii.gz", PACKED, ("trained", "ensembled")),
    Target("experiment.yaml", "experiment.yaml", TEXT, ("prepared", "fold0", "trained", "finished")),
    Target("record of the training", f"{RESULTS}/fold_*/hippo_training.json", TEXT, ("fold0", "trained", "ensembled")),
    Target("summary of the validation", f"{RESULTS}/fold_*/validation/summary.json", TEXT, ("fold0", "trained")),
    Target("softmax", f"{RESULTS}/fold_*/validation/*.npz", PACKED, ("fold0", "trained")),
    Target("geometry of the softmax", f"{RESULTS}/fold_*/validation/*.pkl", CUT, ("fold0", "trained")),
    Target("validation's segmentation", f"{RESULTS}/fold_*/validation/*.nii.gz", PACKED, ("fold0", "trained")),
    Target("choice of the ensemble", "ensemble/choice.json", TEXT, ("ensembled", "finished")),
    Target("ensemble's segmentation", "ensemble/out_of_fold/*.nii.gz", PACKED, ("ensembled",)),
    Target("per_case.csv", "metrics/per_case.csv", TEXT, ("finished",)),
    Target("summary.json", "metrics/summary.json", TEXT, ("finished",)),
    Target("prediction", "predictions/ensemble/*.nii.gz", PACKED, ("predicted",)),
    Target("manifest.json", "manifest.json", TEXT, ("finished",)),
)


def damage(path: Path, way: str, draw: random.Random) -> str:
    """Damage a file and say how."""
    content = path.read_bytes()
    if way == "deleted":
        path.unlink()
        return "deleted"
    if way == "emptied":
        path.write_bytes(b"")
        return "emptied"
    if way == "cut":
        kept = draw.randrange(1, max(2, len(content) - 1))
        path.write_bytes(content[:kept])
        return f"cut to {kept} of {len(content)} bytes"
    length = max(1, len(content) // 4)
    begin = draw.randrange(0, max(1, len(content) - length))
    # no byte of UTF-8, and no byte that it was
    garbage = bytes(0xFF if byte != 0xFF else 0xFE for byte in content[begin : begin + length])
    path.write_bytes(content[:begin] + garbage + content[begin + length :])
    return f"{length} bytes overwritten at {begin} of {len(content)}"


def shift_times(folder: Path, draw: random.Random) -> str:
    """Give a part of the files, or all, another time, as a clock that jumps does."""
    share = draw.choice((0.3, 1.0))
    spread = draw.choice((3600.0, 400 * 86400.0))
    common = draw.uniform(-spread, spread)
    each = draw.random() < 0.5
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and draw.random() < share]
    for path in files:
        moment = time.time() + (draw.uniform(-spread, spread) if each else common)
        os.utime(path, (moment, moment))
    return f"{len(files)} files shifted by {'up to ' if each else ''}{(spread if each else common) / 3600:.0f} h"
