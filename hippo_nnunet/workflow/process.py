"""Ties the life of a process to its parent's, so that nothing goes on training after `run` was killed.

`python -m hippo_nnunet.workflow.process PID ...` is Snakemake, tied so to the `run` whose process PID started it.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from types import FrameType

PR_SET_PDEATHSIG = 1
"""Linux prctl(2): the signal that this process gets when its parent ends."""

PARENT = "SNAKEMAKE_PROCESS"
"""Variable with the process that starts the jobs of a workflow."""

LOOK_EVERY_S = 1.0
"""Seconds between two looks at the parent where the kernel does not tell of its end."""

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL


def die_with_parent(signal_number: int = _KILL) -> None:
    """Let this process get a signal when its parent ends: from the kernel on Linux, from a thread elsewhere."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal_number)
    else:
        threading.Thread(target=_follow, args=(os.getppid(), signal_number), daemon=True).start()


def _follow(parent: int, signal_number: int) -> None:
    import psutil

    while os.getppid() == parent and psutil.pid_exists(parent):
        time.sleep(LOOK_EVERY_S)
    os.kill(os.getpid(), signal_number)


def end_with_workers() -> None:
    """Make SIGTERM, and the parent's end, stop this process together with its worker processes."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        import psutil

        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(128 + signal_number)

    signal.signal(signal.SIGTERM, stop)
    if hasattr(os, "register_at_fork"):  # a pool ends its forked workers by SIGTERM; Python's handler may miss it
        os.register_at_fork(after_in_child=_end_by_default)
    die_with_parent(signal.SIGTERM)
    parent = os.environ.get(PARENT, "")
    if parent.isdigit() and os.getppid() != int(parent):  # it ended before it could be watched
        os._exit(128 + signal.SIGTERM)


def _end_by_default() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    parent = int(sys.argv.pop(1))
    die_with_parent()
    if os.getppid() == parent:  # else it ended before it could be watched
        runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
