"""SIGTERM, a second process, a full disk, a worker that is killed: what a training and its helpers do then."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from tiny_dataset import TinyDataset

from hippo_nnunet import processes as watched
from hippo_nnunet.errors import ConfigError, DataError, TrainingError, UpstreamError
from hippo_nnunet.nnunet.checkpoints import checkpoint_interval_s
from hippo_nnunet.nnunet.finished import is_finished, lacks_descriptions
from hippo_nnunet.nnunet.fold_lock import LOCK, fold_lock

pytestmark = pytest.mark.slow

NAME = "UNetTrainer_fast_4epochs_6iters_seed3"
PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from hippo_nnunet.nnunet.api import TrainJob, train_fold
dataset, name, fold = sys.argv[1:]
train_fold(TrainJob(dataset, "2d", int(fold), name, "TinyPlans", "cpu", threads=1))
"""

HOLDER = """
import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def training(tiny: TinyDataset, fold: int = 0, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tiny.name, NAME, str(fold)],
        env={**os.environ, **tiny.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epoch(folder: Path, of: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 600
    while not any("Current learning rate" in log.read_text() for log in folder.glob("training_log_*.txt")):
        assert of.poll() is None, of.stderr.read() if of.stderr else ""
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_training_that_diverges_ends_and_keeps_its_last_good_checkpoint(in_tiny: TinyDataset) -> None:
    trainer = in_tiny.trainer("UNetTrainer_fast_3epochs_2iters_seed4", "2d", 0)
    own_step = type(trainer).train_step

    def train_step(batch: dict) -> dict:
        if trainer.current_epoch == 1:
            batch["data"] = batch["data"] * float("nan")
        return own_step(trainer, batch)

    trainer.train_step = train_step
    with pytest.raises(
        TrainingError, match=r"fold_0: the training diverged in epoch 1 .*checkpoint_best.pth from before"
    ):
        trainer.run_training()
    folder = Path(trainer.output_folder)
    assert not (folder / "checkpoint_final.pth").exists()
    kept = torch.load(folder / "checkpoint_best.pth", weights_only=False)
    assert kept["current_epoch"] == 1
    assert all(weights.isfinite().all() for weights in kept["network_weights"].values())


def test_sigterm_saves_a_checkpoint_and_the_fold_is_free_for_the_next(in_tiny: TinyDataset) -> None:
    folder = in_tiny.model(NAME) / "fold_0"
    first = training(in_tiny)
    wait_for_epoch(folder, first)
    first.send_signal(signal.SIGSTOP)  # so that it cannot finish while the second one starts
    second = training(in_tiny)
    _, says = second.communicate()
    assert second.returncode == 1
    assert "another process trains or validates this fold; wait for it" in says.splitlines()[-1]
    first.send_signal(signal.SIGTERM)
    first.send_signal(signal.SIGCONT)
    first.communicate()
    assert first.returncode == 143
    latest = torch.load(folder / "checkpoint_latest.pth", weights_only=False)
    steps = latest["current_epoch"] * 6 + len(latest["hippo_nnunet"]["record"]["epoch_outputs"])
    assert 0 < steps < 24
    third = training(in_tiny)
    _, says = third.communicate()
    assert third.returncode == 0, says
    assert is_finished(folder)
    assert json.loads((folder / "hippo_training.json").read_text())["resumed"] == 1


def test_a_fold_that_another_holds_is_not_touched(in_tiny: TinyDataset) -> None:
    name = "UNetTrainer_fast_1epochs_1iters_seed4"
    trainer = in_tiny.trainer(name)
    command = [sys.executable, "-c", HOLDER, str(Path(trainer.output_folder) / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for work in (trainer.run_training, trainer.perform_actual_validation):
            with pytest.raises(ConfigError, match="another process trains or validates this fold"):
                work()
        other.kill()
    assert not list(Path(trainer.output_folder).glob("checkpoint_*"))
    trainer.run_training()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    in_tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = in_tiny.trainer("UNetTrainer_fast_1epochs_1iters")
    trainer.initialize()
    path = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(path))
    before = path.read_bytes()

    def full_disk(_checkpoint: dict, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(
        DataError, match=r"checkpoint_latest.pth cannot be written \(No space left.*make room.*run again"
    ):
        trainer.save_checkpoint(str(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_lost_descriptions_are_made_again_from_the_checkpoint(trained: TinyDataset, monkeypatch, tmp_path) -> None:
    import shutil

    from tiny_dataset import UNET

    from hippo_nnunet.nnunet.checkpoints import restore_descriptions

    model = shutil.copytree(trained.model(UNET), tmp_path / trained.model(UNET).name)
    before = {name: json.loads((model / name).read_text()) for name in ("plans.json", "dataset.json")}
    for path in (model / "plans.json", model / "dataset.json", model / "fold_0" / "hippo_training.json"):
        path.unlink()
    assert lacks_descriptions(model / "fold_0")
    with fold_lock(model / "fold_0"):
        restore_descriptions(model / "fold_0", torch.device("cpu"))
    assert not lacks_descriptions(model / "fold_0")
    assert {name: json.loads((model / name).read_text()) for name in before} == before


def test_a_pool_whose_worker_is_killed_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "GRACE_S", 0.5)
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, os, signal, sys, time\n"
        "def work(n):\n"
        "    time.sleep(0.6)\n"  # long enough to be seen
        "    if n == 1 and sys.argv[1:] == ['die']: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return n\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool: pool.map(work, range(4), chunksize=1)\n"
        "    sys.exit('the end')\n"
    )
    assert watched.run_watched([sys.executable, str(program)]) == (1, "the end\n")
    with pytest.raises(UpstreamError, match="a worker process of nnU-Net was killed"):
        watched.run_watched([sys.executable, str(program), "die"])


def test_the_seconds_between_checkpoints_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIPPO_CHECKPOINT_SECONDS", raising=False)
    assert checkpoint_interval_s(120.0) == 120.0
    monkeypatch.setenv("HIPPO_CHECKPOINT_SECONDS", "0.5")
    assert checkpoint_interval_s(120.0) == 0.5
    monkeypatch.setenv("HIPPO_CHECKPOINT_SECONDS", "often")
    with pytest.raises(ConfigError, match="HIPPO_CHECKPOINT_SECONDS=often"):
        checkpoint_interval_s(120.0)
