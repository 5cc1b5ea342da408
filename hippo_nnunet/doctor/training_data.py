"""The synthetic dataset of the training check, and plans so small that a step takes milliseconds."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from hippo_nnunet.files import read_object, write_json

DATASET = "Dataset004_Phantom"
PLANNED = "CompactPlans"
PLANS = "CheckPlans"
CONFIGURATIONS = ("2d", "3d_fullres")

CASES = 10
STAGES = 3
"""Stages of the networks: the fewest with deep supervision at two scales."""
BATCH_SIZE = {2: 8, 3: 2}
PATCH = {2: 32, 3: 24}
"""Voxels along each axis of a patch, at most."""


def make_dataset(work: Path) -> None:
    """Synthesise a dataset, convert, plan and preprocess it.

    Args:
        work: Folder of nnU-Net's folders, to which its variables point in this process.
    """
    from hippo_nnunet.data.convert import convert_msd
    from hippo_nnunet.data.synth import make_phantom
    from hippo_nnunet.nnunet.api import plan_and_preprocess
    from hippo_nnunet.nnunet.paths import activate

    folders = activate(work)
    task = make_phantom(work, num_training=CASES, num_test=1, overwrite=True)
    convert_msd(task, folders.raw, overwrite=True)
    plan_and_preprocess(DATASET, "CompactPlanner", CONFIGURATIONS, num_processes=1)
    folder = folders.preprocessed / DATASET
    write_json(folder / f"{PLANS}.json", shrink(read_object(folder / f"{PLANNED}.json")), indent=4)


def shrink(plans: dict[str, Any]) -> dict[str, Any]:
    """Return plans with smaller networks, patches and batches for the same preprocessed data.

    Args:
        plans: Of nnU-Net's or our planner; stay as they are.
    """
    configurations = dict(plans["configurations"])
    for name in CONFIGURATIONS:
        configuration = dict(configurations[name])
        architecture = dict(configuration["architecture"])
        arguments = dict(architecture["arch_kwargs"])
        for key in ("features_per_stage", "kernel_sizes", "strides"):
            arguments[key] = arguments[key][:STAGES]
        arguments |= {"n_stages": STAGES, "n_conv_per_stage": [1] * STAGES}
        arguments["n_conv_per_stage_decoder"] = [1] * (STAGES - 1)
        strides = [prod(along) for along in zip(*arguments["strides"], strict=True)]
        dim = len(strides)
        configuration["patch_size"] = [
            min(int(size), PATCH[dim]) // stride * stride
            for size, stride in zip(configuration["patch_size"], strides, strict=True)
        ]
        configuration["batch_size"] = min(configuration["batch_size"], BATCH_SIZE[dim])
        configuration["architecture"] = architecture | {"arch_kwargs": arguments}
        configurations[name] = configuration
    return plans | {"plans_name": PLANS, "configurations": configurations}
