"""Drives a trainer for the training check: forces a mode, interrupts, and checks the state that the steps leave."""

from __future__ import annotations

import math
import signal
from itertools import pairwise
from typing import Any

import torch
from torch._dynamo.utils import counters

from hippo_nnunet.doctor.isolation import CheckError
from hippo_nnunet.doctor.training_spec import CHANNELS_LAST
from hippo_nnunet.training.step import StepMode, step_modes

VALIDATION_ITERATIONS = 2
CAPTURE_STEPS = 2
"""Steps within which CUDA graphs are captured: the first one warms up."""


class Recorder:
    """Forces a trainer's mode, notes the loss of each step, and interrupts the training as a cluster does.

    Args:
        trainer: One of ours, before its training.
        mode: Name of a mode; None for what the trainer takes.
        interrupted_after: Steps after which the process gets SIGTERM; None to train to the end.
    """

    def __init__(self, trainer: Any, mode: str | None, interrupted_after: int | None = None) -> None:
        self._trainer = trainer
        self._mode = _mode(mode, trainer.device) if mode else None
        self._left = interrupted_after
        self._losses: list[torch.Tensor] = []
        self._graphs = 0
        self._captured: list[int] = []
        self._start, self._step = trainer.on_train_start, trainer.train_step
        trainer.num_val_iterations_per_epoch = VALIDATION_ITERATIONS
        trainer.on_train_start, trainer.train_step = self._on_train_start, self._train_step

    def run(self) -> list[float]:
        """Train, and return the losses of the steps.

        Raises:
            CheckError: See `_check_steps`; or the interruption did not end the training.
        """
        torch.compiler.reset()
        counters.clear()
        try:
            self._trainer.run_training()
            ended = False
        except SystemExit:
            ended = True
        if ended != (self._left is not None):
            raise CheckError("SIGTERM did not end the training" if not ended else "the training ended by itself")
        self._check_steps()
        return [float(loss) for loss in self._losses]

    def _on_train_start(self) -> None:
        self._start()
        if self._mode is not None:
            self._trainer.set_step_mode(self._mode)
        if fault := stride_fault(self._trainer.optimizer):
            raise CheckError(f"when the training starts, {fault}")

    def _train_step(self, batch: dict) -> dict:
        if len(self._losses) + 1 == self._left:
            signal.raise_signal(signal.SIGTERM)  # noted; the step ends, a checkpoint is written, then the process ends
        # kept without a copy: what the trainer returns has to outlive the following steps
        try:
            output = self._step(batch)
        except SystemExit:
            self._losses.append(self._trainer.record.epoch_outputs[-1]["loss"])
            raise
        self._losses.append(output["loss"])
        self._captured.append(counters["inductor"]["cudagraph_recorded_non_static_inputs"])
        if len(self._losses) == 1:
            self._graphs = counters["stats"]["unique_graphs"]
        return dict(output)

    def _check_steps(self) -> None:
        """Check what the training left.

        Raises:
            CheckError: A loss is not finite, the optimiser's state has other strides than the weights, weights are not
                in the mode's memory format, or the mode was not kept: nothing was compiled, it was compiled again, or
                CUDA graphs were skipped or captured again and again.
        """
        losses = [float(loss) for loss in self._losses]
        if not all(math.isfinite(loss) for loss in losses):
            raise CheckError(f"losses {', '.join(f'{loss:.4g}' for loss in losses)}")
        if fault := stride_fault(self._trainer.optimizer):
            raise CheckError(fault)
        if self._mode is None:
            return
        if fault := _format_fault(self._trainer.network, self._mode.channels_last):
            raise CheckError(fault)
        graphs = counters["stats"]["unique_graphs"]
        if bool(graphs) != bool(self._mode.compiled):
            raise CheckError(f"{graphs} graphs were compiled in the mode '{self._mode.name}'")
        if graphs != self._graphs:
            raise CheckError(f"{graphs - self._graphs} graphs were compiled again after the first step")
        if skipped := counters["inductor"]["cudagraph_skips"]:
            raise CheckError(f"CUDA graphs were skipped {skipped} times; the log says why")
        later = self._captured[CAPTURE_STEPS:]
        again = sum(after > before for before, after in pairwise(later))
        if again > 1:
            raise CheckError(f"CUDA graphs were captured again in {again} of {len(later) - 1} steps")


def stride_fault(optimizer: torch.optim.Optimizer) -> str:
    """Return in what the optimiser's state differs from the weights in strides; empty where it does not.

    Strides along axes of one element do not count.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if (
                isinstance(value, torch.Tensor)
                and value.shape == parameter.shape
                and _strides(value) != _strides(parameter)
            ):
                shape = tuple(parameter.shape)
                return f"{name} of a weight {shape} has strides {value.stride()}, the weight {parameter.stride()}"
    return ""


def _strides(tensor: torch.Tensor) -> list[int]:
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _format_fault(network: torch.nn.Module, channels_last: bool) -> str:
    for name, weight in network.named_parameters():
        if weight.ndim not in (4, 5):
            continue
        form = torch.contiguous_format
        if channels_last:
            form = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
        if not weight.is_contiguous(memory_format=form):
            return f"{name} has strides {weight.stride()}, which is not {form}"
    return ""


def _mode(name: str, device: torch.device) -> StepMode:
    modes = [*step_modes(device), StepMode(CHANNELS_LAST, channels_last=True)]  # offered on a CPU only
    return next(mode for mode in modes if mode.name == name)
