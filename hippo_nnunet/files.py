"""Atomic writes of files, and readers of JSON and tables whose errors name the file.

A write goes to a temporary file beside the target, which replaces the target once it is complete: a process
that is killed leaves the earlier content.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hippo_nnunet.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_NAMES = ("case", "variant", "configuration", "label")
"""Columns of tables that hold names, even if they look like a number or a missing value (`007`, `NA`)."""
_RESTORE = "restore it, or delete it and recreate it"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; it replaces the target if the block ends without an error.

    The temporary file is removed if the block fails. The target's folder is created.

    Args:
        target: The file to write.

    Yields:
        A path with the target's suffixes, which does not exist yet.

    Raises:
        DataError: The target is a folder, a device or a pipe.
    """
    if target.exists() and not target.is_file():
        raise DataError(f"{target} is no regular file, so it is not replaced: move it away, or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    # processes of two hosts or containers may have the same id
    temporary = target.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.{target.name}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def is_utf8(path: Path | str) -> bool:
    """Tell whether a path can be written in UTF-8: Python keeps other bytes as surrogates, which libraries refuse."""
    return not any("\ud800" <= letter <= "\udfff" for letter in str(path))


def zip_entry(name: str) -> zipfile.ZipInfo:
    """Return an uncompressed regular file's ZIP entry with a fixed date, so that equal content gives equal bytes."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o100644 << 16
    return entry


def hash_file(path: Path, digest: Any = None) -> str:
    """Feed a file to one of hashlib's objects, by default of SHA-256; returns hexadecimal digits."""
    digest = hashlib.sha256() if digest is None else digest
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return str(digest.hexdigest())


def json_values(value: Any, digits: int | None = None) -> Any:
    """Return what JSON holds: numpy's numbers as Python's, NaN and infinity as None, tuples as lists.

    Args:
        value: Numbers, texts, and dictionaries and sequences of them.
        digits: Digits after the point; None keeps all.
    """
    if isinstance(value, dict):
        return {str(key): json_values(entry, digits) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(entry, digits) for entry in value]
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return value if digits is None else round(value, digits)


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically, in UTF-8; surrogates, for names that are not UTF-8, as backslash escapes."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def write_json(path: Path, content: Any, indent: int | None = 1) -> Path:
    """Write a JSON file atomically; NaN and infinity are refused, as JSON has neither.

    Raises:
        ValueError: The content holds NaN or infinity.
    """
    return write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        remedy: End of the error message: what the user can do.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {remedy or 'restore or recreate it'}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); {remedy or _RESTORE}") from error


def read_object(path: Path, remedy: str | None = None) -> dict[str, Any]:
    """Read a JSON file that holds an object; see `read_json`.

    Raises:
        DataError: The file is missing, is not JSON, or holds something else.
    """
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object but a {type(content).__name__}; {remedy or _RESTORE}")
    return content


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV table; cases, variants, configurations and labels are text, NaN only if the field is empty.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a table.
    """
    import pandas as pd

    table = pd.read_csv(path)
    # one call has either pandas' words for missing values in every column, or in none
    names = pd.read_csv(path, usecols=_NAMES.__contains__, dtype=str, keep_default_na=False, na_values=[""])
    table[names.columns] = names
    return table


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    """Read a CSV table that an experiment keeps.

    Returns:
        The requested columns, names as strings; None if the file does not exist.

    Raises:
        DataError: The file cannot be read, or a column is missing.
    """
    try:
        return read_csv(path)[list(columns)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read as a table ({error}): delete it to have it recreated") from error


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a CSV table atomically.

    Raises:
        DataError: It cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False, errors="backslashreplace")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): make its folder writable") from error
    return path
