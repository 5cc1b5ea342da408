"""Reads JSON files that nnU-Net, this package or anybody's editor may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hippo_nnunet.errors import DataError


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
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
