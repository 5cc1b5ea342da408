"""SIGTERM during a training: the step that runs is finished and a checkpoint written before the process ends."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM
"""What a process that SIGTERM has ended gives back to a shell."""


class Termination:
    """Notes SIGTERM, from `begin` to the end of the `with` block, where it would otherwise end the process at once.

    The block's end obeys it at the latest, but for a block that an exception ends.

    Python calls signal handlers in the main thread only; in another one nothing is noted and nothing is changed.

    Attributes:
        asked: Whether the signal has come. A second one changes nothing: cluster and parent may each send one.
    """

    def __init__(self) -> None:
        self.asked = False
        self._entered = False
        self._begun = False
        self._previous: Any = None

    def begin(self) -> None:
        """Note the signal from now on; outside the `with` block, which nothing would end, do nothing."""
        if self._entered and not self._begun and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
            self._begun = True

    def obey(self) -> None:
        """End the process if the signal has come.

        Raises:
            SystemExit: With EXIT_CODE.
        """
        if self.asked:
            raise SystemExit(EXIT_CODE)

    def __enter__(self) -> Termination:
        """Do nothing yet."""
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the signal do again what it did before."""
        if self._begun:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._previous is None else self._previous)
            self._begun = False
        self._entered = False
        if kind is None:
            self.obey()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


# Pools end their forked workers by SIGTERM, and would wait forever for one that notes it. The signal is held back while
# a process forks: a child that it reaches before it has gone back to the default would note it, too.


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
