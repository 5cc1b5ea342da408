"""Training steps of several trainers in one process, in turns, on batches of the same plans."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.document import Result
from benchmarks.epochs_process import set_up
from benchmarks.memory import MIB, PeakMemory
from benchmarks.prepared import scratch_environment, trainable
from benchmarks.ratios import turns
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.nnunet.api import resolve_device, trainer_class

_SAMPLING_S = 0.005


@dataclass(frozen=True)
class StepsJob:
    """Which trainers step on what.

    Attributes:
        dataset: Id or name of a dataset that is planned and preprocessed.
        trainers: Class names; the first is the reference.
        configuration: Such as `2d`.
        plans: Name of the plans.
        fold: Index from 0, or `all`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        repeats: Measured steps of each trainer.
        warm_up: Steps of each trainer before that.
    """

    dataset: str
    trainers: tuple[str, ...] = ("UNetTrainer_fast", "AttentionUNetTrainer_fast")
    configuration: str = "2d"
    plans: str = "CompactPlans"
    fold: int | str = 0
    device: str = "auto"
    repeats: int = 20
    warm_up: int = 3


def benchmark_steps(job: StepsJob, root: Path | None = None) -> Result:
    """Measure a training step (forward, loss, backward, optimiser) of each trainer, in turns.

    Every trainer keeps stepping on the first batch of its own loader, so drawing and augmenting is not part of it.

    Args:
        job: What to measure.
        root: nnU-Net's root folder, for those of its variables that are unset. Only the preprocessed folder is used.

    Raises:
        ConfigError: Fewer than two trainers, or a dataset, plans, configuration, trainer or device that does not exist.
        DataError: Batches of different shapes.
    """
    if len(set(job.trainers)) < 2:
        raise ConfigError(f"got the trainers {', '.join(job.trainers) or 'none'}: name at least two different ones")
    dataset, _ = trainable(job.dataset, job.plans, job.configuration, job.fold, root)
    device = resolve_device(job.device)
    with tempfile.TemporaryDirectory(prefix="hippo-benchmark-") as scratch, scratch_environment(Path(scratch), root):
        where = set_up(device)
        for name in job.trainers:
            trainer_class(name)
        made = {name: _Stepper(name, dataset, job, where) for name in job.trainers}
        first = made[job.trainers[0]]
        for stepper in made.values():
            if stepper.shape != first.shape:
                raise DataError(
                    f"{stepper.name} draws batches {stepper.shape}, {first.name} {first.shape}: take trainers that "
                    "train on the same patches"
                )
            for _ in range(job.warm_up):
                stepper.step()
        measures: dict[str, dict[str, list[float]]] = {name: {"seconds": []} for name in made}
        for name, _ in turns(job.trainers, job.repeats):
            measures[name]["seconds"].append(made[name].step())
        for name, stepper in made.items():
            measures[name]["peak_step_mib"] = [stepper.peak_mib()]
        checks = {
            "same_batch": all(stepper.same_batch(first) for stepper in made.values()),
            "batch": list(first.shape),
            "trained_parameters": {name: stepper.parameters for name, stepper in made.items()},
            "last_loss": {name: stepper.loss for name, stepper in made.items()},
        }
    settings = {
        "dataset": dataset,
        "configuration": job.configuration,
        "plans": job.plans,
        "device": device,
        "repeats": job.repeats,
    }
    return Result("train-step", settings, measures, checks, (_MEMORY_NOTE,))


_MEMORY_NOTE = (
    "peak_step_mib is what one step needs above what lies in memory before it: on CUDA what torch allocates, otherwise "
    "the growth of the process, sampled every 5 ms"
)


class _Stepper:
    """A trainer that is ready to step, and its batch."""

    def __init__(self, name: str, dataset: str, job: StepsJob, device: Any) -> None:
        from nnunetv2.run.run_training import get_trainer_from_args

        self.name = name
        self.device = device
        self.trainer = get_trainer_from_args(dataset, job.configuration, job.fold, name, job.plans, device=device)
        self.trainer.disable_checkpointing = True
        self.trainer.on_train_start()
        self.trainer.on_epoch_start()
        self.trainer.on_train_epoch_start()
        self.batch = next(self.trainer.dataloader_train)
        self.shape = tuple(self.batch["data"].shape)
        self.parameters = sum(p.numel() for p in self.trainer.network.parameters() if p.requires_grad)
        self.loss = float("nan")

    def step(self) -> float:
        """Run one step; returns its seconds, on CUDA until the device is done."""
        self._wait()
        began = time.perf_counter()
        output = self.trainer.train_step(self.batch)
        self._wait()
        seconds = time.perf_counter() - began
        self.loss = float(output["loss"])
        return seconds

    def peak_mib(self) -> float:
        """Return the peak memory of a step above the memory before it, in MiB."""
        import psutil
        import torch

        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return float(torch.cuda.max_memory_allocated() - before) / MIB
        _give_back_freed_memory()
        before = psutil.Process().memory_info().rss
        with PeakMemory(os.getpid(), _SAMPLING_S, descendants=False) as memory:
            self.step()
        return max(0.0, memory.rss_mib - before / MIB)

    def same_batch(self, other: _Stepper) -> bool:
        import torch

        return bool(torch.equal(self.batch["data"].cpu(), other.batch["data"].cpu()))

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _give_back_freed_memory() -> None:
    """Return freed memory to the system, so that the next step's growth is visible."""
    with contextlib.suppress(AttributeError, OSError):  # only glibc has this
        ctypes.CDLL(None).malloc_trim(0)
