"""Interrupted trainings go on exactly, and never leave a checkpoint that cannot be read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from tiny_dataset import UNET, TinyDataset

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.nnunet.checkpoints import check_same_precision
from hippo_nnunet.trainers import recipe_trainer, resumable_trainer
from hippo_nnunet.training.step import EAGER, StepMode, make_deterministic

pytestmark = pytest.mark.slow

CHANNELS_LAST = StepMode("channels last", channels_last=True)


class StoppedError(Exception):
    pass


def stop_after(trainer, steps: int) -> None:
    """Make the trainer break off after so many training steps, as a crash would."""
    real = trainer.train_step

    def train_step(batch: dict) -> dict:
        nonlocal steps
        if steps == 0:
            raise StoppedError
        steps -= 1
        return real(batch)

    trainer.train_step = train_step


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)["network_weights"]


def steps_in(path: Path, iterations: int) -> int:
    """How many training steps a checkpoint has behind it."""
    checkpoint = torch.load(path, weights_only=False)
    return checkpoint["current_epoch"] * iterations + len(checkpoint["hippo_nnunet"]["record"]["epoch_outputs"])


def run_to_the_end(tiny: TinyDataset, name: str, resume: bool = False):
    trainer = tiny.trainer(name)
    maybe_load_checkpoint(trainer, resume, False)
    trainer.run_training()
    return trainer


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("AttentionUNetTrainer_fast_2epochs_4iters", 1),
        ("AttentionUNetTrainer_fast_2epochs_4iters", 4),
        ("AttentionUNetTrainer_fast_2epochs_4iters", 7),
        ("CLIPGuidedUNetTrainer_mini_fast_2epochs_4iters", 5),
    ],
)
def test_a_resumed_training_ends_with_the_same_weights(in_tiny, monkeypatch, name, steps):
    monkeypatch.setenv("HIPPO_ADAPT_THREADS", "f")  # without a seed word, bits depend on the number of threads
    whole = run_to_the_end(in_tiny, name)
    folder = Path(whole.output_folder)
    undisturbed, logged = weights_of(folder / "checkpoint_final.pth"), whole.logger.get_value("train_losses", None)
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()

    monkeypatch.setattr(resumable_trainer, "CHECKPOINT_INTERVAL_S", 0.0)
    broken = in_tiny.trainer(name)
    stop_after(broken, steps)
    with pytest.raises(StoppedError):
        broken.run_training()
    assert steps_in(folder / "checkpoint_latest.pth", 4) == steps
    resumed = run_to_the_end(in_tiny, name, resume=True)

    final = weights_of(folder / "checkpoint_final.pth")
    assert all(torch.equal(final[key], value) for key, value in undisturbed.items())
    assert resumed.logger.get_value("train_losses", None) == pytest.approx(logged)
    summary = json.loads((folder / "hippo_training.json").read_text())
    assert summary["resumed"] == 1
    assert summary["iterations"] == 8
    assert summary["seed"] == 0
    assert not (folder / "checkpoint_latest.pth").exists()


@pytest.mark.parametrize("name", ["UNetTrainer_1epochs_2iters", "UNetTrainer_fast_1epochs_2iters"])
@pytest.mark.parametrize("modes", [(CHANNELS_LAST, EAGER), (EAGER, CHANNELS_LAST)])
def test_a_training_resumes_in_another_memory_format(in_tiny, tmp_path, name, modes):
    """The optimiser's state follows the weights, as fused optimisers require."""
    path = str(tmp_path / "checkpoint_latest.pth")
    first = in_tiny.trainer(name)
    first.initialize()
    first.set_step_mode(modes[0])
    batch = next(first.get_dataloaders()[0])
    first.train_step(batch)
    first.save_checkpoint(path)
    second = in_tiny.trainer(name)
    second.load_checkpoint(path)
    for mode in (None, modes[1]):  # as loaded, and as trained on
        if mode is not None:
            second.set_step_mode(mode)
        states = (trainer.optimizer.state.values() for trainer in (first, second))
        for parameter, before, after in zip(second.optimizer.state, *states, strict=True):
            names = [n for n, v in after.items() if isinstance(v, torch.Tensor) and v.shape == parameter.shape]
            assert names
            assert all(after[name].stride() == parameter.stride() for name in names)
            assert all(torch.equal(after[name], before[name]) for name in names)
    second.train_step(batch)


