"""Build a folder beside its target and move it there whole, so that nobody ever sees half of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hippo_nnunet.errors import DataError


@contextmanager
def staged(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path on the target's file system; what the block builds there becomes the target if the block ends well.

    Args:
        target: the folder that shall exist in the end.
        overwrite: replace an existing target. It stays untouched until the new one is complete.

    Yields:
        A path that does not exist yet, in an empty scratch folder of its own that is removed at the end.

    Raises:
        DataError: the target exists and ``overwrite`` is False, its parent cannot be written, or the disk is full.
    """
    if target.exists() and not overwrite:
        raise DataError(f"{target}: exists already; choose another place or pass --overwrite to replace it")
    made = missing_parents(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The dot keeps nnU-Net from taking a left-over for a dataset.
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        remedy = "choose another folder, or make room or mend its permissions"
        raise DataError(f"{target.parent}: cannot write there ({error.strerror}); {remedy}") from error
    try:
        fresh = scratch / "fresh"
        yield fresh
        _replace(target, fresh, scratch / "old")
    except OSError as error:
        raise DataError(
            f"{target}: could not be written ({error}): make room or mend its permissions, then do it again; nothing "
            "was changed there"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        remove_empty(made)


def missing_parents(target: Path) -> list[Path]:
    """List the folders above a target that are not there yet, the innermost first."""
    return [folder for folder in target.parents if not folder.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Remove the folders that were made for a target which did not come to be; the innermost stands first."""
    with suppress(OSError):  # not empty: the target is there
        for folder in folders:
            folder.rmdir()


def _replace(target: Path, fresh: Path, old: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
