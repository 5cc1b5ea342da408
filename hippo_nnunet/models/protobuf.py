"""Walk a protobuf message without its schema, and append a field; for ONNX files, without the package onnx."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types. Groups (3 and 4) are obsolete, and ONNX has none."""

_MOST_FIELD = 2**29 - 1


def fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """Yield each field of a message in order: its number, wire type and value.

    The value of a field of bytes (text, packed numbers or another message) is a view without a copy; of a varint it is
    the number; of fixed size, the bytes.

    Raises:
        ValueError: The message is truncated, or no protobuf.
    """
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if not 1 <= number <= _MOST_FIELD:
            raise ValueError(f"field number {number}")
        if kind == VARINT:
            value, position = _varint(message, position)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, position = _varint(message, position)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if size > end - position:
            raise ValueError(f"truncated: a field of {size} bytes, and {end - position} are left")
        yield number, kind, message[position : position + size]
        position += size


def encoded(number: int, content: bytes) -> bytes:
    """Return a field of bytes, which can be appended to a message."""
    return _as_varint(number << 3 | BYTES) + _as_varint(len(content)) + content


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for count in range(10):
        if position >= len(message):
            raise ValueError("truncated")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 10 bytes")


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
