"""The arithmetic of a training step: nnU-Net's, eager or compiled, whichever is faster on this machine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from hippo_nnunet.training.precision import autocast, exact_on_cpu

log = logging.getLogger(__name__)

ForwardLoss = Callable[[torch.Tensor, Any], torch.Tensor]
"""Batch (b, c, *patch) and target (a tensor, or one for each scale) to the scalar loss."""

WORTH_STEPS = 500
WORTH_S = 1800.0
"""Steps and seconds of training left from which it is worth minutes to compile and to measure. Source: ours."""

COMPILE_VARIABLE = "nnUNet_compile"
"""nnU-Net's switch: `f` never compiles, `t` measures compiled modes whatever the length of the training."""

MAX_GRADIENT_NORM = 12.0
"""Source: nnU-Net's training step."""


@dataclass(frozen=True)
class StepMode:
    """One way to compute a training step; all give the same numbers but for rounding.

    Attributes:
        name: For the log.
        channels_last: Whether weights and batches lie in memory with the channels innermost.
        compiled: `torch.compile`'s mode; None for eager.
    """

    name: str
    channels_last: bool = False
    compiled: str | None = None


EAGER = StepMode("eager")
COMPILED: dict[str, tuple[StepMode, ...]] = {
    "cpu": (StepMode("compiled, channels last", True, "default"),),
    "cuda": (
        StepMode("compiled", False, "default"),
        StepMode("compiled, channels last", True, "default"),
        StepMode("CUDA graphs", False, "reduce-overhead"),
        StepMode("CUDA graphs, channels last", True, "reduce-overhead"),
    ),
}
"""What is measured against `EAGER`, by device type."""


def build(network: torch.nn.Module, loss: Callable[[Any, Any], torch.Tensor], mode: StepMode) -> ForwardLoss:
    """Return the forward pass and loss in a mode; puts the network's weights into the mode's memory format."""
    _set_memory_format(network, mode.channels_last)

    def forward_loss(data: torch.Tensor, target: Any) -> torch.Tensor:
        if mode.channels_last:
            data = data.contiguous(memory_format=_channels_last(data.ndim))
        return loss(exact_on_cpu(network(data)), target)

    return torch.compile(forward_loss, mode=mode.compiled) if mode.compiled else forward_loss


def fastest(
    network: torch.nn.Module,
    loss: Callable[[Any, Any], torch.Tensor],
    data: torch.Tensor,
    target: Any,
    steps_left: int,
    half: torch.dtype | None = None,
) -> StepMode:
    """Measure the modes on one batch and return the fastest one.

    Args:
        network: On the device; weights and random state are left as they are.
        loss: Takes the network's output and the target.
        data: A batch (b, c, *patch) on the device.
        target: Its target.
        steps_left: Steps still to train: compiled modes are measured only where that pays.
        half: `half_precision` of the training.

    Returns:
        The mode; `EAGER`, with a warning, where nothing can be compiled.
    """
    asked = os.environ.get(COMPILE_VARIABLE, "").lower()
    if asked and asked not in ("true", "1", "t"):
        return EAGER
    if not asked and steps_left < WORTH_STEPS:
        return EAGER
    seconds = {EAGER: _seconds(build(network, loss, EAGER), data, target, half)}
    if asked or seconds[EAGER] * steps_left >= WORTH_S:
        for mode in COMPILED.get(data.device.type, ()):
            try:
                seconds[mode] = _seconds(build(network, loss, mode), data, target, half)
            except Exception as error:  # compilers raise many kinds
                reason = " ".join(str(error).split())[:200]
                log.warning("training step, %s: does not work here (%s); going on without it", mode.name, reason)
        log.info("training step: %s", ", ".join(f"{mode.name} {s:.3f} s" for mode, s in seconds.items()))
    network.zero_grad(set_to_none=True)
    return min(seconds, key=lambda mode: seconds[mode])


def on_device(batch: dict[str, Any], device: torch.device) -> tuple[torch.Tensor, Any]:
    """Return a batch's `data` and `target` (a tensor, or one for each scale) on the device."""
    data, target = batch["data"].to(device, non_blocking=True), batch["target"]
    if isinstance(target, list):
        return data, [t.to(device, non_blocking=True) for t in target]
    return data, target.to(device, non_blocking=True)


def update(
    loss: torch.Tensor, network: torch.nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None
) -> None:
    """Go back from the loss, limit the gradient and take the optimiser's step; waits for nothing on the device."""
    if scaler is None:
        loss.backward()
        clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        return
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
    scaler.step(optimizer)
    scaler.update()


def make_deterministic(device: torch.device) -> None:
    """Make PyTorch choose deterministic kernels on a GPU, where there are any; on the CPU they are."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's condition
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def _seconds(
    forward_loss: ForwardLoss,
    data: torch.Tensor,
    target: Any,
    half: torch.dtype | None,
    warm_up: int = 2,
    repeats: int = 3,
) -> float:
    """Return the shortest time of a forward and backward pass."""
    times: list[float] = []
    with torch.random.fork_rng(devices=[data.device] if data.device.type == "cuda" else []):
        for _ in range(warm_up + repeats):
            start = time.perf_counter()
            with autocast(data.device, half):
                loss = forward_loss(data, target)
            loss.backward()
            if data.device.type == "cuda":
                torch.cuda.synchronize(data.device)
            times.append(time.perf_counter() - start)
    return min(times[warm_up:])


def _channels_last(ndim: int) -> torch.memory_format:
    return torch.channels_last if ndim == 4 else torch.channels_last_3d


def _set_memory_format(network: torch.nn.Module, channels_last: bool) -> None:
    for parameter in network.parameters():
        if parameter.ndim in (4, 5):
            form = _channels_last(parameter.ndim) if channels_last else torch.contiguous_format
            parameter.data = parameter.data.contiguous(memory_format=form)
