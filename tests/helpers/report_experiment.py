"""An experiment's folder with metrics, manifest, kept scores and training logs, made up without images or training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.evaluation.pairing import subset_size
from hippo_nnunet.evaluation.tables import COLUMNS
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.pages.report.viewers import ViewerFragment

DATASET = "Dataset004_Hippocampus"
LABELS = ("Anterior", "Posterior")
VARIANTS = ("UNet", "AttentionUNet", "CLIPGuidedUNet_mini", "CLIPGuidedUNet_randomText_mini")
NO_VIEWER = ViewerFragment("", "", "", ("No image is here.",))
STAMP = "2026-01-02 03:04:05.678901:"


def log_text(epochs: Sequence[int], loss: float = 0.5) -> str:
    """Return what nnU-Net writes in these epochs."""
    lines = ["", "#######", "This is the configuration used by this training:", f"{STAMP} do_dummy_2d_data_aug: False "]
    for epoch in epochs:
        lines += [
            f"{STAMP} Epoch {epoch} ",
            f"{STAMP} Current learning rate: 0.01 ",
            f"{STAMP} train_loss {loss / (epoch + 1):.4f} ",
            f"{STAMP} val_loss {2 * loss / (epoch + 1):.4f} ",
            f"{STAMP} Pseudo dice [np.float32(0.7), np.float32(0.9)] ",
            f"{STAMP} Epoch time: 25.44 s ",
        ]
    return "\n".join(lines) + "\n"


def write_log(fold: Path, text: str, name: str = "training_log_2026_1_2_03_04_05.txt") -> None:
    fold.mkdir(parents=True, exist_ok=True)
    (fold / name).write_text(text)


def write_experiment(
    folder: Path,
    variants: Sequence[str] = VARIANTS,
    cases: int = 20,
    folds: int = 2,
    labels: Sequence[str] = LABELS,
    prefix: str = "case_",
    epochs: int = 3,
) -> Experiment:
    """Write an experiment whose `AttentionUNet` is 0.02 Dice better than the others.

    Args:
        folder: Its folder.
        variants: Networks.
        cases: Cases, dealt out to the folds in turn.
        folds: Folds of the split, all of them trained.
        labels: Labels.
        prefix: What the cases' names begin with.
        epochs: Epochs in each training's log; 0 for none.
    """
    experiment = Experiment(DATASET, "laptop", tuple(variants), {"2d": tuple(range(folds))}, max(folds, 2))
    experiment.save(folder / "experiment.yaml")
    rng = np.random.default_rng(0)
    base = rng.normal(0.86, 0.03, (cases, len(labels))).clip(0.5, 0.97)
    rows: list[dict[str, Any]] = []
    scores = []
    for variant in variants:
        better = 0.02 if variant.startswith("AttentionUNet") else 0.0
        for case in range(cases):
            named = {"case": f"{prefix}{case}", "fold": case % folds, "variant": variant, "configuration": "2d"}
            for position, label in enumerate(labels):
                dice = min(1.0, base[case, position] + better + rng.normal(0, 0.004))
                reference = 1500 + 20 * case + 100 * position
                volumes = {"volume_ref_mm3": reference, "volume_mm3": reference + 30 + rng.normal(0, 80)}
                rows.append({**named, "label": label, "dice": dice, "nsd_1mm": 0.95, "hd95_mm": 1.5, "assd_mm": 0.3})
                rows[-1].update(volumes)
            scores.append({**named, "notebook_dice": 0.93 - better / 2 + rng.normal(0, 0.01)})
    (folder / "metrics").mkdir(parents=True)
    pd.DataFrame(rows)[list(COLUMNS)].to_csv(folder / "metrics" / "per_case.csv", index=False)
    pd.DataFrame(scores).to_csv(folder / "metrics" / "notebook_dice.csv", index=False)
    for cell in experiment.cells() if epochs else []:
        write_log(log_folder(experiment, folder, cell), log_text(range(epochs)))
    (folder / "manifest.json").write_text(json.dumps(manifest(experiment)))
    return experiment


def log_folder(experiment: Experiment, folder: Path, cell: Cell) -> Path:
    return experiment.result_folder(cell, folder / "nnunet" / "nnUNet_results")


def manifest(experiment: Experiment) -> dict[str, Any]:
    schedule = {"epochs": 3, "iterations": 100, "max_lr": 0.004, "weight_decay": 0.01}
    return {
        "written": "2026-01-02T03:04:05+00:00",
        "arguments": experiment.as_dict(),
        "device": "cpu",
        "machine": {"system": "Linux", "processor": "x86_64", "cpus": 2},
        "python": "3.11.7",
        "versions": {"torch": "2.8.0", "nnunetv2": "2.8.1"},
        "commit": None,
        "sha256": {"splits": "ab" * 32, "plans": None},
        "folds": [
            {
                "variant": cell.variant,
                "configuration": cell.configuration,
                "fold": cell.fold,
                "trained_seconds": 60.0,
                "training_cases": subset_size(cell.variant) or 40,
                "schedule": schedule,
                "seed": 0,
                "device": "cpu",
                "threads": 2,
            }
            for cell in experiment.cells()
        ],
    }
