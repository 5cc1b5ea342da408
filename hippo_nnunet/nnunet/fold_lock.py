"""One process at a time works on a fold: training, resuming and validating it twice at once would mix the results."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hippo_nnunet.errors import ConfigError, DataError

log = logging.getLogger(__name__)

LOCK = "hippo_fold.lock"
"""File in the fold's folder that is locked; that it lies there means nothing."""

_LOCKS: dict[Path, FileLock] = {}


@contextmanager
def alone(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a fold's folder, and delete what a process that was killed has left half-written in it.

    The system lets go of the lock when this process ends, however it ends. A process that holds it may enter again.

    Args:
        folder: nnU-Net's `fold_X`; made where missing.
        wait: Wait for another process at the fold to end, instead of refusing.

    Raises:
        ConfigError: Another process is at work on the fold.
        DataError: The folder cannot be written to.
    """
    path = folder.absolute() / LOCK
    lock = _LOCKS.setdefault(path, FileLock(path))
    again = lock.is_locked
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise ConfigError(
                f"{folder}: another process trains or validates this fold; wait for it, or end it, then run again"
            ) from None
        log.info("%s: another process is at this fold; waiting for it to end", folder)
        lock.acquire(timeout=-1)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{folder}: {reason}: make it writable or make room, then run again") from error
    try:
        if not again:
            for leftover in (*folder.glob("*.tmp"), *folder.glob("validation/*.tmp")):
                leftover.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def alone_with(trainer: Any) -> AbstractContextManager[None]:
    """Hold the folder of a trainer's fold: see `alone`. Of processes that train together, the first one holds it."""
    return alone(Path(trainer.output_folder)) if trainer.local_rank == 0 else nullcontext()
