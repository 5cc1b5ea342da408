"""Ties the life of a process to its parent's, so that nothing goes on training after `run` was killed.

`python -m hippo_nnunet.workflow.process PID ...` is Snakemake, tied so to the `run` whose process PID started it.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1
"""Linux prctl(2): the signal that this process gets when its parent ends."""

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Ask the kernel to signal this process when its parent ends; does nothing except on Linux."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal_number)


def end_with_workers() -> None:
    """Make SIGTERM, and the parent's end, stop this process together with its worker processes."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        import psutil

        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(128 + signal_number)

    signal.signal(signal.SIGTERM, stop)
    die_with_parent(signal.SIGTERM)


if __name__ == "__main__":
    parent = int(sys.argv.pop(1))
    die_with_parent()
    if os.getppid() == parent:  # else it ended before it could be watched
        runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
