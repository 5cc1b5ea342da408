"""Tables that an experiment's folder keeps, so that figures outlive masks and networks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hippo_nnunet.errors import DataError

_NAMES = ("case", "variant", "configuration", "label")


def read_kept(path: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    """Read a table.

    Returns:
        The columns asked for, names as strings; None where there is no such file.

    Raises:
        DataError: It cannot be read, or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(_NAMES, str))
        return table[list(columns)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read as a table ({error}): delete it, it will be made again") from error


def write_kept(table: pd.DataFrame, path: Path) -> Path:
    """Write a table atomically, in the place of an older one.

    Raises:
        DataError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(temporary, index=False)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}): make its folder writable") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
