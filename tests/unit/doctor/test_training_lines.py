"""Which lines the training check has, and what its looks at a training find."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from hippo_nnunet.doctor.isolation import Check
from hippo_nnunet.doctor.training_data import shrink
from hippo_nnunet.doctor.training_lines import NEEDS_CUDA, NEEDS_TWO, NETWORKS, lines
from hippo_nnunet.doctor.training_recorder import stride_fault
from hippo_nnunet.doctor.training_spec import Settings
from hippo_nnunet.training.recipe_words import BASES
from hippo_nnunet.training.recipes import parse
from hippo_nnunet.training.step import match_strides, step_modes

WORK = Path("work")


def modes_of(check: Check) -> set[str]:
    return set(check.name.partition(": ")[2].split(", then "))


def test_every_base_is_trained_in_every_mode_of_a_gpu() -> None:
    checks = [check for check in lines(Settings("cuda", WORK, gpus=1)) if not check.missing]
    assert {parse(base).base for base in NETWORKS.values()} == set(BASES)
    networks = [name for name in NETWORKS if name != "CLIPGuidedUNet live"]
    for network, configuration in product(networks, ("2d", "3d_fullres")):
        run = set().union(*(modes_of(c) for c in checks if c.name.startswith(f"{network} {configuration}: ")))
        assert run >= {mode.name for mode in step_modes(torch.device("cuda"))}


def test_what_a_machine_lacks_is_said() -> None:
    on_cpu = {check.name: check.missing for check in lines(Settings("cpu", WORK, quick=True))}
    assert on_cpu["UNet 2d: eager, then CUDA graphs"] == NEEDS_CUDA
    assert on_cpu["UNet 2d: steps do not wait for the GPU"] == NEEDS_CUDA
    assert on_cpu["UNet 2d: compiled, channels last, then eager"] == ""
    assert on_cpu["one training on two GPUs"] == NEEDS_TWO
    assert not any(check.missing for check in lines(Settings("cuda", WORK, gpus=2)))
    quick = [check for check in lines(Settings("cuda", WORK, gpus=2, quick=True)) if not check.missing]
    assert sum("CUDA graphs" in check.name for check in quick) == 2


@pytest.mark.parametrize("settings", [Settings("cpu", WORK), Settings("cuda", WORK)])
def test_names_are_unique(settings: Settings) -> None:
    names = [check.name for check in lines(settings)]
    assert len(names) == len(set(names))


def test_strides_that_a_fused_optimiser_refuses_are_found() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 1, 1))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(1, 3, 8, 8)).mean().backward()
    optimizer.step()
    assert stride_fault(optimizer) == ""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    assert "exp_avg of a weight (4, 3, 3, 3)" in stride_fault(optimizer)
    match_strides(optimizer)
    assert stride_fault(optimizer) == ""


def test_shrunk_plans_keep_the_preprocessed_data() -> None:
    def configuration(dim: int) -> dict:
        arguments = {
            "n_stages": 4,
            "features_per_stage": [16, 32, 64, 128],
            "kernel_sizes": [[3] * dim] * 4,
            "strides": [[1] * dim, [2] * dim, [2] * (dim - 1) + [1], [2] * dim],
            "n_conv_per_stage": [2] * 4,
            "n_conv_per_stage_decoder": [2] * 3,
        }
        architecture = {"network_class_name": "Network", "arch_kwargs": arguments}
        patch = [40, 56, 47][:dim]
        return {"data_identifier": "kept", "patch_size": patch, "batch_size": 32, "architecture": architecture}

    plans = {"plans_name": "Large", "configurations": {"2d": configuration(2), "3d_fullres": configuration(3)}}
    small = shrink(plans)["configurations"]
    assert small["2d"]["patch_size"] == [32, 32]
    assert small["3d_fullres"]["patch_size"] == [24, 24, 24]
    assert small["3d_fullres"]["architecture"]["arch_kwargs"]["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 1]]
    assert {c["data_identifier"] for c in small.values()} == {"kept"}
    assert plans["configurations"]["2d"]["batch_size"] == 32
