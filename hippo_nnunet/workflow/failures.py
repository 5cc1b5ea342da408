"""What to tell the user of an error that nobody has foreseen: mostly the system's own, and mostly a full disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from hippo_nnunet.errors import HippoError
from hippo_nnunet.nnunet.paths import NnunetFolders

LITTLE = 2**20
"""Bytes of free room below which a disk counts as full."""
_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PERMISSION = {errno.EROFS, errno.EACCES, errno.EPERM}


def describe(error: BaseException, folders: Iterable[Path]) -> str:
    """Say in one line what failed and what to do.

    Args:
        error: Of a job, or of the run itself.
        folders: Where it may have written.
    """
    if isinstance(error, HippoError):
        message = str(error)
    elif isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror}; {_remedy(error.errno)}"
        if error.errno in _ROOM:
            return _one_line(message)
    elif isinstance(error, BrokenProcessPool) or "background worker" in str(error):  # ours, nnU-Net's
        message = (
            "a worker process was ended from outside, perhaps for want of memory: free some or lower "
            "nnUNet_def_n_proc, then run again"
        )
    else:
        message = f"{type(error).__name__}: {error}"
    return _one_line("; ".join(part for part in (message, full(folders)) if part))


def full(folders: Iterable[Path]) -> str:
    """Name the first folder whose disk is full, and what to do; empty where there is none."""
    for folder in folders:
        try:
            if shutil.disk_usage(folder).free < LITTLE:
                return f"the disk of {folder} is full: make room, then run again"
        except OSError:
            continue
    return ""


def written_to(folder: Path, folders: NnunetFolders) -> list[Path]:
    """Return the folders that an experiment writes to."""
    return [folder, folders.preprocessed, folders.results]


def _remedy(number: int) -> str:
    if number in _ROOM:
        return "make room, then run again"
    return "make it writable, then run again" if number in _PERMISSION else "mend that, then run again"


def _one_line(text: str) -> str:
    return " ".join(text.split())
