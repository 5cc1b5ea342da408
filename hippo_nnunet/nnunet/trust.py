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

import torch

from hippo_nnunet.errors import DataError
from hippo_nnunet.nnunet.case_files import NumberType, number, text_bytes

log = logging.getLogger(__name__)


def _registered(replacement: Any, module: str, name: str) -> Any:
    """Register an object under the name that a pickle uses."""
    replacement.__module__, replacement.__name__, replacement.__qualname__ = module, name, name
    return replacement


def _numpy_scalar(module: str) -> Any:
    def scalar(of_type: NumberType, content: bytes) -> Any:
        return number(of_type, content)

    return _registered(scalar, module, "scalar")


class _Type(NumberType):
    pass


def _encode(text: str, encoding: str) -> bytes:  # torch before 2.5 refuses the original
    return text_bytes(text, encoding)


_ALLOWED = [
    _registered(_encode, "_codecs", "encode"),
    _registered(_Type, "numpy", "dtype"),
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
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):  # torch before 2.6 would run it
            raise ValueError(f"{path} is a TorchScript archive, no checkpoint")
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
