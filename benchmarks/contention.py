"""Training, validation and prediction beside a busy process, with and without `hippo_nnunet.threads`."""

from __future__ import annotations

import contextlib
import copy
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.document import Result
from benchmarks.epochs_process import set_up, trainer_of_length
from benchmarks.prepared import scratch_environment, trainable
from benchmarks.ratios import turns
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.processes import python_command

log = logging.getLogger(__name__)

ALONE_FIXED, ALONE_ADAPTIVE = "alone, fixed threads", "alone, adaptive threads"
BUSY_FIXED, BUSY_ADAPTIVE = "beside a busy process, fixed threads", "beside a busy process, adaptive threads"
SIDES = (ALONE_FIXED, ALONE_ADAPTIVE, BUSY_FIXED, BUSY_ADAPTIVE)
"""The first one is the reference."""
COMPARED_STEPS = 10
"""Training steps whose losses are compared; the first ones are equal to the last bit."""


@dataclass(frozen=True)
class ContentionJob:
    """What is measured.

    Attributes:
        dataset: Id or name of a dataset that is planned and preprocessed.
        trainer: A recipe without length words.
        configuration: Such as `2d`.
        plans: Name of the plans.
        fold: Index from 0, or `all`.
        repeats: Turns of each side.
        busy: Number of busy processes.
        settle_s: Seconds at the start of a turn that are not counted, for the number of threads to adapt.
        window_s: Seconds that are counted.
        compiled: Measure the compiled training step instead of the eager one.
    """

    dataset: str
    trainer: str = "UNetTrainer_fast"
    configuration: str = "2d"
    plans: str = "CompactPlans"
    fold: int | str = 0
    repeats: int = 2
    busy: int = 1
    settle_s: float = 4.0
    window_s: float = 5.0
    compiled: bool = False


def benchmark_contention(job: ContentionJob, root: Path | None = None) -> Result:
    """Measure the seconds of a training step, a validation step and a predicted case on the CPU, in turns.

    Args:
        job: What to measure.
        root: nnU-Net's root folder, for those of its variables that are unset. Only the preprocessed folder is used.

    Raises:
        ConfigError: A dataset, plans, configuration or trainer that does not exist, or a trainer that is not ours.
    """
    dataset, _ = trainable(job.dataset, job.plans, job.configuration, job.fold, root)
    name = trainer_of_length(job.trainer, 1000, 250)  # longer than the measurement
    if name == job.trainer:
        raise ConfigError(f"--trainer {job.trainer}: only trainers of hippo_nnunet adapt their threads; name one")
    measures: dict[str, dict[str, list[float]]] = {side: {} for side in SIDES}
    threads: dict[str, dict[str, int]] = {side: {} for side in SIDES}
    with (
        tempfile.TemporaryDirectory(prefix="hippo-benchmark-") as scratch,
        scratch_environment(Path(scratch), root, nnUNet_compile="f"),
    ):
        work = _Work(name, dataset, job)
        checks = work.compare_threads()
        for kind, unit in work.units().items():
            for side, _ in turns(SIDES, job.repeats):
                with _busy(job.busy if side in (BUSY_FIXED, BUSY_ADAPTIVE) else 0):
                    seconds, threads[side][kind] = work.measure(unit, side in (ALONE_FIXED, BUSY_FIXED))
                measures[side].setdefault(f"{kind}_seconds", []).append(seconds)
                log.info("%s, %s: %.3f s with %d threads", kind, side, seconds, threads[side][kind])
    settings = {
        "dataset": dataset,
        "trainer": job.trainer,
        "configuration": job.configuration,
        "plans": job.plans,
        "device": "cpu",
        "compiled": job.compiled,
        "busy_processes": job.busy,
        "settle_seconds": job.settle_s,
        "window_seconds": job.window_s,
        "repeats": job.repeats,
    }
    return Result("contention", settings, measures, {**checks, "last_threads": threads}, (_NOTE,))


_NOTE = (
    "training and validation seconds are those of a step with its batch, prediction seconds those of a case; means "
    "over the window, after the settling time in which the number of threads adapts"
)


