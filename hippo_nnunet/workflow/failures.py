"""Error messages of jobs and of `run` with remedies, mostly for the system's errors such as a full disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from hippo_nnunet.errors import HippoError
from hippo_nnunet.nnunet.paths import NnunetFolders

LEAST_FREE = 2**20
"""Bytes of free space below which a disk counts as full."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PERMISSION = {errno.EROFS, errno.EACCES, errno.EPERM}


def describe(error: BaseException, folders: Iterable[Path] = ()) -> str:
    """Return in one line what failed and what to do.

    Args:
        error: Raised by a job, or by the run itself.
        folders: Where it may have written; one whose disk is full is named.
    """
    if isinstance(error, HippoError):
        message = str(error)
    elif isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror}; {_remedy(error.errno)}"
    elif isinstance(error, BrokenProcessPool) or "background worker" in str(error):  # ours, nnU-Net's
        message = (
            "a worker process was killed, perhaps because memory ran out: free some or lower "
            "nnUNet_def_n_proc, then run again"
        )
    elif isinstance(error, KeyboardInterrupt):
        message = "interrupted from the keyboard"
    else:
        message = f"{type(error).__name__}: {error}"
    known = isinstance(error, OSError) and error.errno in _NO_SPACE
    disk = "" if known else full(folders)
    return " ".join(f"{message}; {disk}".split() if disk else message.split())


def full(folders: Iterable[Path]) -> str:
    """Return which folder's disk is full, and what to do; empty if none is."""
    for folder in folders:
        try:
            if shutil.disk_usage(folder).free < LEAST_FREE:
                return f"the disk of {folder} is full: make room, then run again"
        except OSError:
            continue
    return ""


def written_to(folder: Path, folders: NnunetFolders) -> list[Path]:
    """Return the folders that an experiment writes to."""
    return [folder, folders.preprocessed, folders.results]


def _remedy(number: int) -> str:
    if number in _NO_SPACE:
        return "make room, then run again"
    return "make it writable, then run again" if number in _PERMISSION else "correct that, then run again"
