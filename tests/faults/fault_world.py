"""The experiment that is broken again and again: how it is made, at which stages it is taken, and how it is run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from hippo_nnunet.data.synth import make_phantom
from hippo_nnunet.processes import die_with_parent

DATASET = "Dataset004_Phantom"
MODEL = "UNetTrainer_fast_2epochs_4iters_seed0__CompactPlans__2d"
LIMIT_S = 1800.0
"""A run that takes longer hangs."""

AFTER = {
    "fresh": [],
    "converted": ["data"],
    "prepared": ["data", "plan", "preprocess/2d"],
    "half": ["data", "plan", "preprocess/2d"],
    "fold0": ["data", "plan", "preprocess/2d", "train/UNet_seed0/2d/fold_0"],
    "trained": ["data", "plan", "preprocess/2d", "train/UNet_seed0/2d/fold_0", "train/UNet_seed0/2d/fold_1"],
    "ensembled": ["trained", "ensemble"],
    "predicted": ["trained", "ensemble", "evaluate", "predict/UNet_seed0", "predict/ensemble"],
    "finished": ["predicted", "submission", "manifest", "report"],
}
"""Stage to the jobs that are done at it; `half` has also a checkpoint of fold 0."""


def jobs_after(stage: str) -> set[str]:
    """Return the jobs that are done at a stage."""
    return {job for name in AFTER[stage] for job in (jobs_after(name) if name in AFTER else {name})}


@dataclass
class Ended:
    """What a run said when it ended."""

    code: int
    stderr: str

    @property
    def error(self) -> str:
        """The error's line; empty where there was none."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        return lines[0].removeprefix("error: ") if lines else ""


@dataclass
class Started:
    """A run at work; its output goes to a file, so that nothing waits for a reader."""

    process: subprocess.Popen[bytes]
    output: Path

    def end(self, seconds: float = LIMIT_S) -> Ended:
        """Wait for it."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"it hangs: {self.output.read_text()[-2000:]}") from None
        return Ended(code, self.output.read_text(errors="replace"))


@dataclass(frozen=True)
class World:
    """A folder of work: the task, the undisturbed experiment, and copies of it at every stage."""

    root: Path

    @property
    def task(self) -> Path:
        return self.root / "Task04_Phantom"

    def stage(self, name: str) -> Path:
        return self.root / "stages" / name

    @property
    def whole(self) -> Path:
        """The undisturbed experiment."""
        return self.stage("finished")

    @property
    def request(self) -> list[str]:
        """The options that the experiment was asked for with."""
        options = ("--variants", "UNet_seed0", "--epochs", "2", "--iterations", "4")
        return ["--task", str(self.task), *options, "--device", "cpu"]

    @property
    def whole_s(self) -> float:
        """Seconds that the jobs of the undisturbed experiment took."""
        tables = (self.whole / "benchmarks").rglob("*.tsv")
        return sum(float(table.read_text().splitlines()[1].split("\t")[0]) for table in tables)

    def copy(self, stage: str, target: Path) -> Path:
        shutil.copytree(self.stage(stage), target, symlinks=True, dirs_exist_ok=True)
        return target


def build(root: Path, say: Callable[[str], None] = print) -> World:
    """Make the world, or what is missing of it; `finished` is made last."""
    world = World(root)
    if world.whole.is_dir():
        return world
    if not world.task.is_dir():
        make_phantom(root, num_training=6, num_test=2, name=world.task.name)
    if not world.stage("fresh").is_dir():
        _begin(world)
    if not world.stage("half").is_dir():
        say("making half a training")
        _stop_half_way(world, root / "building-half")
    say("making the undisturbed experiment")
    folder = root / "building"
    if not folder.is_dir():  # prepared data is the same whether the first training is stopped or not
        _undo(shutil.copytree(world.stage("half"), folder), "prepared")
    ended = start(folder, world.request, root / "whole.log").end()
    assert ended.code == 0, ended.stderr
    for name in AFTER:
        if name not in ("fresh", "half", "finished"):
            shutil.rmtree(world.stage(name), ignore_errors=True)
            _undo(shutil.copytree(folder, world.stage(name)), name)
    folder.rename(world.whole)
    return world


def _begin(world: World) -> None:
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (world.task / "labelsTr").glob("*.nii.gz"))
    splits = [{"train": cases[3:], "val": cases[:3]}, {"train": cases[:3], "val": cases[3:]}]
    folder = world.stage("fresh") / "nnunet" / "nnUNet_preprocessed" / DATASET
    folder.mkdir(parents=True)
    (folder / "splits_final.json").write_text(json.dumps(splits))


def _stop_half_way(world: World, folder: Path) -> None:
    """Stop the first training by SIGTERM, when it has written a checkpoint."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.stage("fresh"), folder)
    started = start(folder, world.request, world.root / "half.log")
    results = folder / "nnunet" / "nnUNet_results" / DATASET / MODEL
    wait_for(lambda: any(results.rglob("checkpoint_latest.pth")), started.process)
    training = [process for process in below(started.process) if is_job(process, "train")]
    for process in training:
        process.send_signal(signal.SIGTERM)
    psutil.wait_procs(training, LIMIT_S)
    started.process.send_signal(signal.SIGKILL)
    started.end()
    wait_until_alone(folder)
    assert any(results.rglob("checkpoint_latest.pth")), (world.root / "half.log").read_text()
    assert not any(results.rglob("checkpoint_final.pth"))
    folder.rename(world.stage("half"))