class _Work:
    """A trainer and a predictor that are ready, with the state that they start from."""

    def __init__(self, name: str, dataset: str, job: ContentionJob) -> None:
        import torch
        from nnunetv2.run.run_training import get_trainer_from_args

        from hippo_nnunet.inference.batched_predictor import BatchedPredictor
        from hippo_nnunet.inference.sliding_window import PreprocessedImage
        from hippo_nnunet.nnunet.memory_cases import read_case
        from hippo_nnunet.training.step import step_modes

        self.job, self.device = job, set_up("cpu")
        self.trainer = get_trainer_from_args(dataset, job.configuration, job.fold, name, job.plans, device=self.device)
        self.trainer.disable_checkpointing = True
        self.trainer.on_train_start()
        self.trainer.on_epoch_start()
        self.trainer.on_train_epoch_start()
        if job.compiled:
            self.trainer.set_step_mode(next(mode for mode in step_modes(self.device) if mode.compiled))
        self.trainer.set_deep_supervision_enabled(False)
        network = copy.deepcopy(self.trainer.network)
        self.trainer.set_deep_supervision_enabled(True)
        self.predictor = BatchedPredictor(self.device, backend="torch")
        self.predictor.manual_initialization(
            network,
            self.trainer.plans_manager,
            self.trainer.configuration_manager,
            None,
            self.trainer.dataset_json,
            type(self.trainer).__name__,
            self.trainer.inference_allowed_mirroring_axes,
        )
        _, keys = self.trainer.do_split()
        cases = self.trainer.dataset_class(self.trainer.preprocessed_dataset_folder, keys)
        image, _, _ = read_case(cases, cases.identifiers[0])
        self.image = PreprocessedImage(torch.from_numpy(image).float())
        self.stateful = (self.trainer.network, self.trainer.optimizer, self.trainer.lr_scheduler)
        self.start = [copy.deepcopy(part.state_dict()) for part in self.stateful]

    def units(self) -> dict[str, Callable[[], object]]:
        """Return what is repeated, by its name."""
        return {"training": self._train, "validation": self._validate, "prediction": self._predict}

    def _train(self) -> dict[str, Any]:
        self.trainer.network.train()
        return dict(self.trainer.train_step(next(self.trainer.dataloader_train)))

    def _validate(self) -> dict[str, Any]:
        import torch

        self.trainer.network.eval()
        with torch.no_grad():
            return dict(self.trainer.validation_step(next(self.trainer.dataloader_val)))

    def _predict(self) -> Any:
        (logits,) = self.predictor.predict_images([self.image])
        return logits

    def measure(self, unit: Callable[[], object], fixed: bool) -> tuple[float, int]:
        """Return the mean seconds of a unit of work, and the number of threads at the end."""
        from hippo_nnunet.threads import AdaptiveThreads

        with AdaptiveThreads(self.device, fixed) as threads:
            self.trainer.threads = self.predictor.threads = threads
            mean_seconds(unit, self.job.settle_s)
            return mean_seconds(unit, self.job.window_s), threads.current

    def compare_threads(self) -> dict[str, Any]:
        """Return how batches, losses and logits with one thread compare with those with all threads."""
        import torch

        most = torch.get_num_threads()
        found = []
        for number in (most, 1):
            torch.set_num_threads(number)
            for part, state in zip(self.stateful, self.start, strict=True):
                part.load_state_dict(copy.deepcopy(state))
            self.trainer.dataloader_train.step = 0
            batches, losses = [], []
            for _ in range(COMPARED_STEPS):
                batches.append(next(self.trainer.dataloader_train))
                losses.append(float(self.trainer.train_step(batches[-1])["loss"]))
            found.append((batches, losses, self._predict()))
        torch.set_num_threads(most)
        (batches, losses, logits), (other_batches, other_losses, other_logits) = found
        return {
            "threads": most,
            "same_batches": all(
                torch.equal(one["data"], other["data"]) for one, other in zip(batches, other_batches, strict=True)
            ),
            "largest_loss_difference": max(abs(a / b - 1) for a, b in zip(other_losses, losses, strict=True)),
            "largest_logit_difference": float((other_logits - logits).abs().max() / logits.abs().max()),
        }


def mean_seconds(unit: Callable[[], object], window_s: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Repeat a unit of work, at least once, until a window is over; return the mean seconds of one."""
    began, count = clock(), 0
    while count == 0 or clock() - began < window_s:
        unit()
        count += 1
    return (clock() - began) / count


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """Run this many processes, each of which keeps a core busy."""
    processes = [subprocess.Popen(python_command("-c", "while True: pass")) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
