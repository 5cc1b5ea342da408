"""Every planner through nnU-Net's own API, on a dataset made on the spot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from hippo_nnunet import planners
from hippo_nnunet.networks.attention_unet import AttentionUNet
from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.nnunet.api import plan_and_preprocess

pytestmark = pytest.mark.slow

DATASET_ID, DATASET = 903, "Dataset903_PlannerTest"
N_CASES = 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where nnU-Net writes the plans of a five-case dataset; its variables are set and the fingerprint is there."""
    root = tmp_path_factory.mktemp("planners")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, str(root / name))
        _write_raw(root / "nnUNet_raw" / DATASET)
        preprocessed = root / "nnUNet_preprocessed" / DATASET
        _write_fingerprint(preprocessed)
        yield preprocessed


def _shape(case: int) -> tuple[int, int, int]:
    return (33 + case, 48 + case, 34 + case)  # z, y, x: the size of a hippocampus image


def _write_raw(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for case in range(N_CASES):
        label = np.zeros(_shape(case)[::-1], np.uint8)
        label[10:20, 10:25, 10:20] = 1
        label[10:20, 25:40, 10:20] = 2
        image = (rng.normal(size=label.shape) + 3 * label).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / f"case_{case}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "labelsTr" / f"case_{case}.nii.gz")
    description = {
        "channel_names": {"0": "CT"},  # not z-score by nnU-Net's own rule
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": N_CASES,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def _write_fingerprint(folder: Path) -> None:
    """What nnU-Net's extractor writes for these cases, without its half minute of starting processes."""
    folder.mkdir(parents=True)
    fingerprint = {
        "spacings": [[1.0, 1.0, 1.0]] * N_CASES,
        "shapes_after_crop": [_shape(case) for case in range(N_CASES)],
        "foreground_intensity_properties_per_channel": {"0": {"mean": 4.5, "std": 1.8, "median": 4.5}},
        "median_relative_size_after_cropping": 1.0,
    }
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))


def plan(dataset: Path, planner: type[ExperimentPlanner]) -> PlansManager:
    """Plan through nnU-Net's API, and read what was written."""
    _, name = plan_experiment_dataset(DATASET_ID, planner)
    return PlansManager(str(dataset / f"{name}.json"))


def build(configuration: Any) -> torch.nn.Module:
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        3,
        deep_supervision=False,
    ).eval()


@pytest.mark.parametrize("name", planners.PLANNERS)
def test_network_from_written_plans_runs(dataset: Path, name: str) -> None:
    plans = plan(dataset, getattr(planners, name))
    assert plans.plans_name == name.replace("Planner", "Plans")
    assert set(plans.available_configurations) == {"2d", "3d_fullres"}
    for key in plans.available_configurations:
        configuration = plans.get_configuration(key)
        # No two plans may share (and delete) each other's preprocessed data
        assert configuration.data_identifier == f"{plans.plans_name}_{key}"
        network = build(configuration)
        image = torch.randn(1, 1, *configuration.patch_size)
        if isinstance(network, CLIPGuidedUNet):  # the trainer sets the text and attaches the encoder
            network.set_text(torch.eye(3, 512))
            network.use_image = False
        with torch.inference_mode():
            out = network(image)
        assert out.shape == (1, 3, *configuration.patch_size)


@pytest.mark.parametrize("network", [AttentionUNet, CLIPGuidedUNet])
def test_our_networks_plans_are_nnunets_but_for_network_and_memory(dataset: Path, network: type) -> None:
    default = plan(dataset, ExperimentPlanner)
    ours = plan(dataset, getattr(planners, f"{network.__name__}Planner"))
    for key in default.available_configurations:
        a, b = default.get_configuration(key), ours.get_configuration(key)
        assert b.network_arch_class_name == f"{network.__module__}.{network.__name__}"
        assert isinstance(build(b), network)
        assert a.network_arch_init_kwargs == b.network_arch_init_kwargs
        assert a.patch_size == b.patch_size
        assert b.batch_size <= a.batch_size


def test_gates_shrink_a_batch_that_memory_limits(dataset: Path) -> None:
    """With so little memory the 5 % rule no longer hides the estimate."""
    batches = []
    for planner in (ExperimentPlanner, planners.AttentionUNetPlanner):
        planned = planner(DATASET, gpu_memory_target_in_gb=0.2, plans_name="TinyMemoryPlans")
        planned.max_dataset_covered = 1.0
        batches.append(planned.plan_experiment()["configurations"]["2d"]["batch_size"])
    assert batches[1] < batches[0]


def test_compact_plans_on_a_dataset_of_task04s_size(dataset: Path) -> None:
    planner = planners.CompactPlanner(DATASET)
    planner.dataset_json = {**planner.dataset_json, "numTraining": 260}
    configurations = planner.plan_experiment()["configurations"]
    assert configurations["2d"]["batch_size"] == 32
    assert configurations["3d_fullres"]["batch_size"] == 2
    for key, patch in (("2d", (56, 40)), ("3d_fullres", (40, 56, 40))):
        assert sorted(configurations[key]["patch_size"]) == sorted(patch)
        assert list(configurations[key]["architecture"]["arch_kwargs"]["features_per_stage"]) == [16, 32, 64, 128]