def test_a_folder_of_another_schedule_is_refused(in_tiny, monkeypatch):
    monkeypatch.setattr(resumable_trainer, "CHECKPOINT_INTERVAL_S", 0.0)
    broken = in_tiny.trainer("UNetTrainer_fast_3epochs_2iters")
    stop_after(broken, 3)
    with pytest.raises(StoppedError):
        broken.run_training()
    latest = Path(broken.output_folder) / "checkpoint_latest.pth"
    before = latest.read_bytes()

    changed = in_tiny.trainer("UNetTrainer_fast_3epochs_2iters")
    changed.record.schedule["max_lr"] = 0.5
    maybe_load_checkpoint(changed, True, False)
    with pytest.raises(ConfigError, match=r"begun with another schedule \(max_lr was .*, is now 0.5\)"):
        changed.run_training()
    assert latest.read_bytes() == before


def interrupted_in(precision: str, tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    """Train a step in a precision, break off, and return the checkpoint."""
    monkeypatch.setattr(resumable_trainer, "CHECKPOINT_INTERVAL_S", 0.0)
    monkeypatch.setenv("HIPPO_PRECISION", precision)
    broken = tiny.trainer(name)
    stop_after(broken, 1)
    with pytest.raises(StoppedError):
        broken.run_training()
    return Path(broken.output_folder) / "checkpoint_latest.pth"


def recorded_precision(folder: Path) -> str:
    """Return what `hippo_training.json` and the final checkpoint record, which agree."""
    recorded = json.loads((folder / "hippo_training.json").read_text())["precision"]
    checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["hippo_nnunet"]["record"]["precision"] == recorded
    return recorded


def test_another_precision_is_refused_with_the_remedy(in_tiny, monkeypatch):
    name = "UNetTrainer_fast_1epochs_2iters_seed8"
    latest = interrupted_in("bfloat16", in_tiny, monkeypatch, name)
    before = latest.read_bytes()
    monkeypatch.setenv("HIPPO_PRECISION", "float32")
    with pytest.raises(
        ConfigError,
        match=r"fold_0 was begun in bfloat16, this process trains in float32: .*HIPPO_PRECISION=bfloat16, or delete",
    ):
        run_to_the_end(in_tiny, name, resume=True)
    assert latest.read_bytes() == before
    monkeypatch.setenv("HIPPO_PRECISION", "bfloat16")
    folder = Path(run_to_the_end(in_tiny, name, resume=True).output_folder)
    assert recorded_precision(folder) == "bfloat16"
    monkeypatch.setenv("HIPPO_PRECISION", "float32")
    run_to_the_end(in_tiny, name, resume=True)  # nothing is left to train
    assert recorded_precision(folder) == "bfloat16"


def test_a_checkpoint_without_a_precision_can_be_resumed(in_tiny, monkeypatch):
    """Versions that trained in float32 alone did not record it."""
    name = "UNetTrainer_fast_1epochs_2iters_seed9"
    latest = interrupted_in("float32", in_tiny, monkeypatch, name)
    checkpoint = torch.load(latest, weights_only=False)
    del checkpoint["hippo_nnunet"]["record"]["precision"]
    torch.save(checkpoint, latest)
    monkeypatch.setenv("HIPPO_PRECISION", "bfloat16")
    assert run_to_the_end(in_tiny, name, resume=True).current_epoch == 1


@pytest.mark.parametrize(
    ("stored", "now", "device", "remedy"),
    [
        ("float16", "bfloat16", "cpu", "Resume on a CUDA device"),
        ("bfloat16", "float16", "cuda", r"Resume on a CPU \(--device cpu\) with HIPPO_PRECISION=bfloat16"),
        ("float32", "bfloat16", "cpu", "Set HIPPO_PRECISION=float32"),
    ],
)
def test_the_remedy_for_another_precision_depends_on_the_device(stored, now, device, remedy):
    with pytest.raises(ConfigError, match=f"begun in {stored}, this process trains in {now}: .*{remedy}"):
        check_same_precision(stored, now, torch.device(device), "fold_0")


def test_a_checkpoint_of_other_plans_is_refused(in_tiny, tmp_path):
    first, second = (in_tiny.trainer("UNetTrainer_fast_1epochs_1iters") for _ in range(2))
    first.initialize()
    first.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    second.plans_manager.plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 4, 4]
    with pytest.raises(ConfigError, match="trained with other plans: architecture was"):
        second.load_checkpoint(str(tmp_path / "checkpoint_final.pth"))


