"""The faults: each breaks a copy of the experiment, at rest or at work, and leaves it to the round to recover."""

from __future__ import annotations

import os
import shutil
import signal
import time
from functools import partial

from fault_checks import trained
from fault_damage import RESULTS, TARGETS, Target, damage, shift_times
from fault_mounts import ReadOnly, SmallDisk
from fault_processes import (
    interrupt_everything,
    kill_while_writing,
    signal_run,
    signal_snakemake,
    signal_training,
    signal_worker,
    terminate_in_an_epoch,
    two_runs,
    two_trainings,
)
from fault_round import AT_WORK, UNTRAINED, Fault, Round
from fault_world import DATASET

ROOM = 2**31
"""Bytes of a disk that has room."""


def disk_full(round_: Round) -> None:
    """Run on a file system with little room."""
    stage = round_.draw.choice(AT_WORK)
    room = int(2 ** round_.draw.uniform(16, 24))
    disk = round_.disk = SmallDisk(round_.folder.parent / "disk", ROOM)
    round_.folder = disk.folder / "exp"
    round_.take(stage)
    free = os.statvfs(disk.folder)
    disk.grow((free.f_blocks - free.f_bavail) * free.f_frsize + room)
    round_.notes.append(f"{room / 2**20:.2f} MB of room")
    round_.relieve = lambda: disk.grow(ROOM)
    round_.settle(round_.start())


def read_only(round_: Round) -> None:
    """Run while a folder cannot be written to."""
    round_.take(*AT_WORK)
    names = [".", ".done", "logs", "metrics", "ensemble", "predictions", "nnunet", "nnunet/nnUNet_results", RESULTS]
    names += [f"{RESULTS}/fold_0", f"{RESULTS}/fold_1", f"nnunet/nnUNet_preprocessed/{DATASET}"]
    name = round_.draw.choice([name for name in names if (round_.folder / name).is_dir()])
    if os.getuid() == 0:
        made = ReadOnly(round_.folder / name)
        round_.relieve = made.close
    else:
        (round_.folder / name).chmod(0o500)
        round_.relieve = lambda: (round_.folder / name).chmod(0o700)
    round_.notes.append(name)
    round_.settle(round_.start())


def damaged(round_: Round, target: Target) -> None:
    """Damage one file."""
    round_.take(*target.stages)
    path = round_.draw.choice(sorted(round_.folder.glob(target.pattern)))
    how = damage(path, round_.draw.choice(target.ways), round_.draw)
    round_.notes.append(f"{path.relative_to(round_.folder)} {how}")
    round_.before = trained(round_.folder)


def clock_jumped(round_: Round) -> None:
    """Give files other times."""
    round_.take(*AT_WORK, "finished")
    round_.notes.append(shift_times(round_.folder, round_.draw))
    round_.before = trained(round_.folder)


def clock_jumps(round_: Round) -> None:
    """Give files other times while a run is at work."""
    round_.take(*AT_WORK)
    started = round_.start()
    time.sleep(round_.draw.uniform(0, round_.span_s()))
    round_.notes.append(shift_times(round_.folder, round_.draw))
    round_.same_times = False
    round_.settle(started)


def markers_gone(round_: Round) -> None:
    """Delete what says that jobs are done."""
    round_.take(*UNTRAINED, "trained", "ensembled", "predicted", "finished")
    names = round_.draw.choice(((".done",), (".done", ".snakemake")))
    for name in names:
        shutil.rmtree(round_.folder / name, ignore_errors=True)
    round_.notes.append(", ".join(names))
    round_.before = trained(round_.folder)


FAULTS = (
    Fault("SIGKILL to a training", partial(signal_training, number=signal.SIGKILL)),
    Fault("SIGTERM to a training", partial(signal_training, number=signal.SIGTERM)),
    Fault("SIGTERM within an epoch", terminate_in_an_epoch),
    Fault("SIGKILL while a checkpoint is written", kill_while_writing),
    Fault("SIGKILL to a worker", partial(signal_worker, number=signal.SIGKILL)),
    Fault("SIGTERM to a worker", partial(signal_worker, number=signal.SIGTERM)),
    Fault("SIGKILL to Snakemake", partial(signal_snakemake, number=signal.SIGKILL)),
    Fault("SIGTERM to Snakemake", partial(signal_snakemake, number=signal.SIGTERM)),
    Fault("SIGKILL to run", partial(signal_run, number=signal.SIGKILL)),
    Fault("SIGTERM to run", partial(signal_run, number=signal.SIGTERM)),
    Fault("Ctrl-C", interrupt_everything),
    Fault("two runs at once", two_runs),
    Fault("two trainings of a fold at once", two_trainings),
    Fault("disk full", disk_full, mounts=True),
    Fault("read-only folder", read_only, mounts=os.name == "posix" and os.getuid() == 0),
    Fault("clock that jumped", clock_jumped),
    Fault("clock that jumps while it works", clock_jumps),
    Fault("markers deleted", markers_gone),
    *(Fault(f"damaged: {target.name}", partial(damaged, target=target)) for target in TARGETS),
)