def test_compact_plans_keep_nnunets_patch_on_large_images(dataset: Path) -> None:
    """Half the width at half the memory target: the saved memory must not go into larger patches."""
    patches = []
    for planner in (ExperimentPlanner, planners.CompactPlanner):
        planned = planner(DATASET)
        plan_3d = planned.get_plans_for_configuration(np.ones(3), np.full(3, 300), "any", 300**3 * 100.0, {})
        patches.append(float(np.prod(plan_3d["patch_size"])))
        assert plan_3d["batch_size"] == 2
    assert patches[1] <= 1.1 * patches[0]


def test_pad64_plans(dataset: Path) -> None:
    plans = plan(dataset, planners.Pad64Planner)
    for key, dim in (("2d", 2), ("3d_fullres", 3)):
        configuration = plans.get_configuration(key)
        assert configuration.patch_size == [64] * dim
        assert configuration.normalization_schemes == ["ZScoreNormalization"]
        assert configuration.use_mask_for_norm == [False]
        assert configuration.batch_size >= 2
        assert configuration.network_arch_init_kwargs["strides"] == [[1] * dim, *[[2] * dim] * 4]  # 64 down to 4
    default = plan(dataset, ExperimentPlanner)
    assert default.get_configuration("2d").normalization_schemes == ["CTNormalization"]
    padded, plain = (p.get_configuration("3d_fullres") for p in (plans, default))
    assert padded.median_image_size_in_voxels == plain.median_image_size_in_voxels
    assert padded.spacing == plain.spacing


def test_compact_pad64_plans_differ_from_compact_plans_in_the_padding_alone(dataset: Path) -> None:
    compact, padded = (plan(dataset, planner) for planner in (planners.CompactPlanner, planners.CompactPad64Planner))
    for key, dim in (("2d", 2), ("3d_fullres", 3)):
        one, other = compact.get_configuration(key), padded.get_configuration(key)
        assert other.patch_size == [64] * dim
        assert other.normalization_schemes == ["ZScoreNormalization"]
        assert 2 <= other.batch_size <= one.batch_size
        features = [c.network_arch_init_kwargs["features_per_stage"] for c in (one, other)]
        assert features[1][: len(features[0])] == features[0]  # a larger patch is pooled once more


@pytest.mark.parametrize("memory_gb", [0.1, 8, 24])
def test_pad64_holds_the_patch_for_any_spacing_and_memory(dataset: Path, memory_gb: float) -> None:
    planner = planners.Pad64Planner(DATASET, gpu_memory_target_in_gb=memory_gb)
    shape = np.array([12, 200, 200])
    plan_3d = planner.get_plans_for_configuration(np.array([6.0, 1.0, 1.0]), shape, "any", shape.prod() * 1000.0, {})
    kwargs = plan_3d["architecture"]["arch_kwargs"]
    assert list(plan_3d["patch_size"]) == [64, 64, 64]
    assert list(plan_3d["spacing"]) == [6.0, 1.0, 1.0]
    assert list(kwargs["kernel_sizes"][0]) == [1, 3, 3] and list(kwargs["strides"][1]) == [1, 2, 2]
    assert (
        kwargs["n_stages"] == len(kwargs["strides"]) == len(kwargs["kernel_sizes"]) == len(kwargs["features_per_stage"])
    )


def test_pad64_batch_follows_nnunets_rule_at_nnunets_own_patch(dataset: Path) -> None:
    """Where nnU-Net itself arrives at 64x64x64, both must agree in everything but the normalization."""
    shape = np.full(3, 64)
    ours, default = (
        planner(DATASET).get_plans_for_configuration(np.ones(3), shape, "any", 64**3 * 260.0, {})
        for planner in (planners.Pad64Planner, ExperimentPlanner)
    )
    assert ours["batch_size"] == default["batch_size"]
    assert ours["architecture"] == default["architecture"]


def test_another_process_waits_while_this_one_preprocesses(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net deletes what another process is writing to the same folder."""
    code = f"""
from pathlib import Path
from hippo_nnunet.locks import exclusive
with exclusive(Path({str(dataset / "hippo_plan.lock")!r}), "another process plans"):
    pass
"""

    def locked() -> bool:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode != 0

    seen = []
    monkeypatch.setattr(
        "nnunetv2.experiment_planning.plan_and_preprocess_api.preprocess_dataset",
        lambda *_, **__: seen.append(locked()),
    )
    plan_and_preprocess(DATASET_ID, "CompactPlanner", ("2d",), num_processes=1, checked=True)
    assert seen == [True]
    assert not locked()
