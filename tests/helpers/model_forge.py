"""A tiny shared model without training, and ways to forge its file."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from hippo_nnunet.models.container import MANIFEST, write_container
from hippo_nnunet.models.tensors import pack

PLANS: dict[str, Any] = {
    "dataset_name": "Dataset902_Forged",
    "plans_name": "TinyPlans",
    "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
    "original_median_shape_after_transp": [20, 20, 20],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "label_manager": "LabelManager",
    "experiment_planner_used": "ExperimentPlanner",
    "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0, "std": 1.0}},
    "configurations": {
        "2d": {
            "data_identifier": "TinyPlans_2d",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [16, 16],
            "spacing": [1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": {"is_seg": False, "order": 1},
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1},
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1},
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 2,
                    "features_per_stage": [4, 8],
                    "conv_op": "torch.nn.modules.conv.Conv2d",
                    "kernel_sizes": [[3, 3], [3, 3]],
                    "strides": [[1, 1], [2, 2]],
                    "n_conv_per_stage": [1, 1],
                    "n_conv_per_stage_decoder": [1],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
            "batch_dice": True,
        }
    },
}
DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "numTraining": 4,
    "file_ending": ".nii.gz",
}
DESCRIPTION = {
    "trainer": "UNetTrainer_fast",
    "configuration": "2d",
    "folds": [0],
    "mirroring_axes": [0, 1],
    "clip": None,
    "licence": "",
    "citation": "",
    "versions": {},
}


def weights() -> dict[str, torch.Tensor]:
    """The state dict of an untrained network of PLANS."""
    torch.manual_seed(1)
    architecture = PLANS["configurations"]["2d"]["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"], 1, 3
    )
    return dict(network.state_dict())


def members(**changed: bytes) -> dict[str, bytes]:
    """The members of a right file, its manifest and example left out; a keyword replaces one by its stem."""
    made = {
        "README.md": b"# model\n",
        "model.json": json.dumps(DESCRIPTION).encode(),
        "plans.json": json.dumps(PLANS).encode(),
        "dataset.json": json.dumps(DATASET).encode(),
        "weights/fold_0.safetensors": changed.pop("weights") if "weights" in changed else pack(weights()),
    }
    return {**made, **{f"{stem}.json": content for stem, content in changed.items()}}


def write(path: Path, content: Mapping[str, bytes]) -> Path:
    """Write a file as `model export` does, without verifying it."""
    write_container(path, {name: (lambda c=c: c) for name, c in content.items()}, True, lambda _: None)
    return path


def manifest(content: Mapping[str, bytes], **changed: Any) -> bytes:
    """The manifest of members."""
    listed = {n: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in content.items()}
    return json.dumps({"format": "hippo_nnunet model", "format_version": 1, "members": listed, **changed}).encode()


def forge(path: Path, entries: Iterable[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    """Write a zip with exactly these entries, duplicates and all."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return path


def entries(content: Mapping[str, bytes], of_manifest: bytes | None = None) -> list[tuple[str, bytes]]:
    """The entries of a right file, to be changed."""
    return [*content.items(), (MANIFEST, manifest(content) if of_manifest is None else of_manifest)]


def unpacked(path: Path) -> dict[str, bytes]:
    """The members of a file, its manifest left out."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != MANIFEST}
