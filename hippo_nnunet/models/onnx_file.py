"""A model as one ONNX file: a graph of all folds, and all that prediction needs as JSON in its metadata.

The file is checked before onnxruntime sees it; torch, nnU-Net and the package onnx are not imported.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hippo_nnunet.data.description import Labels, read_labels
from hippo_nnunet.data.layout import NIBABEL, SIMPLE_ITK
from hippo_nnunet.errors import DataError
from hippo_nnunet.memory import is_out_of_memory, memory_error
from hippo_nnunet.models.container import REMEDY, as_json, naming_file
from hippo_nnunet.models.model_file import check_description, shared_of_dataset
from hippo_nnunet.models.protobuf import encoded, fields
from hippo_nnunet.nnunet.plans import configuration_of
from hippo_nnunet.training.recipes import CLIP_BASE, is_ours, parse

SUFFIX = ".onnx"
FORMAT = "hippo_nnunet onnx model"
VERSION = 1
"""Version of the document in the metadata; a reader refuses a higher one."""
OPSET = 17
"""Of the operators. Source: ours; the highest that torch's TorchScript exporter writes without conversion in every
torch from 2.4 on, and onnxruntime reads it from 1.12 on."""
KEY = "hippo_nnunet"
"""Of the document among the file's `metadata_props`."""
INPUT, OUTPUT = "patches", "logits"
"""Names of the graph's input (batch, channel, *patch) and output (batch, head, *patch), float32."""
RESAMPLING = "resample_data_or_seg_to_shape"
"""The only resampling function of nnU-Net that does not need torch."""

LARGEST = 2**31 - 1
"""Bytes of a file: protobuf's limit."""
_LARGEST_DOCUMENT = 24 * 2**20
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


@dataclass(frozen=True)
class OnnxModel:
    """A checked ONNX model.

    Attributes:
        path: The file.
        content: Its bytes, those that were checked.
        description: As model.json of a `.hippo` file: trainer, configuration, folds, mirroring axes, licence, versions.
        plans: Content of plans.json.
        dataset_json: The shared entries of dataset.json.
        labels: Of the dataset.
        checkpoints: Fold to SHA-256 of the checkpoint that it was exported from.
    """

    path: Path
    content: bytes = field(repr=False)
    description: dict[str, Any]
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    labels: Labels
    checkpoints: dict[str, str]

    @property
    def folder_name(self) -> str:
        """nnU-Net's name of the model's folder."""
        return f"{self.description['trainer']}__{self.plans['plans_name']}__{self.description['configuration']}"

    @property
    def configuration(self) -> dict[str, Any]:
        """The configuration of the plans, inheritance resolved."""
        return configuration_of(self.plans, str(self.description["configuration"]))

    @property
    def mirroring_axes(self) -> tuple[int, ...]:
        """Spatial axes to mirror at prediction, from 0."""
        return tuple(self.description.get("mirroring_axes") or ())


