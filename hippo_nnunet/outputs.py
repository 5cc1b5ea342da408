"""Files and folders that the user tells a command to write.

A command replaces only regular files and folders of the kind that it writes itself, and no file that it reads:
`check_distinct` and `check_target` say so before any work is done, `staged` for a folder. Folders that were created for
an output are removed again if it is not written.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hippo_nnunet.errors import DataError
from hippo_nnunet.files import atomic_path

_OF_THE_SYSTEM = r"(.*/)?\.DS_Store"
"""Files that a file manager puts into every folder that it shows."""


def check_target(target: Path, overwrite: bool, kind: str, is_kind: Callable[[Path], bool]) -> None:
    """Refuse to write a file in the place of another one, unless it may be overwritten and is of the same kind.

    Only a regular file is replaced, never a link, a device or a pipe.

    Args:
        target: The file to write.
        overwrite: Replace an existing file.
        kind: What the command writes, in words: `a table of volumes`.
        is_kind: Tells by its content whether an existing file is such a file. An OSError, ValueError or DataError that
            it raises means no.

    Raises:
        DataError: The target exists and is not to be replaced.
    """
    if not os.path.lexists(target):
        return
    if target.is_dir():
        raise DataError(f"{target} is a folder: name a file")
    if not overwrite:
        raise DataError(f"{target} exists already: choose another name, or give --overwrite")
    if target.is_symlink() or not target.is_file():
        what = f"a link to {os.path.realpath(target)}" if target.is_symlink() else "no regular file"
        raise DataError(f"{target} is {what}, which is never replaced: choose another name")
    try:
        replaceable = is_kind(target)
    except (OSError, ValueError, DataError):
        replaceable = False
    if not replaceable:
        raise DataError(f"{target} is not {kind}, so it is not replaced: choose another name, or move it away")


def check_distinct(outputs: Iterable[Path], inputs: Iterable[Path] = ()) -> None:
    """Refuse outputs of one call that are the same file, lie inside one another, or are one of its inputs.

    Links are followed.

    Raises:
        DataError: Names both files.
    """
    read = {_identity(path): path for path in inputs}
    written: dict[object, Path] = {}
    for output in outputs:
        key = _identity(output)
        if key in read:
            raise DataError(f"{output} is the input {read[key]}: choose another place to write to")
        if key in written:
            raise DataError(f"{output} would be written twice, also as {written[key]}: choose another name")
        written[key] = output
    real = {os.path.realpath(path): path for path in written.values()}
    for place, output in real.items():
        for parent in Path(place).parents:
            if str(parent) in real:
                raise DataError(f"{output} would be inside {real[str(parent)]}, which is a file: choose another name")


def _identity(path: Path) -> object:
    """Return a key that is equal for all names of a file, existing or not."""
    real = os.path.realpath(path)
    try:
        found = Path(real).stat()
    except (OSError, ValueError):
        return real
    return found.st_dev, found.st_ino


def first_line(path: Path) -> str:
    """Return the beginning of a text file, up to 4096 characters of its first line.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not UTF-8.
    """
    with path.open(encoding="utf-8") as stream:
        return stream.readline(4096).rstrip("\n")


@contextmanager
def output_file(target: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[Path]:
    """Like `atomic_path`, for a file that the user requested; see `writing`."""
    with writing(target, errors), atomic_path(target) as temporary:
        yield temporary


@contextmanager
def writing(target: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Name a file that the user requested if the block cannot write it, and remove the folders created for it.

    Args:
        target: The file that the block writes.
        errors: Exceptions of the block that mean that the file could not be written; all others pass unchanged.

    Raises:
        DataError: The file could not be written.
    """
    created: list[Path] = []
    try:
        created = missing_parents(target)
        yield
    except errors as error:
        raise DataError(f"{target}: could not be written ({error}): make room, or choose another folder") from error
    finally:
        remove_empty(created)


@contextmanager
def staged(target: Path, overwrite: bool, content: str) -> Iterator[Path]:
    """Yield a path on the target's file system, which becomes the target if the block ends without an error.

    Args:
        target: The folder to create.
        overwrite: Replace an existing target, which stays untouched until the new one is complete.
        content: Regular expression of the files that the command writes, relative to the folder: `a/b.txt`. A folder
            with any other file is never replaced.

    Yields:
        A path that does not exist yet, in an empty scratch folder that is removed at the end.

    Raises:
        DataError: The target exists and is not to be replaced, its parent cannot be written, or the disk is full.
    """
    if os.path.lexists(target):
        if not overwrite:
            raise DataError(f"{target}: exists already; choose another folder, or pass --overwrite to replace it")
        if not target.is_dir():
            raise DataError(f"{target}: is no folder; choose a folder")
        foreign = foreign_file(target, content)
        if foreign:
            raise DataError(
                f"{target}: holds '{foreign}', which this command does not write; "
                "choose another folder, or move it away"
            )
    created = missing_parents(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The leading dot keeps nnU-Net from listing a leftover as a dataset.
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        remedy = "choose another folder, or make room or correct its permissions"
        raise DataError(f"{target.parent}: cannot write there ({error.strerror}); {remedy}") from error
    try:
        fresh = scratch / "fresh"
        yield fresh
        _replace(target, fresh, scratch / "old")
    except OSError as error:
        raise DataError(
            f"{target}: could not be written ({error}), nothing was changed there: make room or correct its "
            "permissions, then try again"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        remove_empty(created)


def foreign_file(folder: Path, content: str) -> str | None:
    """Return the first file in a folder whose relative path does not match a regular expression; None if all do."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not (path.is_dir() and not path.is_symlink()) and not re.fullmatch(f"{content}|{_OF_THE_SYSTEM}", name):
            return name
    return None


def missing_parents(target: Path) -> list[Path]:
    """Return the folders above a target that do not exist yet, innermost first."""
    return [folder for folder in target.parents if not folder.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Remove folders that are empty, innermost first."""
    with suppress(OSError):  # raised by a folder that is not empty
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
