"""Faults of processes: signals at random moments, and two processes at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from fault_checks import trained
from fault_damage import RESULTS
from fault_round import AT_WORK, UNTRAINED, Round
from fault_world import (
    DATASET,
    MODEL,
    Started,
    below,
    command_of,
    is_job,
    is_snakemake,
    is_worker,
    nnunet_environment,
    start_command,
    wait_for,
)


def _wait_for_process(
    round_: Round, started: Started, wanted: Callable[[psutil.Process], bool]
) -> psutil.Process | None:
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [process for process in below(started.process) if wanted(process)]
        return bool(found)

    if not wait_for(look, started.process):
        round_.notes.append("the run ended before")
        return None
    return round_.draw.choice(found)


def _signal(round_: Round, process: psutil.Process | None, number: signal.Signals, after_s: float) -> None:
    time.sleep(after_s)
    try:
        if process is not None:
            process.send_signal(number)
            round_.notes.append(f"{number.name} after {after_s:.2f} s")
    except psutil.NoSuchProcess:
        round_.notes.append("it ended before")


def signal_training(round_: Round, number: signal.Signals) -> None:
    """Hit a training at a random moment, from its first second to its last."""
    round_.take(*UNTRAINED)
    started = round_.start()
    process = _wait_for_process(round_, started, partial(is_job, job="train"))
    _signal(round_, process, number, round_.draw.uniform(0, 12))
    round_.settle(started)


def _wait_until_it_trains(round_: Round, started: Started) -> tuple[psutil.Process, Path]:
    """Return the first training and its fold's folder, when its first epoch has begun."""
    known = set((round_.folder / RESULTS).rglob("training_log_*.txt"))
    process = _wait_for_process(round_, started, partial(is_job, job="train"))
    assert process is not None, "the run trains nothing"
    command = command_of(process)
    fold = round_.folder / RESULTS / f"fold_{command[command.index('--fold') + 1]}"

    def trains() -> bool:
        logs = set(fold.glob("training_log_*.txt")) - known
        return any("Current learning rate" in log.read_text() for log in logs)

    wait_for(trains, started.process)
    return process, fold


def terminate_in_an_epoch(round_: Round) -> None:
    """Send SIGTERM while the network is trained: a checkpoint has to be there when the process has ended."""
    round_.take(*UNTRAINED)
    started = round_.start()
    process, fold = _wait_until_it_trains(round_, started)
    _signal(round_, process, signal.SIGTERM, round_.draw.uniform(0, 0.5))
    psutil.wait_procs([process], 120)
    left = [name for name in ("latest", "final") if (fold / f"checkpoint_{name}.pth").is_file()]
    assert left, "SIGTERM left no checkpoint"
    started.process.send_signal(signal.SIGKILL)
    round_.settle(started)
    round_.resumes = not (fold / "checkpoint_final.pth").exists()


def kill_while_writing(round_: Round) -> None:
    """Kill a training while a checkpoint is half-written."""
    round_.take(*UNTRAINED)
    started = round_.start()
    folder = round_.folder / RESULTS

    def writes() -> bool:
        return any(folder.glob("fold_*/.*.pth"))

    for _ in range(round_.draw.randrange(8)):  # let some of them be finished
        wait_for(writes, started.process, 0.002)
        wait_for(lambda: not writes(), started.process, 0.002)
    wait_for(writes, started.process, 0.002)
    for process in below(started.process):
        if is_job(process, "train"):
            _signal(round_, process, signal.SIGKILL, 0.0)
    written = [path.name for path in folder.glob("fold_*/.*.pth")]
    round_.notes.append(f"half-written: {', '.join(written) or 'nothing'}")
    round_.settle(started)


def signal_worker(round_: Round, number: signal.Signals) -> None:
    """Hit a worker of nnU-Net's pools while data is converted, planned and preprocessed, or of ours in evaluation."""
    round_.take("fresh", "converted", "ensembled")
    round_.workers = 2
    started = round_.start()
    time.sleep(round_.draw.uniform(0, 20) if round_.stage != "ensembled" else 0)
    process = _wait_for_process(round_, started, is_worker)
    _signal(round_, process, number, round_.draw.uniform(0, 1))
    round_.settle(started)


def signal_snakemake(round_: Round, number: signal.Signals) -> None:
    """Hit Snakemake at a random moment."""
    round_.take(*AT_WORK)
    started = round_.start()
    process = _wait_for_process(round_, started, is_snakemake)
    _signal(round_, process, number, round_.draw.uniform(0, round_.span_s()))
    round_.settle(started)


def signal_run(round_: Round, number: signal.Signals) -> None:
    """Hit `run` itself at a random moment."""
    round_.take(*AT_WORK)
    started = round_.start()
    _signal(round_, psutil.Process(started.process.pid), number, round_.draw.uniform(0, round_.span_s()))
    round_.settle(started)


def interrupt_everything(round_: Round) -> None:
    """Press Ctrl-C: SIGINT to every process of the terminal."""
    round_.take(*AT_WORK)
    started = round_.start()
    after = round_.draw.uniform(3, round_.span_s())
    time.sleep(after)
    try:
        os.killpg(started.process.pid, signal.SIGINT)
        round_.notes.append(f"after {after:.2f} s")
    except ProcessLookupError:
        round_.notes.append("the run ended before")
    round_.settle(started)
    round_.last = None  # it says that it was interrupted


def two_runs(round_: Round) -> None:
    """Start a second run while the first is at work."""
    round_.take(*AT_WORK)
    first = round_.start()
    if _wait_for_process(round_, first, is_snakemake) is None:
        round_.settle(first)
        return
    second = round_.start().end()
    assert second.code == 1, second.stderr
    assert "another run is at work" in second.error, second.stderr
    round_.settle(first)


def two_trainings(round_: Round) -> None:
    """Train the fold that a run trains by nnU-Net's own command: refused, but not any more when the run is dead."""
    round_.take(*UNTRAINED)
    started = round_.start()
    training, folder = _wait_until_it_trains(round_, started)
    training.suspend()  # it lives, however long the second one takes to start
    program = Path(sys.executable).with_name("nnUNetv2_train")
    words = f"{DATASET} 2d {folder.name[-1]} -tr {MODEL.split('__')[0]} -p CompactPlans -device cpu --npz --c"
    command = [str(program), *words.split()]
    env = nnunet_environment(round_.folder)
    same = start_command(command, env, round_.log("second")).end()
    assert same.code != 0, same.stderr
    assert "another process trains or validates this fold" in same.stderr, same.stderr[-2000:]
    training.kill()
    started.process.kill()
    round_.settle(started)
    own = start_command(command, env, round_.log("third")).end()
    assert own.code == 0, own.stderr[-2000:]
    assert (folder / "validation" / "summary.json").is_file()
    round_.before = trained(round_.folder)
    round_.last = None
