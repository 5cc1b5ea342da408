"""The structure of an ONNX model, checked in its bytes: without the package onnx, and before onnxruntime sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

OPSET = 17
"""Of the operators. Source: ours; the highest that torch's TorchScript exporter writes without conversion in every
torch from 2.4 on, and onnxruntime reads it from 1.12 on."""
_MOST_NODES = 100_000
_OPERATORS = frozenset((
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv",
    "ConvTranspose", "Div", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Gather", "Gelu", "Gemm",
    "GlobalAveragePool", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "LayerNormalization", "LeakyRelu", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "PRelu", "Pad", "Pow",
    "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Selu", "Shape", "Sigmoid", "Slice",
    "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where",
))  # fmt: skip
"""Operators that networks of nnU-Net's plans become. None has a graph of its own, so nothing loops."""

# fields of onnx.proto
_GRAPH, _OPSETS, _PROPERTIES = 7, 8, 14
_NODES, _INITIALIZERS = 1, 5
_OP_TYPE, _ATTRIBUTES, _DOMAIN = 4, 5, 7
_TENSOR = 5
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, _GRAPH, _OPSETS, _PROPERTIES}
_GRAPH_FIELDS = {_NODES, 2, _INITIALIZERS, 10, 11, 12, 13}
_NODE_FIELDS = {1, 2, 3, _OP_TYPE, _ATTRIBUTES, _DOMAIN}
_ATTRIBUTE_FIELDS = {1, 2, 3, 4, _TENSOR, 7, 8, 9, 20}
_EXTERNAL, _LOCATION = 13, 14

# wire types of protobuf; groups (3 and 4) are obsolete, and ONNX has none
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_FIELD = 2**29 - 1


def check_graph(model: memoryview) -> tuple[str, dict[str, bytes]]:
    """Check that a model is one graph of plain operators with its weights inside.

    Args:
        model: A serialised ONNX model.

    Returns:
        SHA-256 of the graph, and the model's metadata.

    Raises:
        ValueError: It is truncated or no such model; says what it holds.
    """
    graphs: list[memoryview] = []
    properties: dict[str, bytes] = {}
    for number, value in _known(model, _MODEL_FIELDS, "the model"):
        if number == _GRAPH:
            graphs.append(_bytes(value))
        elif number == _OPSETS:
            _check_opset(_bytes(value))
        elif number == _PROPERTIES:
            entry = {n: bytes(_bytes(v)) for n, v in _known(_bytes(value), {1, 2}, "the metadata")}
            key = entry.get(1, b"").decode("utf-8", "replace")
            if key in properties:
                raise ValueError(f"metadata {key[:60]!r} is there twice")
            properties[key] = entry.get(2, b"")
    if len(graphs) != 1:
        raise ValueError(f"{len(graphs)} graphs, expected 1")
    nodes = 0
    for number, value in _known(graphs[0], _GRAPH_FIELDS, "the graph"):
        if number == _NODES:
            nodes += 1
            if nodes > _MOST_NODES:
                raise ValueError(f"more than {_MOST_NODES} nodes")
            _check_node(_bytes(value))
        elif number == _INITIALIZERS:
            _check_tensor(_bytes(value))
    return hashlib.sha256(graphs[0]).hexdigest(), properties


def _check_opset(opset: memoryview) -> None:
    for number, value in _known(opset, {1, 2}, "the operator sets"):
        if number == 1 and _bytes(value):
            raise ValueError(f"operators of the domain {_text(value)!r}, expected those of ONNX")
        if number == 2 and value != OPSET:
            raise ValueError(f"operators of version {value}, expected {OPSET}")


def _check_node(node: memoryview) -> None:
    for number, value in _known(node, _NODE_FIELDS, "a node"):
        if number == _OP_TYPE and _text(value) not in _OPERATORS:
            raise ValueError(f"the operator {_text(value)!r}, which no network of nnU-Net has")
        if number == _DOMAIN and _bytes(value):
            raise ValueError(f"an operator of the domain {_text(value)!r}, expected those of ONNX")
        if number == _ATTRIBUTES:
            for kind, content in _known(_bytes(value), _ATTRIBUTE_FIELDS, "an attribute"):
                if kind == _TENSOR:
                    _check_tensor(_bytes(content))


def _check_tensor(tensor: memoryview) -> None:
    for number, _, value in _fields(tensor):
        if number == _EXTERNAL or (number == _LOCATION and value != 0):
            raise ValueError("weights in another file, which is never read")


def _known(message: memoryview, known: set[int], what: str) -> Iterator[tuple[int, memoryview | int]]:
    for number, _, value in _fields(message):
        if number not in known:  # functions, training graphs, subgraphs, sparse tensors, quantization, later additions
            raise ValueError(f"{what} holds field {number}, which no exported network has")
        yield number, value


def _bytes(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in place of bytes")
    return value


def _text(value: memoryview | int) -> str:
    return bytes(_bytes(value)[:60]).decode("utf-8", "replace")


def metadata(key: str, value: bytes) -> bytes:
    """Return an entry of the metadata, to be appended to a serialised model."""
    return _encoded(_PROPERTIES, _encoded(1, key.encode()) + _encoded(2, value))


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
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
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield number, kind, value
            continue
        if kind == _BYTES:
            size, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if size > end - position:
            raise ValueError(f"truncated: a field of {size} bytes, and {end - position} are left")
        yield number, kind, message[position : position + size]
        position += size


def _encoded(number: int, content: bytes) -> bytes:
    """Return a field of bytes, which can be appended to a message."""
    return _as_varint(number << 3 | _BYTES) + _as_varint(len(content)) + content


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
