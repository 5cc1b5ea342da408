"""Tiny nnU-Net datasets, planned and preprocessed on the spot without worker processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from warm_process import run_script

from hippo_nnunet.nnunet.paths import environment

PLANS = "TinyPlans"
CASES = ("tiny_001", "tiny_002", "tiny_003", "tiny_004")
TEST_CASES = ("tiny_901", "tiny_902")
UNET = "UNetTrainer_fast_1epochs_100iters_seed1"
ATTENTION = "AttentionUNetTrainer_fast_1epochs_100iters_seed1"
PLAIN_LABELS = {"background": 0, "anterior": 1, "posterior": 2}


@dataclass(frozen=True)
class TinyDataset:
    """A dataset in nnU-Net's folders below one root."""

    root: Path
    name: str

    @property
    def environ(self) -> dict[str, str]:
        """Everything that nnU-Net reads from the environment, with as few processes as it can do with."""
        folders = environment(self.root, {})
        return {**folders, "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}

    @property
    def number(self) -> str:
        return self.name[7:10]

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw" / self.name

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / self.name

    @property
    def images(self) -> Path:
        return self.raw / "imagesTs"

    def model(self, trainer: str, configuration: str = "2d") -> Path:
        return self.root / "nnUNet_results" / self.name / f"{trainer}__{PLANS}__{configuration}"

    def command(self, program: str, *options: object) -> str:
        """Run one of nnU-Net's console scripts; returns what it printed, and fails where it failed."""
        code, printed = run_script(program, [*map(str, options)], {**os.environ, **self.environ})
        assert code == 0, printed
        return printed

    def trainer(self, name: str, configuration: str = "2d", fold: int | str = 0) -> Any:
        """Make a trainer as nnUNetv2_train does."""
        import torch
        from nnunetv2.run.run_training import get_trainer_from_args

        return get_trainer_from_args(self.name, configuration, fold, name, PLANS, device=torch.device("cpu"))


def _architecture(dim: int) -> dict[str, Any]:
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [8, 16, 16],
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [[3] * dim] * 3,
            "strides": [[1] * dim, [2] * dim, [2] * dim],
            "n_conv_per_stage": [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _configuration(name: str, patch_size: list[int], spacing: float, batch_size: int) -> dict[str, Any]:
    def resampling(is_seg: bool, order: int) -> dict[str, Any]:
        return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}

    function = "resample_data_or_seg_to_shape"
    return {
        "data_identifier": f"{PLANS}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": patch_size,
        "median_image_size_in_voxels": [24.0, 28.0, 20.0][-len(patch_size) :],
        "spacing": [spacing] * len(patch_size),
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": function,
        "resampling_fn_data_kwargs": resampling(False, 3),
        "resampling_fn_seg": function,
        "resampling_fn_seg_kwargs": resampling(True, 1),
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": resampling(False, 1),
        "architecture": _architecture(len(patch_size)),
        "batch_dice": len(patch_size) == 2,
    }


def _plans(dataset: str) -> dict[str, Any]:
    """Plans as nnU-Net 2.8 writes them; the axes are transposed, so that a mistake with them shows."""
    lowres = _configuration("3d_lowres", [12, 12, 12], 1.5, 2) | {"next_stage": "3d_cascade_fullres"}
    return {
        "dataset_name": dataset,
        "plans_name": PLANS,
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [24, 28, 20],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "configurations": {
            "2d": _configuration("2d", [16, 16], 1.0, 8),
            "3d_fullres": _configuration("3d_fullres", [16, 16, 16], 1.0, 2),
            "3d_lowres": lowres,
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0, "std": 1.0, "median": 1.0}},
    }


def _fingerprint() -> dict[str, Any]:
    """Fingerprint as nnU-Net's; it would draw 100 million voxels for it."""
    intensities = dict.fromkeys(("mean", "median"), 2.5) | {"min": 0.2, "max": 6.0, "std": 0.9}
    return {
        "spacings": [[0.9, 1.2, 1.0]] * len(CASES),
        "shapes_after_crop": [[17, 23, 20]] * len(CASES),
        "foreground_intensity_properties_per_channel": {
            "0": intensities | {"percentile_00_5": 0.8, "percentile_99_5": 5.5},
        },
        "median_relative_size_after_cropping": 0.68,
    }


def tiny_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and label, (z, y, x): two bright boxes side by side along x, a dark rim of zeros that nnU-Net crops."""
    rng = np.random.default_rng(seed)
    label = np.zeros((20, 26, 22), np.uint8)
    z, y, x = (int(n) for n in rng.integers((5, 5, 5), (8, 8, 8)))
    label[z : z + 8, y : y + 12, x : x + 6] = 1
    label[z : z + 8, y : y + 12, x + 6 : x + 12] = 2
    image = rng.normal(1, 0.2, label.shape).astype(np.float32) + 2 * label
    rim = np.ones_like(label, bool)
    rim[1:-2, 2:-1, 1:-1] = False
    image[rim] = 0
    return image, label


def write_image(array: np.ndarray, path: Path) -> None:
    """Write (z, y, x) with anisotropic voxels and oblique axes."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.2, 0.9))
    image.SetOrigin((10.0, -20.0, 5.0))
    angle = 0.3
    cosine, sine = np.cos(angle), np.sin(angle)
    image.SetDirection((cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), True)


def make_dataset(
    root: Path,
    name: str,
    labels: Mapping[str, Any] = PLAIN_LABELS,
    regions_class_order: tuple[int, ...] | None = None,
    change: Callable[[np.ndarray], np.ndarray] = lambda label: label,
    configurations: tuple[str, ...] = ("2d",),
) -> TinyDataset:
    """Write a dataset with two folds and preprocess it; `change` is applied to every training label."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset = TinyDataset(root, name)
    description: dict[str, Any] = {
        "channel_names": {"0": "MRI"},
        "labels": dict(labels),
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    if regions_class_order is not None:
        description["regions_class_order"] = list(regions_class_order)
    for seed, case in enumerate(CASES):
        image, label = tiny_case(seed)
        write_image(image, dataset.raw / "imagesTr" / f"{case}_0000.nii.gz")
        for folder in (dataset.raw / "labelsTr", dataset.preprocessed / "gt_segmentations"):
            write_image(change(label), folder / f"{case}.nii.gz")
    for seed, case in enumerate(TEST_CASES):
        write_image(tiny_case(100 + seed)[0], dataset.images / f"{case}_0000.nii.gz")
    plans = _plans(name)
    splits = [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[:2], "val": CASES[2:]}]
    for file, content in {
        "dataset.json": description,
        f"{PLANS}.json": plans,
        "splits_final.json": splits,
        "dataset_fingerprint.json": _fingerprint(),
    }.items():
        (dataset.preprocessed / file).write_text(json.dumps(content))
    (dataset.raw / "dataset.json").write_text(json.dumps(description))
    manager = PlansManager(plans)
    for key in configurations:
        configuration = manager.get_configuration(key)
        folder = dataset.preprocessed / configuration.data_identifier
        folder.mkdir()
        for case in CASES:
            DefaultPreprocessor(verbose=False).run_case_save(
                str(folder / case),
                [str(dataset.raw / "imagesTr" / f"{case}_0000.nii.gz")],
                str(dataset.raw / "labelsTr" / f"{case}.nii.gz"),
                manager,
                configuration,
                description,
            )
    return dataset
