"""A job's log begins with the command that repeats it; jobs end with the run that started them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest

from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.processes import python_command
from hippo_nnunet.workflow import jobs, launch
from hippo_nnunet.workflow.jobs import REPEAT, log_header

ARGUMENTS = ["--log", "logs/train/UNet/2d/fold_1.log", "train", "--variant", "UNet", "--configuration", "2d"]
ARGUMENTS += ["--fold", "1", "--device", "cpu", "--threads", "2"]


def repeated(log: str) -> tuple[str, dict[str, str], list[str]]:
    """Take the command out of a log: its folder, its variables, and the words after them."""
    first = log.splitlines()[0]
    assert first.startswith(REPEAT)
    folder, _, command = first.removeprefix(REPEAT).partition(" && ")
    words = shlex.split(command)
    assert words.pop(0) == "env"
    variables = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    (change, where) = shlex.split(folder)
    assert change == "cd"
    return where, variables, words


def test_the_command_in_a_log_repeats_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mein Versuch ä's"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("nnUNet_raw", str(folder / "r a w"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    seen = []
    monkeypatch.setattr(jobs, "run_job", lambda *given: seen.append(given[::2]) or 0)
    assert jobs.main(ARGUMENTS) == 0
    where, variables, words = repeated(capsys.readouterr().err)
    assert where == str(folder)
    assert variables["nnUNet_raw"] == str(folder / "r a w")
    assert variables["CUDA_VISIBLE_DEVICES"] == "0,1"
    command = python_command("-m", "hippo_nnunet.workflow.jobs")
    assert words == [*command, *ARGUMENTS]
    assert jobs.main(words[len(command) :]) == 0
    assert seen == [("train UNet 2d fold 1", "logs/train/UNet/2d/fold_1.log")] * 2


def test_a_training_job_is_that_cell_of_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    asked = Experiment("Dataset004_X", "laptop", ("UNet",), {"2d": (1,)})
    asked.save(tmp_path / "experiment.yaml")
    seen = []
    monkeypatch.setattr(jobs.steps, "train", lambda *given: seen.append(given))
    assert jobs.main([*ARGUMENTS, "--gpus", "0,1"]) == 0
    assert seen == [(asked, asked.cells()[0], "cpu", 2, "0,1", False)]
    assert jobs.main(["train", "--variant", "UNet", "--configuration", "2d", "--fold", "0"]) == 1
    assert "experiment.yaml asks for no UNet 2d fold 0" in capsys.readouterr().err


def test_a_shell_takes_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    header = log_header(["--help"], {"nnUNet_raw": "/x y/$HOME", "nnUNet_def_n_proc": "2", "PATH": "/bin"})
    command = header.splitlines()[0].removeprefix(REPEAT)
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--variant" in done.stdout


def test_the_header_tells_versions_and_no_secrets() -> None:
    environ = {"HIPPO_TASK04": "/data", "WANDB_API_KEY": "secret", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "1"}
    header = log_header(["plan"], environ)
    assert "secret" not in header
    for part in (
        "# HIPPO_TASK04=/data",
        "# SLURM_JOB_ID=7",
        "# OMP_NUM_THREADS=1",
        "nnunetv2 2.",
        "torch 2.",
        "Python 3",
    ):
        assert part in header
    assert "SLURM_JOB_ID" not in header.splitlines()[0]
    assert all(line.startswith("# ") for line in header.splitlines())


@pytest.mark.parametrize("name", ["plain", "a b: c #d", "Größe & 'co'", 'x"y', "{a}", "[1]", "1"])
def test_snakemake_gets_the_path_of_the_task_as_it_is(name: str, tmp_path: Path) -> None:
    assert 'source=lambda wildcards: unquote(str(config.get("source"' in launch.SNAKEFILE.read_text()
    cli = pytest.importorskip("snakemake.cli")
    command = launch.snakemake_command(tmp_path, launch.Settings("cpu", source=tmp_path / name), ("predictions",))
    options = command[command.index("--config") + 1 :]
    assert unquote(cli.parse_config(options)["source"]) == str((tmp_path / name).resolve())


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("kernel_tells", [True, False])
def test_a_process_ends_with_its_parent(kernel_tells: bool) -> None:
    """The kernel tells of the parent's end on Linux; everywhere else, as in the second case, a thread looks."""
    if kernel_tells and sys.platform != "linux":
        pytest.skip("only Linux tells of a parent's end")
    set_up = "" if kernel_tells else "processes._LIBC = None; processes.PARENT_POLL_S = 0.05; "
    child = (
        f"import time; from hippo_nnunet import processes; {set_up}processes.die_with_parent(); "
        "print('ready', flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys, time; "
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE); p.stdout.readline(); "
        "print(p.pid, flush=True); time.sleep(60)"
    )
    started = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE, "it lives as long as its parent"
    started.kill()
    started.wait()
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("trust", [False, True])
def test_neither_snakemake_nor_its_jobs_import_from_a_working_folder(
    trust: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from the folder in which `run` is called nor from an experiment that somebody else made."""
    pytest.importorskip("snakemake")
    written, folder = tmp_path / "written", tmp_path / "received"
    folder.mkdir()
    for name in ("random", "snakemake", "nibabel", "yaml", "snakemake_executor_plugin_x"):
        (folder / f"{name}.py").write_text(f"open({str(written)!r}, 'w')\nraise SystemExit(9)\n")
    Experiment("Dataset004_X", "laptop", ("UNet",), {"2d": (1,)}).save(folder / "experiment.yaml")
    monkeypatch.chdir(folder)
    command = launch.snakemake_command(folder, launch.Settings("cpu", trust=trust), ())
    done = subprocess.run([*command, "--dry-run", "--printshellcmds"], capture_output=True, text=True, check=False)
    assert not written.exists(), done.stdout
    assert done.returncode == 0, done.stderr
    jobs_started = [line for line in done.stdout.splitlines() if "hippo_nnunet.workflow.jobs" in line]
    assert len(jobs_started) > 4
    assert all(shlex.join(python_command("-m", "hippo_nnunet.workflow.jobs")) in line for line in jobs_started)
    assert all(("--trust-checkpoint" in line) == trust for line in jobs_started)
