"""GPUs of one machine, shared out among trainings that run at the same time; the GPUs are names alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.workflow import devices, launch, steps
from hippo_nnunet.workflow.launch import Settings

VISIBLE = "CUDA_VISIBLE_DEVICES"
TRAINING = """
import os, sys
from hippo_nnunet.workflow.devices import one_gpu
with one_gpu(sys.argv[1].split(",")):
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)


def start(gpus: str) -> tuple[subprocess.Popen[str], str]:
    """Start a process that stands for a training, and return the GPU that it sees."""
    command = [sys.executable, "-c", TRAINING, gpus]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_trainings_at_the_same_time_share_no_gpu_while_another_is_free() -> None:
    gpus = "0,1,MIG-5f/2"
    running = [start(gpus) for _ in range(3)]
    assert sorted(gpu for _, gpu in running) == ["0", "1", "MIG-5f/2"]
    extra, second_on = start(gpus)
    assert second_on == "0"
    killed, gpu = running[1]
    killed.kill()
    killed.wait()
    after, taken = start(gpus)
    assert taken == gpu
    for process in (*(process for process, _ in running), extra, after):
        process.kill()
        process.communicate()


@pytest.mark.parametrize("gpus", ["", "3"])
def test_without_a_choice_nothing_changes(gpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with devices.one_gpu(gpus.split(",")):
        assert VISIBLE not in os.environ
    monkeypatch.setenv(VISIBLE, "0,1")
    with devices.one_gpu(gpus.split(",")):
        assert os.environ[VISIBLE] == "0,1"


def test_the_variable_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    with devices.one_gpu(["4", "6"]):
        assert os.environ[VISIBLE] == "4"
    assert VISIBLE not in os.environ
    monkeypatch.setenv(VISIBLE, "4,6")
    with devices.one_gpu(["4", "6"]):
        assert os.environ[VISIBLE] == "4"
    assert os.environ[VISIBLE] == "4,6"


@pytest.mark.parametrize(
    ("variable", "found", "expected"),
    [(None, 2, ["0", "1"]), ("3, GPU-9", 2, ["3", "GPU-9"]), ("0,1,9", 2, ["0", "1"]), ("", 0, []), (None, 0, [])],
)
def test_visible_gpus(monkeypatch: pytest.MonkeyPatch, variable: str | None, found: int, expected: list[str]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    if variable is not None:
        monkeypatch.setenv(VISIBLE, variable)
    assert devices.visible_gpus() == expected


def test_a_training_job_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(steps.api, "train_fold", lambda job, wait: seen.append((job.device, os.environ.get(VISIBLE))))
    asked = Experiment("Dataset004_Hippocampus", "gpu", ("UNet",), {"2d": (0,)})
    for gpus in ("5,7", ""):
        steps.train(asked, asked.cells()[0], "cuda", 1, gpus)
    assert seen == [("cuda", "5"), ("cuda", None)]


def test_jobs_of_this_machine_are_told_its_gpus_and_those_of_a_cluster_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "visible_gpus", lambda: ["2", "MIG-5f/2"])

    def told(settings: Settings) -> str | None:
        words = launch.snakemake_command(tmp_path, settings, ("predictions",))
        return dict(word.split("=", 1) for word in words[words.index("--config") + 1 :]).get("gpus")

    assert unquote(told(Settings("cuda", 2)) or "") == "2,MIG-5f/2"
    assert told(Settings("cpu", 2)) is None
    assert told(Settings("cuda", 2, "slurm")) is None
