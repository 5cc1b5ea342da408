"""Read checkpoints without running code; refuse those that need it unless the user trusts them."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hippo_nnunet.errors import DataError

log = logging.getLogger(__name__)

_NUMBERS = re.compile(r"([<>=|]?)([biufc])(\d{1,2})")
"""Codes of numeric types such as f8; no objects, text or structures."""


class _NumberType:
    """Replaces `numpy.dtype`, because numpy crashes on some types that a pickle could make of it."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.dtype({code!r}) is not a numeric type")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Restore the byte order from numpy's pickled state."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("Unsupported global: GLOBAL numpy.dtype with an invalid state")
        self.dtype = self.dtype.newbyteorder(order)


def _number(of_type: _NumberType, content: bytes) -> Any:
    """Replacement of numpy's `scalar`: one number from its bytes."""
    if type(of_type) is not _NumberType or type(content) is not bytes or len(content) != of_type.dtype.itemsize:
        raise pickle.UnpicklingError("Unsupported global: GLOBAL numpy scalar that is not a number")
    return np.frombuffer(content, of_type.dtype)[0]


def _registered(replacement: Any, module: str, name: str) -> Any:
    """Register an object under the name that a pickle uses."""
    replacement.__module__, replacement.__name__, replacement.__qualname__ = module, name, name
    return replacement


def _numpy_scalar(module: str) -> Any:
    def scalar(of_type: _NumberType, content: bytes) -> Any:
        return _number(of_type, content)

    return _registered(scalar, module, "scalar")


def _bytes(text: str, encoding: str) -> bytes:
    """Replacement of `_codecs.encode`, with which pickles of protocol 2 write bytes; torch before 2.5 refuses it."""
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError("Unsupported global: GLOBAL _codecs.encode of something other than bytes")
    return text.encode("latin1")


_ALLOWED = [
    _registered(_bytes, "_codecs", "encode"),
    _registered(_NumberType, "numpy", "dtype"),
    _numpy_scalar("numpy._core.multiarray"),
    _numpy_scalar("numpy.core.multiarray"),  # numpy 1
]
"""For the numpy numbers that nnU-Net's checkpoints hold in the log and the best score."""


def read_checkpoint(path: Path, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint with memory-mapped tensors, by torch's restricted unpickler.

    Args:
        path: A `.pth` of nnU-Net or of ours.
        trust: If the restricted unpickler refuses it, use the unrestricted one, which may run arbitrary code.

    Returns:
        The checkpoint's entries: `network_weights`, `trainer_name`, `init_args` and so on.

    Raises:
        DataError: It could run code and is not trusted, or is not a dictionary.
        Exception: What torch raises for a damaged file.
    """
    if not zipfile.is_zipfile(path):  # torch would read it as a legacy pickle
        raise ValueError(f"{path} is cut off, or no checkpoint")
    try:
        with _allowing():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        named = f"it names {found[1]}" if found else "it is no plain pickle of tensors"
        if not trust:
            raise DataError(
                f"{path}: loading this checkpoint can run code ({named}): if you trust who made it give "
                "--trust-checkpoint, or ask for a file of 'hippo-nnunet model export' instead"
            ) from error
        log.warning("%s: loading this checkpoint can run code (%s); you trust it", path, named)
        content = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not an nnU-Net checkpoint but a {type(content).__name__}: name another one")
    return content


@contextmanager
def _allowing() -> Iterator[None]:
    """Extend torch's safe globals within the block; torch 2.4 has no such context manager."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_ALLOWED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
