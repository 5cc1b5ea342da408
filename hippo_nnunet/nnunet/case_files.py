"""nnU-Net's pickles and arrays of a case, read or checked without running code; torch-free."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet.errors import DataError, one_line

_NUMBERS = re.compile(r"([<>=|]?)([biufc])(\d{1,2})")
"""Codes of numeric types such as f8; no objects, text or structures."""

_ARRAY = "numpy.ndarray"
"""Stands for the class in a pickle, which only `_Array` replaces."""

_RUNS_CODE = (b"LazyArray", b"proxy-source", b"b2o")
"""Names in a blosc2 header of objects that are computed or fetched when they are opened; blosc2 before its safe mode
runs the code of a LazyArray."""
_LARGEST_HEADER = 2**20


class NumberType:
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


def number(of_type: NumberType, content: bytes) -> Any:
    """Replacement of numpy's `scalar`: one number from its bytes."""
    if not isinstance(of_type, NumberType) or type(content) is not bytes or len(content) != of_type.dtype.itemsize:
        raise pickle.UnpicklingError("Unsupported global: GLOBAL numpy scalar that is not a number")
    return np.frombuffer(content, of_type.dtype)[0]


def text_bytes(text: str, encoding: str) -> bytes:
    """Replacement of `_codecs.encode`, with which pickles of protocol 2 write bytes."""
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError("Unsupported global: GLOBAL _codecs.encode of something other than bytes")
    return text.encode("latin1")


class _Array(np.ndarray[Any, Any]):
    """Replaces `numpy.ndarray`: numbers only, and only as many as there are bytes."""

    def __setstate__(self, state: Any) -> None:
        """Take shape, type, order and bytes from numpy's pickled state."""
        _, shape, of_type, fortran, content = state
        complete: Any = (1, _shape(shape, of_type, content), of_type.dtype, bool(fortran), content)
        super().__setstate__(complete)


def _shape(shape: Any, of_type: Any, content: Any) -> tuple[int, ...]:
    sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or type(of_type) is not NumberType or not isinstance(content, (bytes, bytearray)):
        raise pickle.UnpicklingError("it holds an array that is not of numbers")
    if prod(shape) * of_type.dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"it holds an array of shape {shape} with {len(content)} bytes")
    return tuple(shape)


def _empty(kind: Any, shape: Any, code: Any) -> _Array:
    """Replacement of numpy's `_reconstruct`: the array that `__setstate__` fills."""
    return np.empty(0).view(_Array)


def _from_buffer(content: Any, of_type: Any, shape: Any, order: Any) -> np.ndarray:
    """Replacement of numpy's `_frombuffer`, of pickles of protocol 5."""
    array = np.frombuffer(content, of_type.dtype if type(of_type) is NumberType else None)
    return array.reshape(_shape(shape, of_type, content), order="F" if order == "F" else "C")


_CORES = ("numpy._core", "numpy.core")  # numpy 2 and 1
_PLAIN: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): NumberType,
    ("numpy", "ndarray"): _ARRAY,
    ("_codecs", "encode"): text_bytes,
    ("__builtin__", "bytes"): lambda: b"",  # how protocol 2 writes no bytes
    ("collections", "OrderedDict"): OrderedDict,
    **{(f"{core}.multiarray", "scalar"): number for core in _CORES},
    **{(f"{core}.multiarray", "_reconstruct"): _empty for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in _CORES},
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain values and numpy's numbers and arrays, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a name, or refuse it."""
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"it could run code: it names {module}.{name}")
        return _PLAIN[module, name]


def read_properties(path: Path) -> dict[str, Any]:
    """Read the properties that nnU-Net pickles beside probabilities and preprocessed cases.

    Raises:
        Exception: OSError, pickle.UnpicklingError and others: it is missing, damaged, or could run code.
    """
    with path.open("rb") as stream:
        properties = _PlainUnpickler(stream).load()
    if not isinstance(properties, dict):
        raise pickle.UnpicklingError(f"it holds a {type(properties).__name__}, no properties of a case")
    return properties


def check_cases(folder: Path, cases: Iterable[str]) -> None:
    """Refuse preprocessed cases whose files could run code when nnU-Net reads them.

    Args:
        folder: nnU-Net's folder of a preprocessed configuration.
        cases: Cases that are there.

    Raises:
        DataError: Names the file.
    """
    for case in cases:
        for path in (folder / f"{case}.pkl", folder / f"{case}.b2nd", folder / f"{case}_seg.b2nd"):
            try:
                if path.suffix == ".pkl":
                    read_properties(path)
                elif path.exists():
                    _check_array(path)
            except Exception as error:  # a damaged pickle raises various exceptions
                reason = one_line(error)
                raise DataError(
                    f"preprocessed case '{case}' cannot be read ({path}: {reason}): delete {folder}, then preprocess "
                    "again: 'hippo-nnunet plan' does, and 'hippo-nnunet run' by itself"
                ) from error


def _check_array(path: Path) -> None:
    """Refuse a blosc2 file that is no plain array."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(15)[11:], "big")  # of the header, in every version of the format
        header = stream.read(min(size, _LARGEST_HEADER))
    found = next((name.decode() for name in _RUNS_CODE if name in header), None)
    if found or size > _LARGEST_HEADER:
        raise ValueError(f"it could run code: it holds a {found or 'header that is too large'} in place of an array")
