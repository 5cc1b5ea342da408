"""Child processes: without imports from the working folder, ended with their parent or when a worker has died.

`python -m hippo_nnunet.processes PID ...` is Snakemake, tied to the `run` whose process PID started it.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import FrameType

import psutil

from hippo_nnunet.errors import UpstreamError

PR_SET_PDEATHSIG = 1
"""Option of Linux prctl(2): the signal that the kernel sends to this process when its parent ends."""

PARENT = "SNAKEMAKE_PROCESS"
"""Environment variable with the id of the process that starts the jobs of a workflow."""

USER_CACHE = "HIPPO_USER_CACHE"
"""Environment variable with the user's `XDG_CACHE_HOME`, perhaps empty, where Snakemake has to use another one."""

PARENT_POLL_S = 1.0
"""Seconds between two checks of the parent on systems whose kernel sends no signal."""

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL


def python_command(*arguments: str) -> list[str]:
    """Return a command line of this Python that imports no module from the working folder.

    Args:
        arguments: `-c`, the code and its arguments, or `-m`, a module and its arguments. Python 3.10 finds the module
            in the working folder too, because it has no option `-P`.
    """
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", *arguments]
    option, content, *rest = arguments
    prefix = "import sys; sys.path[:] = filter(None, sys.path)\n" if option == "-c" else ""
    return [sys.executable, option, prefix + content, *rest]


def die_with_parent(signal_number: int = _KILL) -> None:
    """Send this process a signal when its parent ends: by the kernel on Linux, by a thread elsewhere."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal_number)
    else:
        threading.Thread(target=_follow_parent, args=(os.getppid(), signal_number), daemon=True).start()


def _follow_parent(parent: int, signal_number: int) -> None:
    while os.getppid() == parent and psutil.pid_exists(parent):
        time.sleep(PARENT_POLL_S)
    os.kill(os.getpid(), signal_number)


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """Kill processes, some of which may have ended meanwhile."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def end_with_workers() -> None:
    """End this process and its worker processes on SIGTERM and when its parent ends."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        kill_all(psutil.Process().children(recursive=True))
        os._exit(128 + signal_number)

    signal.signal(signal.SIGTERM, stop)
    if hasattr(os, "register_at_fork"):  # a pool ends its forked workers by SIGTERM; Python's handler may miss it
        os.register_at_fork(after_in_child=_end_by_default)
    die_with_parent(signal.SIGTERM)
    parent = os.environ.get(PARENT, "")
    if parent.isdigit() and os.getppid() != int(parent):  # the parent ended before it could be watched
        os._exit(128 + signal.SIGTERM)


def _end_by_default() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


GRACE_S = 30.0
"""Seconds that a pool may continue after a worker has ended: at the end of the work, workers end one after another."""
_POLL_S = 0.2


def run_watched(
    command: Sequence[str], env: dict[str, str] | None = None, stdout: int = subprocess.DEVNULL
) -> tuple[int, str]:
    """Run a Python program that has a pool of worker processes, and end it when one of them is killed.

    Args:
        command: Command line.
        env: Its environment; None for this process's.
        stdout: File descriptor that gets what it prints.

    Returns:
        Exit code, and what it wrote to stderr.

    Raises:
        UpstreamError: A worker was killed; the program, which would wait for it forever, is killed too.
    """
    with subprocess.Popen(command, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True) as process:
        try:
            return _wait_watched(process)
        finally:
            if process.poll() is None:
                kill_all(psutil.Process(process.pid).children(recursive=True))
                process.kill()


def _wait_watched(process: subprocess.Popen[str]) -> tuple[int, str]:
    seen: set[int] = set()
    lost_at: float | None = None
    while True:
        try:
            _, errors = process.communicate(timeout=_POLL_S)
            return process.returncode, errors
        except subprocess.TimeoutExpired:
            alive = _workers(process.pid)
        seen |= alive
        if lost_at is None and seen - alive:
            lost_at = time.monotonic()
        if not alive:  # all have ended: the work is done
            seen, lost_at = set(), None
        if lost_at is not None and time.monotonic() - lost_at > GRACE_S:
            raise UpstreamError(
                "a worker process of nnU-Net was killed, perhaps because memory ran out: free some or "
                "lower nnUNet_def_n_proc, then run again"
            )


def _workers(pid: int) -> set[int]:
    try:
        children = psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return set()
    return {child.pid for child in children if _is_worker(child)}


def _is_worker(process: psutil.Process) -> bool:
    try:
        # a process that has ended shows no command line
        return any("multiprocessing.spawn" in word for word in process.cmdline())
    except psutil.Error:
        return False


if __name__ == "__main__":
    parent = int(sys.argv.pop(1))
    die_with_parent()
    os.environ["PYTHONSAFEPATH"] = "1"  # as -P, for the processes that Snakemake starts
    if os.getppid() == parent:  # else it ended before it could be watched
        runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
