"""Trainings and predictions whose number of CPU threads changes midway see the same batches and give equal results."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_dataset import TEST_CASES, TinyDataset
from torch import nn

from hippo_nnunet import threads
from hippo_nnunet.inference import batched_predictor
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.threads import AdaptiveThreads, CpuTimes
from hippo_nnunet.training.step import build, step_modes

pytestmark = pytest.mark.slow

LOSS_TOLERANCE = 1e-4
"""Largest relative difference of a step's loss, in float32, after a few steps with another number of threads."""
TRAINER = "UNetTrainer_fast_1epochs_8iters"


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "usable_cpus", lambda: [0, 1])
    monkeypatch.setenv("HIPPO_PRECISION", "float32")


class Busy:
    """A clock that moves a second with each look, and counters by which another program takes a core after some."""

    def __init__(self, after: float) -> None:
        self.after, self.ticks = after, itertools.count()
        self.now = 0.0

    def clock(self) -> float:
        self.now = float(next(self.ticks))
        return self.now

    def read(self) -> CpuTimes:
        return CpuTimes(busy_s=1.0 + max(0.0, self.now - self.after), own_s=0.0)


def trained(tiny: TinyDataset, busy: Busy | None) -> tuple[list[torch.Tensor], list[float], list[int]]:
    """Train and validate; returns the batches, the losses and the numbers of threads."""
    trainer = tiny.trainer(TRAINER)
    if busy is not None:
        trainer.threads = AdaptiveThreads(
            trainer.device, report=trainer.print_to_log_file, read=busy.read, clock=busy.clock
        )
    batches: list[torch.Tensor] = []
    losses: list[float] = []
    numbers: list[int] = []
    step = trainer.train_step

    def train_step(batch: dict[str, Any]) -> dict[str, Any]:
        batches.append(batch["data"].clone())
        output = step(batch)
        losses.append(float(output["loss"]))
        numbers.append(torch.get_num_threads())
        return output

    trainer.train_step = train_step
    trainer.run_training()
    assert torch.get_num_threads() == 2
    trainer.perform_actual_validation()
    return batches, losses, numbers


def test_a_training_that_loses_a_core_sees_the_same_batches(
    in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(threads.VARIABLE, "f")
    batches, losses, numbers = trained(in_tiny, None)
    monkeypatch.delenv(threads.VARIABLE)
    changed, changed_losses, changed_numbers = trained(in_tiny, Busy(after=20))
    assert set(numbers) == {2}
    assert changed_numbers == sorted(changed_numbers, reverse=True)
    assert set(changed_numbers) == {1, 2}
    assert all(torch.equal(one, other) for one, other in zip(batches, changed, strict=True))
    assert changed_losses == pytest.approx(losses, rel=LOSS_TOLERANCE)
    logs = (in_tiny.model(TRAINER) / "fold_0").glob("training_log_*.txt")
    assert sum(path.read_text().count("CPU threads: 2 -> 1") for path in logs) >= 1


@pytest.mark.parametrize(("name", "number"), [(f"{TRAINER}_seed3", 2), (TRAINER, 1)])
def test_a_training_with_a_seed_word_keeps_its_number(
    name: str, number: int, in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Busy(after=0)
    adaptive = functools.partial(AdaptiveThreads, read=busy.read, clock=busy.clock)
    monkeypatch.setattr("hippo_nnunet.trainers.recipe_trainer.AdaptiveThreads", adaptive)
    adapter = in_tiny.trainer(name).threads
    with adapter:
        for _ in range(3):
            with adapter.step("training"):
                pass
        assert torch.get_num_threads() == number


def test_a_training_keeps_to_the_quota_of_its_container(in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: 1.0)
    in_tiny.trainer(TRAINER).run_training()
    assert torch.get_num_threads() == 1


def test_a_prediction_that_loses_a_core_gives_the_same_probabilities(
    in_tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = in_tiny.trainer(TRAINER)
    trainer.initialize()
    trainer.on_train_start()
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    monkeypatch.setitem(batched_predictor.VOXELS_PER_BATCH, "cpu", 4 * 16 * 16)
    forward, numbers = batched_predictor.BatchedPredictor._forward, []

    def counted(predictor: Any, *arguments: Any) -> torch.Tensor:
        numbers.append(torch.get_num_threads())
        return forward(predictor, *arguments)

    monkeypatch.setattr(batched_predictor.BatchedPredictor, "_forward", counted)
    busy = Busy(after=20)
    adaptive = functools.partial(AdaptiveThreads, read=busy.read, clock=busy.clock)
    options = PredictOptions(folds=(0,), device="cpu", save_probabilities=True, backend="torch")
    for name, threads_of in (("as-is", functools.partial(AdaptiveThreads, fixed=True)), ("changed", adaptive)):
        numbers.clear()
        monkeypatch.setattr("hippo_nnunet.inference.predict.AdaptiveThreads", threads_of)
        predict(in_tiny.images, tmp_path / name, [in_tiny.model(TRAINER)], options)
        assert set(numbers) == ({2} if name == "as-is" else {1, 2})
    for case in TEST_CASES:
        before, after = (np.load(tmp_path / name / f"{case}.npz")["probabilities"] for name in ("as-is", "changed"))
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_compiled_step_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where torch can be told so."""
    if torch.__version__ < "2.7":
        pytest.skip("this torch compiles again with another number of threads")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 2, 1))
    data, target = torch.randn(8, 1, 64, 64), torch.randint(0, 2, (8, 64, 64))
    step = build(network, nn.functional.cross_entropy, step_modes(torch.device("cpu"))[-1])
    losses = []
    for number in (2, 1, 2):
        torch.set_num_threads(number)
        with torch.compiler.set_stance("default" if not losses else "fail_on_recompile"):
            loss = step(data, target)
        loss.backward()
        losses.append(loss.item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    torch.compiler.reset()
