"""Lock files: one process at a time, on one machine or on several that share a file system.

The system releases a lock when its holder ends, however it ends. Forked children do not keep it alive: filelock (3.30
and newer) closes the descriptor in them, so workers that outlive a killed training do not block others. Spawned
children do not inherit it. The record beside the lock says who holds it, and is only used in messages: whether the lock
is held is decided by the lock itself, because a process on another node cannot be looked up.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import read_object, write_json

log = logging.getLogger(__name__)

POLL_S = 0.5
"""Seconds between two attempts to take a lock that another process holds."""


@contextmanager
def exclusive(path: Path, task: str, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file while the block runs; its folder is created.

    A process that holds the lock may take it again. Its children may not, forked ones included.

    Args:
        path: The lock file, which stays when the lock is released.
        task: What one process at a time does, for messages: `another process trains this fold`.
        wait: Wait for another process to release the lock, and log which one that is, instead of refusing.

    Yields:
        Whether this process did not hold the lock before.

    Raises:
        ConfigError: Another process holds the lock; names its process id, its host and its start.
        OSError: The file cannot be created or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # its fallback for file systems without locks treats the existence of the file as a lock
    lock = FileLock(path.absolute(), is_singleton=True, fallback_to_soft=False)
    taken = not lock.is_locked
    try:
        lock.acquire(timeout=0)
    except Timeout:
        remedy = f"{task}; wait for it ({holder(path)}), or end it"
        if not wait:
            raise ConfigError(f"{remedy}, then run again") from None
        log.warning("%s; waiting", remedy)
        lock.acquire(timeout=-1, poll_interval=POLL_S)
    try:
        if taken:
            _record(path)
        yield taken
    finally:
        if taken and lock.is_locked:  # not in a forked child
            with suppress(OSError):
                _record_file(path).unlink(missing_ok=True)
        lock.release()


def holder(path: Path) -> str:
    """Return who holds a lock, in words: process id, host and time; `unknown process` where that is not recorded."""
    try:
        record = read_object(_record_file(path))
        return f"process {record['pid']} on {record['host']}, since {record['since']}"
    except (DataError, KeyError):
        return "unknown process"


def _record(path: Path) -> None:
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    try:
        _record_file(path).unlink(missing_ok=True)  # of a killed process, whose id another one may have by now
        write_json(_record_file(path), {"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    except OSError as error:
        log.warning("%s: cannot record who holds it (%s)", path, error)


def _record_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
