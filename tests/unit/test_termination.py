"""SIGTERM is noted in the block alone, and ends forked children all the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from hippo_nnunet.training.termination import EXIT_CODE, Termination


def test_the_signal_is_obeyed_at_the_blocks_end() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, Termination() as termination:
        termination.begin()
        os.kill(os.getpid(), signal.SIGTERM)
        assert termination.asked
    assert ended.value.code == EXIT_CODE
    assert signal.getsignal(signal.SIGTERM) == before


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
