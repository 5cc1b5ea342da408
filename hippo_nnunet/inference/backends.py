"""Backends for a network's forward pass: torch, or OpenVINO on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.inference.openvino_use import disagreement, is_worth_it, leave_out, require_openvino

BACKENDS = ("auto", "torch", "openvino")

Run = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Maps patches (batch, channel, *patch) and guidance (batch, embed_dim) or None to logits (batch, head, *patch)."""


def check_backend(backend: str, device: torch.device) -> None:
    """Check that a backend is available.

    Raises:
        ConfigError: It is unknown, or not for this device.
        DependencyError: OpenVINO is requested, but not installed.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend '{backend}': choose one of {', '.join(BACKENDS)}")
    if backend == "openvino" and device.type != "cpu":
        raise ConfigError(
            f"backend openvino runs on the CPU only, but the device is {device.type}: omit one of the two"
        )
    if backend == "openvino":
        require_openvino("torch")


def torch_runs(networks: Sequence[nn.Module], device: torch.device) -> list[Run]:
    """Return the networks' forward passes in nnU-Net's precision: autocast on CUDA, else single."""

    def run_of(network: nn.Module) -> Run:
        def run(patches: torch.Tensor, guidance: torch.Tensor | None) -> torch.Tensor:
            with torch.autocast("cuda", enabled=device.type == "cuda"):
                logits: torch.Tensor = network(patches) if guidance is None else network(patches, guidance)
            return logits.float()

        return run

    return [run_of(network) for network in networks]


def choose_runs(
    backend: str,
    networks: Sequence[nn.Module],
    device: torch.device,
    voxels: int | None,
    patches: torch.Tensor,
    guidance: torch.Tensor | None,
) -> list[Run]:
    """Return the networks' forward passes by a backend.

    Args:
        backend: One of BACKENDS. `auto` uses OpenVINO on the CPU if it is installed, saves time and agrees with torch;
            else torch.
        networks: The folds, in evaluation mode, on the device.
        device: The networks' device.
        voxels: Voxels to predict, times mirrored copies; None for many.
        patches: Example (batch, channel, *patch), to trace networks and to compare the backends.
        guidance: The example's guidance (batch, embed_dim), for networks that take it.

    Raises:
        UpstreamError: `openvino` is requested, but cannot convert a network or disagrees with torch.
    """
    runs = torch_runs(networks, device)
    if backend == "auto":
        if device.type != "cpu" or not is_worth_it(voxels):
            return runs
    elif backend == "torch":
        return runs
    try:
        from hippo_nnunet.inference.openvino_backend import compile_network

        compiled = [compile_network(network, patches, guidance) for network in networks]
        problem = _disagreement(compiled, runs, patches, guidance)
    except Exception as error:  # OpenVINO and the tracer raise various exceptions
        problem = f"it cannot convert the network ({' '.join(str(error).split())[:300]})"
    if problem is None:
        return compiled
    leave_out(backend, problem, "torch")
    return runs


def _disagreement(
    compiled: Sequence[Run], runs: Sequence[Run], patches: torch.Tensor, guidance: torch.Tensor | None
) -> str | None:
    for theirs, ours in zip(compiled, runs, strict=True):
        found, expected = (run(patches, guidance).numpy() for run in (theirs, ours))
        if problem := disagreement(expected, found, "torch"):
            return problem
    return None
