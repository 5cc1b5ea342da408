"""Files and folders written whole or not at all, and JSON and tables read with an error that names the file.

A write goes to a temporary file or folder beside the target, which replaces the target once it is complete: a process
that is killed leaves the earlier content.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hippo_nnunet.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_NAMES = ("case", "variant", "configuration", "label")
"""Columns of our tables that hold names, even where they look like numbers."""


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; it replaces the target if the block ends without an error.

    The temporary file is removed where the block fails. The target's folder is created.

    Args:
        target: The file to write.

    Yields:
        A path with the target's suffixes, which does not exist yet.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: Any, indent: int | None = 1) -> Path:
    """Write a JSON file atomically; NaN and infinity are refused, for JSON has none.

    Raises:
        ValueError: The content holds NaN or infinity.
    """
    return write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        remedy = "restore it, or delete it and make it again"
        raise DataError(f"{path} cannot be read as JSON ({error}); {remedy}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DataError: The file is missing, is not JSON, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise DataError(f"{path} holds a {kind}, no JSON object; restore it, or delete it and make it again")
    return content


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    """Read a CSV table that an experiment keeps.

    Returns:
        The columns asked for, names as strings; None where there is no such file.

    Raises:
        DataError: It cannot be read, or lacks a column.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(_NAMES, str))
        return table[list(columns)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read as a table ({error}): delete it, it will be made again") from error


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a CSV table atomically.

    Raises:
        DataError: It cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): make its folder writable") from error
    return path


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
