"""One process at a time works on a fold or does a job, and a killed one blocks nobody."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.locks import holder
from hippo_nnunet.nnunet.fold_lock import LOCK, fold_lock
from hippo_nnunet.workflow import jobs

HOLD_FOLD = """
import sys
from pathlib import Path
from hippo_nnunet.nnunet.fold_lock import fold_lock
with fold_lock(Path(sys.argv[1])):
    {inside}
"""
HOLD_JOB = """
import os, sys
from hippo_nnunet.workflow.jobs import run_job
os.chdir(sys.argv[1])
def job():
    {inside}
run_job("train UNet 2d fold 0", job, "")
"""
WAIT = "print('held', flush=True); sys.stdin.read()"
FORK = """import os, time
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(20)
        os._exit(0)
    time.sleep(20)"""


@contextmanager
def process(program: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a program and yield it with its first line; kill it at the end."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        yield started, started.stdout.readline().strip()
        started.kill()


def test_a_fold_is_refused_while_another_process_lives_and_given_when_it_is_dead(tmp_path: Path) -> None:
    fold = tmp_path / "fold_0"
    with process(HOLD_FOLD.format(inside=WAIT), fold) as (other, said):
        assert said == "held"
        refused = pytest.raises(
            ConfigError,
            match=rf"fold_0: another process trains or validates this fold; wait for it \(process {other.pid} on "
            rf"{socket.gethostname()}, since \d{{4}}-\d\d-\d\d \d\d:\d\d.*\), or end it, then run again",
        )
        with refused, fold_lock(fold):
            pass
    with fold_lock(fold):
        assert holder(fold / LOCK).startswith(f"process {os.getpid()} on ")
    assert holder(fold / LOCK) == "unknown process"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes fork on POSIX only")
@pytest.mark.parametrize("program", [HOLD_FOLD, HOLD_JOB], ids=["fold", "job"])
def test_a_forked_child_that_outlives_a_killed_holder_blocks_nobody(program: str, tmp_path: Path) -> None:
    """As a worker does after the kernel has killed its training for want of memory."""
    folder = tmp_path / "fold_0"
    with process(program.format(inside=FORK), folder) as (killed, child):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        try:
            with process(program.format(inside=WAIT), folder) as (_, said):
                assert said == "held"
                assert psutil.Process(int(child)).status() != psutil.STATUS_ZOMBIE, "the child still lives"
        finally:
            os.kill(int(child), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes fork on POSIX only")
def test_a_forked_child_neither_holds_nor_releases_its_parents_lock(tmp_path: Path) -> None:
    with fold_lock(tmp_path):
        child = os.fork()
        if child == 0:
            try:
                with fold_lock(tmp_path):
                    os._exit(1)
            except ConfigError:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with process(HOLD_FOLD.format(inside=WAIT), tmp_path) as (_, said):
            assert said == ""


def test_a_job_waits_for_the_process_that_does_it_and_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []

    def end_the_other(form: str, *values: str) -> None:
        told.append(form % values)
        other.kill()

    monkeypatch.setattr("hippo_nnunet.locks.log.warning", end_the_other)
    with process(HOLD_JOB.format(inside=WAIT), tmp_path) as (other, said):
        assert said == "held"
        assert jobs.run_job("train UNet 2d fold 0", lambda: None, "") == 0
    assert f"wait for it (process {other.pid} on {socket.gethostname()}, since " in told[0]
    assert "or end it" in told[0]


def test_who_holds_a_fold_may_enter_again_and_finds_no_half_written_files(tmp_path: Path) -> None:
    fold = tmp_path / "fold_0"
    (fold / "validation").mkdir(parents=True)
    half_written = (".17.0af3.checkpoint_latest.pth", "validation/.17.beef.summary.json")
    for name in (*half_written, "checkpoint_latest.pth"):
        (fold / name).touch()
    with fold_lock(fold):
        assert not any((fold / name).exists() for name in half_written)
        (fold / half_written[0]).touch()
        with fold_lock(fold):
            assert (fold / half_written[0]).exists(), "it is being written"
        assert holder(fold / LOCK) != "unknown process"
    assert (fold / "checkpoint_latest.pth").exists()
    with pytest.raises(RuntimeError, match="inside"), fold_lock(fold):
        raise RuntimeError("inside")
    with fold_lock(fold):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(DataError, match=r"file/fold_0: Not a directory: make it writable or make room")
    with refused, fold_lock(tmp_path / "file" / "fold_0"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="flock is a lock of POSIX systems")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """filelock would take the lock file that earlier trainings left, wherever they ran, for a lock that is held."""
    with fold_lock(tmp_path):
        pass

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(DataError, match="use a file system with locks"), fold_lock(tmp_path):
        pass


def test_a_record_that_cannot_be_written_leaves_none_of_a_killed_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process id may be another program's by now, which must not be ended for it."""
    with process(HOLD_FOLD.format(inside=WAIT), tmp_path) as (killed, _):
        killed.kill()
        killed.wait()
    assert holder(tmp_path / LOCK).startswith(f"process {killed.pid} on ")

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("hippo_nnunet.locks.write_json", full_disk)
    with fold_lock(tmp_path):
        assert holder(tmp_path / LOCK) == "unknown process"


def test_a_record_that_cannot_be_deleted_does_not_keep_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with fold_lock(tmp_path):
        monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.undo()
    with process(HOLD_FOLD.format(inside=WAIT), tmp_path) as (_, said):
        assert said == "held"