def test_a_checkpoint_of_other_cases_is_refused(in_tiny, tmp_path):
    """In training and in a repeated validation, which both ask for the fold's cases."""
    trainer = in_tiny.trainer("UNetTrainer_fast_1epochs_1iters")
    trainer.initialize()
    train, val = trainer.do_split()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    trainer.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    assert trainer.do_split() == (train, val)
    splits = in_tiny.preprocessed / "splits_final.json"
    before = splits.read_text()
    splits.write_text(json.dumps([{"train": [*train[1:], *val], "val": train[:1]}]))
    try:
        with pytest.raises(ConfigError, match=r"trained with another split: '.*' is (now|no longer) in val"):
            trainer.do_split()
    finally:
        splits.write_text(before)
    trainer.record.write_summary(tmp_path, trainer.device)
    assert json.loads((tmp_path / "hippo_training.json").read_text())["split"]["val"] == sorted(val)


def test_a_truncated_checkpoint_is_named(in_tiny, tmp_path):
    trainer = in_tiny.trainer("UNetTrainer_fast_1epochs_1iters")
    trainer.initialize()
    path = tmp_path / "checkpoint_final.pth"
    trainer.save_checkpoint(str(path))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"checkpoint_final.pth cannot be read .* delete it"):
        trainer.load_checkpoint(str(path))


def test_a_checkpoint_holds_everything_that_nnunets_own_holds(in_tiny, tmp_path):
    """Contract: our writer must not forget what a later nnU-Net adds."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    trainer = in_tiny.trainer("UNetTrainer_fast_1epochs_1iters")
    trainer.initialize()
    nnUNetTrainer.save_checkpoint(trainer, str(tmp_path / "theirs.pth"))
    trainer.save_checkpoint(str(tmp_path / "ours.pth"))
    theirs = torch.load(tmp_path / "theirs.pth", weights_only=False)
    ours = torch.load(tmp_path / "ours.pth", weights_only=False)
    assert set(ours) == {*theirs, "hippo_nnunet"}
    assert all(torch.equal(ours["network_weights"][k], v) for k, v in theirs["network_weights"].items())
    assert ours["current_epoch"] == theirs["current_epoch"]


def test_a_killed_training_leaves_a_readable_checkpoint_and_goes_on(in_tiny):
    """SIGKILL at three moments; a checkpoint is written after every step here."""
    name = "UNetTrainer_fast_5epochs_8iters_seed7"
    folder = in_tiny.model(name) / "fold_0"
    program = f"""
import os, sys, torch
torch.set_num_threads(1)
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from hippo_nnunet.trainers import resumable_trainer
resumable_trainer.CHECKPOINT_INTERVAL_S = 0.0
for _ in sys.stdin:  # a process for each training, which need not import torch again
    child = os.fork()
    if child == 0:
        sys.stdout = open(os.devnull, "w")
        trainer = get_trainer_from_args({in_tiny.name!r}, "2d", 0, {name!r}, "TinyPlans", device=torch.device("cpu"))
        maybe_load_checkpoint(trainer, True, False)
        trainer.run_training()
        os._exit(0)
    print(child, flush=True)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
"""
    latest, reached = folder / "checkpoint_latest.pth", 0
    starter = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **in_tiny.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with starter:
        for wait_s in (0.0, 0.21, 0.47):
            stamp = latest.stat().st_mtime_ns if latest.exists() else 0
            starter.stdin.write("train\n")
            starter.stdin.flush()
            training = int(starter.stdout.readline())
            begun = time.monotonic()
            while not (latest.exists() and latest.stat().st_mtime_ns != stamp):
                assert psutil.pid_exists(training), "the training ended before it was killed"
                assert time.monotonic() - begun < 120
                time.sleep(0.01)
            time.sleep(wait_s)
            with suppress(ProcessLookupError):
                os.kill(training, signal.SIGKILL)
            assert int(starter.stdout.readline()) in (signal.SIGKILL, 0)
            if (folder / "checkpoint_final.pth").exists():
                break
            done = steps_in(latest, 8)
            assert done >= reached  # equal where the kill came within the epoch's validation
            reached = done
        starter.stdin.close()
    trainer = run_to_the_end(in_tiny, name, resume=True)
    assert json.loads((folder / "hippo_training.json").read_text())["resumed"] >= 1, "began anew"
    assert trainer.current_epoch == 5
    assert len(trainer.logger.get_value("train_losses", None)) == 5


def test_a_resumed_training_with_a_seed_word_is_deterministic_again(in_tiny, monkeypatch):
    """nnU-Net sets cuDNN's benchmark after it has loaded a checkpoint, and so after `initialize`."""
    on_gpu = torch.device("cuda")
    monkeypatch.setattr(recipe_trainer, "make_deterministic", lambda _: make_deterministic(on_gpu))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    trainer = in_tiny.trainer(UNET)
    trainer.initialize()
    torch.backends.cudnn.benchmark = True
    try:
        trainer.on_train_start()
        assert not torch.backends.cudnn.benchmark
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
