"""A model as one ONNX file: a graph of all folds, and all that prediction needs as JSON in its metadata.

The file is checked before onnxruntime sees it; torch, nnU-Net and the package onnx are not imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hippo_nnunet.data.description import Labels, read_labels
from hippo_nnunet.data.layout import NIBABEL, SIMPLE_ITK
from hippo_nnunet.errors import DataError
from hippo_nnunet.memory import is_out_of_memory, memory_error
from hippo_nnunet.models.container import REMEDY, as_json, check_version, naming_file
from hippo_nnunet.models.model_file import check_description, shared_of_dataset
from hippo_nnunet.models.onnx_graph import check_graph, metadata
from hippo_nnunet.nnunet.plans import configuration_of
from hippo_nnunet.training.recipe_words import CLIP_BASE
from hippo_nnunet.training.recipes import is_ours, parse

SUFFIX = ".onnx"
FORMAT = "hippo_nnunet onnx model"
VERSION = 1
"""Version of the document in the metadata; a reader refuses a higher one."""
KEY = "hippo_nnunet"
"""Of the document among the file's `metadata_props`."""
INPUT, OUTPUT = "patches", "logits"
"""Names of the graph's input (batch, channel, *patch) and output (batch, head, *patch), float32."""
RESAMPLING = "resample_data_or_seg_to_shape"
"""The only resampling function of nnU-Net that does not need torch."""

LARGEST = 2**31 - 1
"""Bytes of a file: protobuf's limit."""
_LARGEST_DOCUMENT = 24 * 2**20


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
        raise DataError(f"{path}: cannot be read ({error}): correct its permissions, or copy it again") from error
    return parse_onnx(path, content)


def parse_onnx(path: Path, content: bytes) -> OnnxModel:
    """Like `open_onnx`, for bytes; errors name the path."""
    with naming_file(path):
        try:
            graph_hash, properties = check_graph(memoryview(content))
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
    if is_ours(trainer) and parse(trainer).slices > 1:
        raise DataError(
            f"{trainer} sees adjacent slices, which prediction without torch does not pass: export without --onnx"
        )
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
        graph_hash, _ = check_graph(memoryview(exported))
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
    return exported + metadata(KEY, as_json(document))


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
    check_version(path, version, VERSION)
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
