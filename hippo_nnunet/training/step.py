"""The computation of a training step: nnU-Net's, in the memory format, eager or compiled, that is fastest here."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from hippo_nnunet.errors import one_line
from hippo_nnunet.training.distillation import Teachers, taught_loss
from hippo_nnunet.training.precision import autocast, exact_on_cpu

log = logging.getLogger(__name__)

ForwardLoss = Callable[[torch.Tensor, Any], torch.Tensor]
"""Batch (b, c, *patch) and target (a tensor, or one for each scale) to the scalar loss."""

WORTH_STEPS = 500
WORTH_S = 1800.0
"""Steps and seconds of training left from which minutes of compiling and measuring pay off. Source: ours."""

WORTH_CHANGING = 0.97
"""Share of the eager step's time that another mode may take at most to be chosen: timings differ by some percent."""

COMPILE_VARIABLE = "nnUNet_compile"
"""nnU-Net's switch: `t`, `true` or `1` measures all modes however short the training is; any other value, such as `f`,
`false` or `0`, never compiles."""

MAX_GRADIENT_NORM = 12.0
"""Source: nnU-Net's training step."""


@dataclass(frozen=True)
class StepMode:
    """One way to compute a training step; all give the same numbers up to rounding.

    Attributes:
        name: For the log.
        channels_last: Whether weights and batches are in the channels-last memory format.
        compiled: `torch.compile`'s mode; None for eager.
    """

    name: str
    channels_last: bool = False
    compiled: str | None = None


EAGER = StepMode("eager")

_OTHERS = {
    "cpu": (StepMode("eager, channels last", True), StepMode("compiled, channels last", True, "default")),
    "cuda": (
        StepMode("compiled", False, "default"),
        StepMode("compiled, channels last", True, "default"),
        StepMode("CUDA graphs", False, "reduce-overhead"),
        StepMode("CUDA graphs, channels last", True, "reduce-overhead"),
    ),
}


def step_modes(device: torch.device) -> tuple[StepMode, ...]:
    """Return every mode that a training step may run in on a device, `EAGER` first."""
    return (EAGER, *_OTHERS.get(device.type, ()))


def build(
    network: torch.nn.Module,
    loss: Callable[[Any, Any], torch.Tensor],
    mode: StepMode,
    optimizer: torch.optim.Optimizer | None = None,
    teachers: Teachers | None = None,
) -> ForwardLoss:
    """Return the forward pass and loss in a mode, and convert the weights to its memory format.

    With CUDA graphs, the next call overwrites the loss that a call returned: clone what is kept.

    Args:
        network: On the device.
        loss: Takes the network's output and the target.
        mode: One of `step_modes`.
        optimizer: The network's optimiser, whose state is converted with the weights; None if it has none yet.
        teachers: What the network learns from, besides the target; None for nothing.
    """
    for parameter in (*network.parameters(), *(teachers.parameters() if teachers is not None else ())):
        if parameter.ndim in (4, 5):
            memory_format = _channels_last(parameter.ndim) if mode.channels_last else torch.contiguous_format
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
    if optimizer is not None:
        match_strides(optimizer)

    def forward_loss(data: torch.Tensor, target: Any) -> torch.Tensor:
        if mode.channels_last:
            data = data.contiguous(memory_format=_channels_last(data.ndim))
        outputs = exact_on_cpu(network(data))
        value = loss(outputs, target)
        return value if teachers is None else taught_loss(value, outputs, teachers(data))

    return _compile(forward_loss, mode.compiled, next(network.parameters()).device) if mode.compiled else forward_loss


def _compile(forward_loss: ForwardLoss, mode: str, device: torch.device) -> ForwardLoss:
    if device.type != "cpu" or torch.__version__ < "2.7":
        return torch.compile(forward_loss, mode=mode)

    def keep(guards: Sequence[Any]) -> list[bool]:
        return [guard.guard_type != "GLOBAL_STATE" for guard in guards]

    # The number of threads may change between steps: neither specialise on it nor recompile for it. The rest
    # of the global state (autocast, gradients) is the same in every training step.
    return torch.compile(forward_loss, options={"cpp.dynamic_threads": True, "guard_filter_fn": keep})