def open_onnx(path: Path) -> OnnxModel:
    """Read a file of `hippo-nnunet model export --onnx`, and check its graph and every entry of its metadata.

    Raises:
        DataError: It is missing, no such file, of a newer format, truncated or damaged, refers to other files, holds
            operators that no network of ours has, or its description is invalid: see docs/sharing.md.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file: name a file that 'hippo-nnunet model export --onnx' wrote")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path}: has {path.stat().st_size} bytes, an ONNX file at most {LARGEST}; {REMEDY}")
    try:
        content = path.read_bytes()
    except (OSError, MemoryError) as error:
        if is_out_of_memory(error):
            raise memory_error(str(path)) from error
        raise DataError(f"{path}: cannot be read ({error}); {REMEDY}") from error
    return parse_onnx(path, content)


def parse_onnx(path: Path, content: bytes) -> OnnxModel:
    """Like `open_onnx`, for bytes; errors name the path."""
    with naming_file(path):
        try:
            graph_hash, properties = _checked(memoryview(content))
        except ValueError as error:
            raise DataError(f"not a readable ONNX file ({error})") from error
        document = _document(path, properties)
        description, plans = _object(document, "model"), _object(document, "plans")
        dataset_json = shared_of_dataset(_object(document, "dataset"))
        check_description(description, plans, dataset_json)
        check_supported(description, plans)
        expected = document.get("graph_sha256")
        if expected != graph_hash:
            raise DataError(f"its graph has SHA-256 {graph_hash[:12]}..., its metadata says {str(expected)[:12]}...")
        if document.get("postprocessing") != "none":
            raise DataError(f"postprocessing is {str(document.get('postprocessing'))[:60]!r}, expected 'none'")
        checkpoints = _checkpoints(document, description)
    return OnnxModel(path, content, description, plans, dataset_json, read_labels(dataset_json), checkpoints)


def check_supported(description: Mapping[str, Any], plans: Mapping[str, Any]) -> None:
    """Refuse a model that cannot be predicted without torch, or that needs more than its images.

    Args:
        description: Content of model.json, checked by `check_description`.
        plans: Content of plans.json.

    Raises:
        DataError: Names what is not supported; the caller adds the file.
    """
    trainer, configuration = str(description["trainer"]), str(description["configuration"])
    if is_ours(trainer) and parse(trainer).base == CLIP_BASE:
        raise DataError(f"{trainer} is guided by a CLIP encoder, which is not part of an ONNX file")
    resolved = configuration_of(plans, configuration)
    if resolved.get("previous_stage"):
        raise DataError(f"{configuration} is the second stage of a cascade, which an ONNX file cannot hold")
    reader = plans["image_reader_writer"]
    if reader not in (SIMPLE_ITK, NIBABEL):
        raise DataError(f"image_reader_writer is {reader}; an ONNX file supports {SIMPLE_ITK} and {NIBABEL}")
    for key in ("resampling_fn_data", "resampling_fn_probabilities"):
        if resolved[key] != RESAMPLING or resolved[f"{key}_kwargs"].get("is_seg", False) is not False:
            raise DataError(f"{key} is {resolved[key]}; an ONNX file supports {RESAMPLING} with is_seg false")


def with_document(
    exported: bytes,
    description: Mapping[str, Any],
    plans: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    checkpoints: Mapping[str, str],
) -> bytes:
    """Add the metadata to an exported graph.

    Args:
        exported: A serialised ONNX model without metadata.
        description: See `OnnxModel`, like the others.
        plans: Content of plans.json.
        dataset_json: The shared entries of dataset.json.
        checkpoints: Fold to SHA-256 of its checkpoint.

    Returns:
        The content of the file; equal arguments give equal bytes.

    Raises:
        DataError: The graph holds what `open_onnx` refuses.
    """
    try:
        graph_hash, _ = _checked(memoryview(exported))
    except ValueError as error:
        raise DataError(f"torch's exporter wrote what this format does not hold ({error})") from error
    document = {
        "format": FORMAT,
        "format_version": VERSION,
        "model": description,
        "plans": plans,
        "dataset": dataset_json,
        "postprocessing": "none",
        "checkpoints": checkpoints,
        "graph_sha256": graph_hash,
    }
    return exported + encoded(_PROPERTIES, encoded(1, KEY.encode()) + encoded(2, as_json(document)))


def _checked(model: memoryview) -> tuple[str, dict[str, bytes]]:
    """Check a model's structure; return the hash of its graph, and its metadata."""
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
    for number, _, value in fields(tensor):
        if number == _EXTERNAL or (number == _LOCATION and value != 0):
            raise ValueError("weights in another file, which is never read")


def _known(message: memoryview, known: set[int], what: str) -> Iterator[tuple[int, memoryview | int]]:
    for number, _, value in fields(message):
        if number not in known:  # functions, training graphs, subgraphs, sparse tensors, quantization, later additions
            raise ValueError(f"{what} holds field {number}, which no exported network has")
        yield number, value


def _bytes(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in place of bytes")
    return value


def _text(value: memoryview | int) -> str:
    return bytes(_bytes(value)[:60]).decode("utf-8", "replace")


def _document(path: Path, properties: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the metadata's document, of a version that this reader knows."""
    if KEY not in properties:
        raise DataError(
            f"{path}: has no metadata {KEY!r}, so labels and preprocessing are unknown: name a file that 'hippo-nnunet "
            "model export --onnx' wrote"
        )
    if len(properties[KEY]) > _LARGEST_DOCUMENT:
        raise DataError(f"metadata {KEY!r} has {len(properties[KEY])} bytes, at most {_LARGEST_DOCUMENT} are allowed")
    try:
        document = json.loads(properties[KEY].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"metadata {KEY!r} is not JSON ({str(error)[:100]})") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if type(version) is not int or version < 1 or document.get("format") != FORMAT:
        raise DataError(f"metadata {KEY!r} does not say '{FORMAT}' and its version")
    if version > VERSION:
        raise DataError(
            f"{path}: is of version {version} of the format, this hippo_nnunet reads up to {VERSION}: update it with "
            "pip install --upgrade hippo_nnunet"
        )
    return dict(document)


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise DataError(f"metadata {name} is {str(value)[:60]!r}, expected a JSON object")
    return value


def _checkpoints(document: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, str]:
    found = _object(document, "checkpoints")
    if set(found) != {str(fold) for fold in description["folds"]} or not all(
        isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest) for digest in found.values()
    ):
        raise DataError("metadata checkpoints does not give the SHA-256 of each fold's checkpoint")
    return found
