"""What fuzzing counts as right: an outcome, or a refusal in one line; and its bounds."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from hippo_nnunet.errors import HippoError

MOST_CPU_S = 20
"""CPU time after which one example counts as a hang."""

Fuzz = Callable[..., None]


def refusal(action: Callable[[], Any]) -> str:
    """Do what may be refused: returns the message, empty where it went well; any other exception is a fault."""
    try:
        action()
    except HippoError as error:
        message = str(error)
        assert message.strip(), "a refusal without a word"
        shown = message.encode(
            errors="backslashreplace"
        ).decode()  # as terminals and logs show names that are not UTF-8
        assert len(shown.splitlines()) == 1, shown
        assert shown.isprintable(), shown
        return message
    return ""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Stop an example that computes too long; counts the process's own time, so a busy machine does no harm."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {MOST_CPU_S} s for one example")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
