"""Makes the world of the bad-input tests: a task, nnU-Net's folders, an experiment, predictions, all of them right."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from bad_input import CASES, DATASET, SHAPE, TEST_CASES, World

from hippo_nnunet.inference.submission import write_submission

LABELS = {"background": 0, "Anterior": 1, "Posterior": 2}
CONFIGURATIONS = ("2d", "3d_fullres")


def make_world(base: Path) -> World:
    """Write everything below a folder."""
    world = World(base)
    (base / "tmp").mkdir(parents=True)
    _write_task(world.at("{task}"))
    with tarfile.open(base / "Task04_Phantom.tar", "w") as archive:
        archive.add(world.at("{task}"), "Task04_Phantom")
    _write_raw(world.at("{raw}"))
    _write_preprocessed(world.at("{pre}"))
    _write_model(world.at("{model}"), world.at("{pre}"))
    _write_experiment(world.at("{experiment}"))
    for number, case in enumerate(TEST_CASES):
        save(label(number), world.at("{predictions}") / f"{case}.nii.gz")
    write_submission(
        world.at("{predictions}"), world.at("{images}"), world.at("{zip}"), "Task04_Phantom", labels={0, 1, 2}
    )
    return world


def intensities(seed: int) -> np.ndarray:
    """An image, (x, y, z)."""
    return np.random.default_rng(seed).integers(1, 200, SHAPE).astype(np.float32)


def label(seed: int) -> np.ndarray:
    """A label image, (x, y, z), with both structures."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 1 : 3 + seed % 3, 1:4] = 1
    labels[3:5, 1:4, 1 : 3 + seed // 3] = 2
    return labels


def save(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> None:
    """Write a NIfTI file, and the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    made.set_qform(made.affine, 1)
    nib.save(made, path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, and the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _write_task(task: Path) -> None:
    for number, case in enumerate(CASES):
        save(intensities(number), task / "imagesTr" / f"{case}.nii.gz")
        save(label(number), task / "labelsTr" / f"{case}.nii.gz")
    for number, case in enumerate(TEST_CASES):
        save(intensities(100 + number), task / "imagesTs" / f"{case}.nii.gz")
    write_json(
        task / "dataset.json",
        {
            "name": "Phantom",
            "modality": {"0": "MRI"},
            "labels": {str(value): name for name, value in LABELS.items()},
            "numTraining": len(CASES),
            "numTest": len(TEST_CASES),
            "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in CASES],
            "test": [f"./imagesTs/{c}.nii.gz" for c in TEST_CASES],
        },
    )


def _description() -> dict[str, Any]:
    return {
        "channel_names": {"0": "MRI"},
        "labels": LABELS,
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }


def _write_raw(raw: Path) -> None:
    for number, case in enumerate(CASES):
        save(intensities(number), raw / "imagesTr" / f"{case}_0000.nii.gz")
        save(label(number), raw / "labelsTr" / f"{case}.nii.gz")
    for number, case in enumerate(TEST_CASES):
        save(intensities(100 + number), raw / "imagesTs" / f"{case}_0000.nii.gz")
    write_json(raw / "dataset.json", _description())


def _plans() -> dict[str, Any]:
    patch = {"2d": [8, 8], "3d_fullres": [8, 8, 8]}
    return {
        "dataset_name": DATASET,
        "plans_name": "CompactPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            name: {
                "data_identifier": f"CompactPlans_{name}",
                "patch_size": patch[name],
                "spacing": [1.0] * len(patch[name]),
            }
            for name in CONFIGURATIONS
        },
    }


def _write_preprocessed(pre: Path) -> None:
    write_json(pre / "dataset.json", _description())
    write_json(pre / "dataset_fingerprint.json", {})
    write_json(pre / "CompactPlans.json", _plans())
    folds = [{"train": [c for c in CASES if c != out], "val": [out]} for out in CASES[:5]]
    write_json(pre / "splits_final.json", folds)
    for name in CONFIGURATIONS:
        for case in CASES:
            file = pre / f"CompactPlans_{name}" / f"{case}.pkl"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(pickle.dumps({"spacing": [1.0, 1.0, 1.0]}))
    for number, case in enumerate(CASES):
        save(label(number), pre / "gt_segmentations" / f"{case}.nii.gz")


def _write_model(model: Path, pre: Path) -> None:
    write_json(model / "dataset.json", _description())
    (model / "plans.json").write_bytes((pre / "CompactPlans.json").read_bytes())
    (model / "fold_0").mkdir()
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"not a checkpoint")


def _write_experiment(folder: Path) -> None:
    (folder / "experiment.yaml").write_text(
        "dataset: Dataset004_Phantom\npreset: laptop\nvariants: [UNet, AttentionUNet]\nfolds: {2d: [0, 1, 2, 3, 4]}\n"
    )
    rows = ["case,fold,variant,configuration,label,dice,nsd_1mm,hd95_mm,assd_mm,volume_ref_mm3,volume_mm3"]
    rows += [
        f"{case},{fold},{variant},2d,{name},0.{80 + fold},0.9,1.0,0.5,30,31"
        for variant in ("UNet", "AttentionUNet")
        for fold, case in enumerate(CASES[:5])
        for name in ("Anterior", "Posterior")
    ]
    (folder / "metrics").mkdir()
    (folder / "metrics" / "per_case.csv").write_text("\n".join(rows) + "\n")
    write_json(folder / "metrics" / "summary.json", {})
    write_json(folder / "manifest.json", {"folds": [], "device": "cpu", "machine": {"cpus": 2}})
    choice = {
        "members": ["UNetTrainer_fast__CompactPlans__2d"],
        "postprocessing": "none",
        **dict.fromkeys(("naive_dice", "nested_dice", "nested_gain"), 0.5),
        "per_fold": [],
        "candidates": [],
    }
    write_json(folder / "ensemble" / "choice.json", choice)
