"""An experiment's folder as `run` leaves it, with phantom images, references and predictions, made without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.evaluation.tables import COLUMNS
from hippo_nnunet.experiment.experiment import Cell, Experiment

DATASET = "Dataset777_Phantom"
LABELS = {"background": 0, "front": 1, "back": 2}


def phantom(shape: tuple[int, int, int] = (20, 26, 16)) -> tuple[np.ndarray, np.ndarray]:
    """Dark image and two touching blocks, (x, y, z) of the file, which no flip or turn maps onto itself."""
    label = np.zeros(shape, np.uint8)
    label[5:12, 6:13, 4:10] = 1
    label[5:9, 13:20, 4:8] = 2
    image = np.random.default_rng(0).uniform(0, 100, shape)
    return image, label


def shifted(label: np.ndarray, by: int, axis: int = 0) -> np.ndarray:
    return np.roll(label, by, axis)


@dataclass
class FakeExperiment:
    """Writes an experiment case by case.

    Attributes:
        folder: The experiment's; nnU-Net's root is `nnunet` in it.
        affine: Of every file.
    """

    folder: Path
    variants: Sequence[str] = ("UNet", "AttentionUNet")
    affine: np.ndarray = field(default_factory=lambda: np.diag([1.0, 1.0, 1.0, 1.0]))
    labels: Mapping[str, Any] = field(default_factory=lambda: dict(LABELS))
    more: Mapping[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.experiment = Experiment(DATASET, "laptop", tuple(self.variants), {"2d": (0,)}, 1)
        self.experiment.save(self.folder / "experiment.yaml")
        description = {"channel_names": {"0": "MRI"}, "labels": self.labels, "file_ending": ".nii.gz", "numTraining": 0}
        for folder in (self.raw, self.preprocessed):
            folder.mkdir(parents=True)
            (folder / "dataset.json").write_text(json.dumps({**description, **self.more}))

    @property
    def root(self) -> Path:
        return self.folder / "nnunet"

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / DATASET

    def image(self, case: str) -> Path:
        return self.raw / "imagesTr" / f"{case}_0000.nii.gz"

    def reference(self, case: str) -> Path:
        return self.preprocessed / "gt_segmentations" / f"{case}.nii.gz"

    def prediction(self, case: str, variant: str) -> Path:
        if variant == ENSEMBLE:
            return self.folder / "ensemble" / "out_of_fold" / f"{case}.nii.gz"
        cell = Cell(variant, self.experiment.trainer(variant), "2d", 0)
        results = self.experiment.result_folder(cell, self.root / "nnUNet_results")
        return results / "validation" / f"{case}.nii.gz"

    def write(self, array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, self.affine if affine is None else affine), path)

    def add(
        self,
        case: str,
        image: np.ndarray,
        reference: np.ndarray,
        predictions: Mapping[str, np.ndarray],
        use: Callable[[np.ndarray], np.ndarray] = lambda reference: np.ones(reference.shape, bool),
    ) -> None:
        """Write a case, and measure its predictions where `use` says."""
        self.write(image.astype(np.float32), self.image(case))
        self.write(reference.astype(np.uint8), self.reference(case))
        used = use(reference)
        for variant, prediction in predictions.items():
            self.write(prediction.astype(np.uint8), self.prediction(case, variant))
            for name, value in self.labels.items():
                if name in ("background", "ignore"):
                    continue
                one, other = np.isin(reference, value) & used, np.isin(prediction, value) & used
                total = one.sum() + other.sum()
                dice = 2 * (one & other).sum() / total if total else np.nan
                row = {"case": case, "fold": 0, "variant": variant, "configuration": "2d", "label": name, "dice": dice}
                self.rows.append({**dict.fromkeys(COLUMNS, 1.0), **row})

    def measure(self) -> Path:
        """Write the table of metrics; returns the experiment's folder."""
        (self.folder / "metrics").mkdir()
        pd.DataFrame(self.rows)[list(COLUMNS)].to_csv(self.folder / "metrics" / "per_case.csv", index=False)
        return self.folder
