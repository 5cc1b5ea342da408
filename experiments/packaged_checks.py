#!/usr/bin/env python3
"""What half precision and other voxel sizes cost the packaged model's recipe: Dice on the cases of one fold.

python experiments/packaged_checks.py EXPERIMENT --fold 4

The experiment is the one of `scripts/package_model.py`; the fold's network has not seen its cases. Images are smoothed
along axes that become coarser (Gaussian of 0.42 voxels), resampled by B-splines and segmented; masks come back to the
labels' grid by the nearest voxel, whose own cost is in the figures.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from hippo_nnunet.evaluation.metrics import mask_dice
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.inference.onnx_predict import predict_onnx
from hippo_nnunet.nnunet.splits import read_splits
from hippo_nnunet.sharing.exporting import ExportOptions
from hippo_nnunet.sharing.onnx_exporting import export_onnx

SPACINGS = ((1.0,) * 3, (0.7,) * 3, (0.8,) * 3, (1.25,) * 3, (1.5,) * 3, (2.0,) * 3, (1.0, 1.0, 3.0))
ENDING = ".nii.gz"


def main() -> None:
    """Print one line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    asked = parser.parse_args()
    paths = ExperimentPaths(asked.experiment)
    experiment, folders = Experiment.load(paths.request), paths.nnunet(None)
    raw = folders.raw / experiment.dataset
    splits = read_splits(experiment.dataset, folders)
    assert splits is not None
    cases = splits[asked.fold]["val"]
    model = (
        folders.results / experiment.dataset / experiment.model(experiment.variants[0], next(iter(experiment.folds)))
    )
    with tempfile.TemporaryDirectory() as scratch:
        whole, half = (
            export_onnx(model, Path(scratch) / f"{half}.onnx", ExportOptions(folds=[asked.fold], half=half))
            for half in (False, True)
        )
        exact, rounded = (dice(raw, cases, file, SPACINGS[0]) for file in (whole, half))
        print(
            f"half precision: mean Dice {rounded.mean() - exact.mean():+.6f}, largest change of a part of a case "
            f"{np.abs(rounded - exact).max():.6f}"
        )
        for spacing in SPACINGS:
            found = rounded if spacing == SPACINGS[0] else dice(raw, cases, half, spacing)
            print(f"voxels of {' x '.join(f'{mm:g}' for mm in spacing)} mm: mean Dice {found.mean():.4f}", flush=True)


def dice(raw: Path, cases: list[str], model: Path, spacing: tuple[float, ...]) -> np.ndarray:
    """Segment the cases at a voxel size (x, y, z), in mm; returns Dice of shape (cases, parts)."""
    with tempfile.TemporaryDirectory() as scratch:
        images, masks = Path(scratch) / "images", Path(scratch) / "masks"
        images.mkdir()
        for case in cases:
            image = sitk.ReadImage(str(raw / "imagesTr" / f"{case}_0000{ENDING}"))
            sitk.WriteImage(resampled(image, spacing), str(images / f"{case}{ENDING}"))
        predict_onnx(images, masks, [model])
        found = []
        for case in cases:
            reference = sitk.ReadImage(str(raw / "labelsTr" / f"{case}{ENDING}"))
            mask = sitk.ReadImage(str(masks / f"{case}{ENDING}"))
            back = sitk.Resample(mask, reference, sitk.Transform(), sitk.sitkNearestNeighbor)
            one, other = (sitk.GetArrayFromImage(image) for image in (back, reference))
            found.append([mask_dice(one == label, other == label) for label in (1, 2)])
    return np.array(found)


def resampled(image: sitk.Image, spacing: tuple[float, ...]) -> sitk.Image:
    """Return an image of another voxel size (x, y, z), in mm; the same image if it has it already."""
    if np.allclose(image.GetSpacing(), spacing):
        return image
    size = [round(n * old / new) for n, old, new in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)]
    smooth = sitk.Cast(image, sitk.sitkFloat32)
    for axis, (old, new) in enumerate(zip(image.GetSpacing(), spacing, strict=True)):
        if new > old:
            kind = sitk.RecursiveGaussianImageFilter.ZeroOrder
            smooth = sitk.RecursiveGaussian(smooth, 0.42 * new, False, kind, axis)
    grid = (image.GetOrigin(), spacing, image.GetDirection(), 0.0, sitk.sitkFloat32)
    return sitk.Resample(smooth, size, sitk.Transform(), sitk.sitkBSpline, *grid)


if __name__ == "__main__":
    main()
