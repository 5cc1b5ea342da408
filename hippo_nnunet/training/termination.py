"""SIGTERM during a training: the current step finishes and a checkpoint is written before the process exits."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM ended."""


class Termination:
    """Defers SIGTERM from `begin` to the end of the `with` block, instead of ending the process at once.

    A deferred signal ends the process at the latest when the block ends, unless an exception ends the block.

    Python calls signal handlers in the main thread only; in another thread, nothing is deferred.

    Attributes:
        requested: Whether the signal was received. Further ones change nothing: cluster and parent may each send one.
    """

    def __init__(self) -> None:
        self.requested = False
        self._entered = False
        self._begun = False
        self._previous: Any = None

    def begin(self) -> None:
        """Defer the signal from now on; outside a `with` block, which would restore the handler, do nothing."""
        if self._entered and not self._begun and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)
            self._begun = True

    def exit_if_requested(self) -> None:
        """End the process if the signal was received.

        Raises:
            SystemExit: With EXIT_CODE.
        """
        if self.requested:
            raise SystemExit(EXIT_CODE)

    def __enter__(self) -> Termination:
        """Do nothing yet."""
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous handler, then exit if the signal was received."""
        if self._begun:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._previous is None else self._previous)
            self._begun = False
        self._entered = False
        if kind is None:
            self.exit_if_requested()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


# Pools end their forked workers by SIGTERM, and would wait forever for one that defers it. The signal is blocked during
# a fork: a child that received it before it has restored the default handler would defer it, too.

_mask = threading.local()


def _before_fork() -> None:
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _in_child() -> None:
    if isinstance(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), Termination):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