def match_strides(optimizer: torch.optim.Optimizer) -> None:
    """Give each parameter's state (momentum, running averages) the strides of the parameter; values stay.

    Fused optimisers walk over both in memory order: on a GPU they refuse other strides, on a CPU they mix up elements.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            same_shape = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if same_shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def zero_momentum(optimizer: torch.optim.SGD) -> None:
    """Give SGD its momentum buffers, filled with zeros, before the first step, which is the same with them.

    Fused SGD would allocate them in its first step without filling them, and if gradients in float16 overflow in that
    step, which often happens, the gradient scaler makes it skip the step, and the next one reads uninitialised memory.
    Seen in torch 2.14.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


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
        network: On the device; its weights keep their values and may change their memory format, see `build`. The
            random state does not change.
        loss: Takes the network's output and the target.
        data: A batch (b, c, *patch) on the device.
        target: Its target.
        steps_left: Steps still to train: modes are measured only where that pays off.
        half: `half_precision` of the training.

    Returns:
        The mode, `EAGER` unless another one is clearly faster; a warning where one does not work.
    """
    switch = os.environ.get(COMPILE_VARIABLE, "").lower()
    compile_now = switch in ("true", "1", "t")
    if not compile_now and steps_left < WORTH_STEPS:
        return EAGER
    seconds: dict[StepMode, float] = {}
    for mode in step_modes(data.device):
        worth = compile_now or (not switch and min(seconds.values(), default=0) * steps_left >= WORTH_S)
        if mode.compiled and not worth:
            continue
        try:
            seconds[mode] = _seconds(network, loss, mode, data, target, half)
        except Exception as error:  # compilers raise various exceptions
            if mode is EAGER:
                raise
            reason = one_line(error)
            log.warning("training step, %s: does not work here (%s); continuing without it", mode.name, reason)
        network.zero_grad(set_to_none=True)
        if mode.compiled and data.device.type == "cuda":  # otherwise the CUDA graphs of this mode keep their memory
            torch.compiler.reset()
            torch.cuda.empty_cache()
    log.info("training step: %s", ", ".join(f"{mode.name} {s:.3f} s" for mode, s in seconds.items()))
    best = min(seconds, key=lambda mode: seconds[mode])
    return best if seconds[best] < WORTH_CHANGING * seconds[EAGER] else EAGER


def to_device(batch: dict[str, Any], device: torch.device) -> tuple[torch.Tensor, Any]:
    """Return a batch's `data` and `target` (a tensor, or a list of one for each scale) on the device."""
    data, target = batch["data"].to(device, non_blocking=True), batch["target"]
    if isinstance(target, list):
        return data, [t.to(device, non_blocking=True) for t in target]
    return data, target.to(device, non_blocking=True)


def update(
    loss: torch.Tensor, network: torch.nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None
) -> None:
    """Backpropagate the loss, clip the gradient and step the optimiser; does not wait for the device."""
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
    """Make PyTorch choose deterministic kernels on a GPU, where it has them; on the CPU they are deterministic."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's condition
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def _seconds(
    network: torch.nn.Module,
    loss: Callable[[Any, Any], torch.Tensor],
    mode: StepMode,
    data: torch.Tensor,
    target: Any,
    half: torch.dtype | None,
) -> float:
    """Return the shortest time of a forward and backward pass in a mode, of three; leaves no gradients."""
    forward_loss = build(network, loss, mode)
    times: list[float] = []
    with torch.random.fork_rng(devices=[data.device] if data.device.type == "cuda" else []):
        for _ in range(5):
            start = time.perf_counter()
            with autocast(data.device, half):
                value = forward_loss(data, target)
            value.backward()
            if data.device.type == "cuda":
                torch.cuda.synchronize(data.device)
            times.append(time.perf_counter() - start)
            network.zero_grad(set_to_none=True)  # as in training: CUDA graphs overwrite the gradients that they return
    return min(times[2:])  # the first two warm up


def _channels_last(ndim: int) -> torch.memory_format:
    return torch.channels_last if ndim == 4 else torch.channels_last_3d
