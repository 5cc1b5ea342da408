"""Programs with a pool of worker processes: `multiprocessing.Pool` waits forever for one that was killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

import psutil

from hippo_nnunet.errors import UpstreamError

GRACE_S = 30.0
"""Seconds that a pool may live on after one of its workers has ended: when all is done, they end one after another."""
_POLL_S = 0.2


def run_watched(
    command: Sequence[str], env: dict[str, str] | None = None, stdout: int = subprocess.DEVNULL
) -> tuple[int, str]:
    """Run a Python program that has a pool of worker processes, and end it where one of them is ended from outside.

    Args:
        command: Command line.
        env: Its environment; None for this process's.
        stdout: File descriptor that gets what it prints.

    Returns:
        Exit code, and what it wrote to stderr.

    Raises:
        UpstreamError: A worker was ended; the program waits for it in vain, and is ended, too.
    """
    with subprocess.Popen(command, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True) as process:
        try:
            return _follow(process)
        finally:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()


def _follow(process: subprocess.Popen[str]) -> tuple[int, str]:
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
        if not alive:  # all have ended together, because the work is done
            seen, lost_at = set(), None
        if lost_at is not None and time.monotonic() - lost_at > GRACE_S:
            raise UpstreamError(
                "a worker process of nnU-Net was ended from outside, perhaps for want of memory: free some or "
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