def _undo(folder: Path, stage: str) -> None:
    """Take back what was made after a stage."""
    done = jobs_after(stage)
    for marker in [path for path in (folder / ".done").rglob("*") if path.is_file()]:
        name = marker.relative_to(folder / ".done").as_posix()
        job = name.removeprefix("state/").removesuffix(".json")
        if name in ("run.lock", "splits_final.json") or name.startswith("locks/"):
            continue
        if job not in done:
            marker.unlink()
    shutil.rmtree(folder / ".snakemake", ignore_errors=True)
    nnunet = folder / "nnunet"
    results = nnunet / "nnUNet_results" / DATASET
    fold = results / MODEL
    made = {
        "report": [folder / "report"],
        "manifest": [folder / "manifest.json"],
        "submission": [folder / "submission"],
        "predict/UNet_seed0": [folder / "predictions" / "UNet_seed0"],
        "predict/ensemble": [folder / "predictions" / "ensemble"],
        "evaluate": [folder / "metrics"],
        "ensemble": [folder / "ensemble"],
        "train/UNet_seed0/2d/fold_1": [fold / "fold_1"],
        "train/UNet_seed0/2d/fold_0": [fold],
        "preprocess/2d": [nnunet / "nnUNet_preprocessed" / DATASET / "CompactPlans_2d"],
    }
    for job, paths in made.items():
        for path in [] if job in done else paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    if "plan" not in done:
        shutil.rmtree(nnunet / "nnUNet_preprocessed")
        (nnunet / "nnUNet_preprocessed" / DATASET).mkdir(parents=True)
        (folder / ".done" / "splits_final.json").rename(nnunet / "nnUNet_preprocessed" / DATASET / "splits_final.json")


# -- running ----------------------------------------------------------------------------------------------------------


def environment(workers: int = 1) -> dict[str, str]:
    """The user's variables, without those that would lead out of the round; checkpoints come often, to be hit.

    With one worker process, evaluation has none. Each of them imports torch.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    return {**kept, "HIPPO_CHECKPOINT_SECONDS": "0.2", "nnUNet_def_n_proc": str(workers)}


def nnunet_environment(folder: Path) -> dict[str, str]:
    """What plain nnU-Net commands want."""
    from hippo_nnunet.nnunet.paths import environment as nnunet_variables

    return {**environment(), **nnunet_variables(folder / "nnunet", {})}


def start(folder: Path, options: Sequence[str], output: Path, workers: int = 1) -> Started:
    """Start `hippo-nnunet run`."""
    command = [sys.executable, "-m", "hippo_nnunet.cli.main", "run", str(folder), *options]
    return start_command(command, environment(workers), output)


def start_command(command: Sequence[str], env: dict[str, str], output: Path) -> Started:
    """Start a command in a session of its own, as a terminal does."""
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, env=env, stdout=stream, stderr=stream, start_new_session=True, preexec_fn=die_with_parent
        )
    return Started(process, output)


def below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return all processes below one."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def command_of(process: psutil.Process) -> list[str]:
    """Return a process's command line; empty where it has gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def is_job(process: psutil.Process, job: str | None = None) -> bool:
    """Tell whether a process is a job of the workflow."""
    command = command_of(process)
    return "hippo_nnunet.workflow.jobs" in command[:4] and (job is None or job in command)


def is_worker(process: psutil.Process) -> bool:
    """Tell whether a process works for another one's pool."""
    command = " ".join(command_of(process))
    return "spawn_main" in command and "resource_tracker" not in command


def is_snakemake(process: psutil.Process) -> bool:
    """Tell whether a process is Snakemake."""
    return "hippo_nnunet.processes" in command_of(process)


def of_folder(folder: Path) -> list[psutil.Process]:
    """Return all processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            here = process.cwd().startswith(str(folder)) or any(str(folder) in word for word in process.cmdline())
            if here and process.pid != os.getpid():
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_for(condition: Callable[[], bool], of: subprocess.Popen[bytes], every_s: float = 0.1) -> bool:
    """Wait for a condition; False where the process ended first."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        if of.poll() is not None:
            return condition()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every_s)
    return True


def wait_until_alone(folder: Path, seconds: float = 300.0) -> None:
    """Wait until nobody works in a folder: what a killed run has left ends by itself."""
    end = time.monotonic() + seconds
    while left := of_folder(folder):
        assert time.monotonic() < end, f"still at work: {[command_of(process) for process in left]}"
        time.sleep(0.5)
