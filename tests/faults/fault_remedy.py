"""Does what a message says, to the letter, as a user would who knows nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

_PATH = re.compile(r"/[^\s:;,)'(]+")
_WORDS = (
    "run again",
    "writable",
    "make room",
    "permissions",
    "wait for it",
    "repeat",
    "--task",
    "train again",
    "choose again",
    "predict this case again",
    "delete it",
    "delete that",
    "delete /",
)


def remedy(message: str, inside: Path, relieve: Callable[[], None]) -> tuple[str, bool]:
    """Follow a message.

    Args:
        message: One line.
        inside: Where a file that shall be deleted has to lie.
        relieve: Gives room and permissions, and ends whom one shall wait for.

    Returns:
        What was done, and whether the whole request has to be repeated.

    Raises:
        AssertionError: The message names no remedy, or a file that is not there.
    """
    assert "a bug in hippo_nnunet" not in message, message
    assert any(word in message for word in _WORDS), f"no remedy in: {message}"
    done = []
    if any(word in message for word in ("writable", "make room", "room or permissions", "permissions", "wait for it")):
        relieve()
        done.append("gave room and permissions")
    if match := re.search(r"\bdelete (it\b|that |the |/)", message):
        target = _deleted(message, match)
        assert target.exists(), f"it tells to delete {target}, which is not there: {message}"
        assert target.is_relative_to(inside), f"it tells to delete {target}: {message}"
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()
        done.append(f"deleted {target.relative_to(inside)}")
    whole = "--task" in message or "repeat" in message
    if whole:
        done.append("repeated the request")
    return "; ".join(done) or "ran again", whole


def _deleted(message: str, match: re.Match[str]) -> Path:
    """Return the path that is named after `delete`, or for `delete it` the last one before."""
    if match[1] == "/":
        named = _PATH.match(message, match.end() - 1)
        assert named is not None
        return Path(named[0].rstrip("."))
    before = _PATH.findall(message[: match.start()])
    assert before, f"delete what? {message}"
    return Path(before[-1].rstrip("."))
