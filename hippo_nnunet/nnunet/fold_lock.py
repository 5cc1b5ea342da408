"""The lock of a fold: two processes that train, resume or validate it at once would mix their results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from errno import ENOLCK, ENOSYS, ENOTSUP
from pathlib import Path
from typing import Any

from hippo_nnunet.errors import DataError
from hippo_nnunet.locks import exclusive

LOCK = "hippo_fold.lock"
"""The lock file in the fold's folder; its existence alone means nothing."""


@contextmanager
def fold_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a fold, and delete the temporary files that a killed process has left in it.

    Args:
        folder: nnU-Net's `fold_X`; created where it is missing.
        wait: Wait for another process to release the lock instead of refusing.

    Raises:
        ConfigError: Another process works on the fold.
        DataError: The folder cannot be written to, or its file system has no locks.
    """
    task = f"{folder}: another process trains or validates this fold"
    with ExitStack() as stack:
        try:
            first = stack.enter_context(exclusive(folder / LOCK, task, wait))
        except OSError as error:
            no_locks = error.errno in (ENOLCK, ENOSYS, ENOTSUP)
            remedy = "use a file system with locks (docs/cluster.md)" if no_locks else "make it writable or make room"
            raise DataError(f"{folder}: {error.strerror or error}: {remedy}, then run again") from error
        if first:
            pattern = ".[0-9]*.*"  # of `atomic_path`
            for leftover in (*folder.glob(pattern), *folder.glob(f"validation/{pattern}")):
                leftover.unlink(missing_ok=True)
        yield


def trainer_lock(trainer: Any) -> AbstractContextManager[None]:
    """Hold the lock of a trainer's fold: see `fold_lock`. Of distributed processes, only rank 0 holds it."""
    return fold_lock(Path(trainer.output_folder)) if trainer.local_rank == 0 else nullcontext()
