"""SIGTERM is noted in the block alone, and ends forked children all the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from hippo_nnunet.training.termination import EXIT_CODE, Termination

NOTED = """
import os, signal
from hippo_nnunet.training.termination import Termination
with Termination() as termination:
    termination.begin()
    os.kill(os.getpid(), signal.SIGTERM)
    print("noted", termination.requested, flush=True)
print("not ended")
"""


def test_the_signal_is_obeyed_at_the_blocks_end() -> None:
    """In a process of its own: whatever else has handled signals in this one stays out of it."""
    done = subprocess.run([sys.executable, "-c", NOTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (EXIT_CODE, "noted True\n"), done.stderr


def test_nothing_is_noted_outside_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    Termination().begin()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_worker_is_ended_by_the_signal() -> None:
    with Termination() as termination:
        termination.begin()
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
        worker.terminate()
        worker.join(20)
        assert worker.exitcode == -signal.SIGTERM
