"""Export a trained model as one ONNX file, compared with torch before it is written."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hippo_nnunet.errors import ConfigError, DataError, DependencyError, UpstreamError
from hippo_nnunet.experiment.manifest import installed_version
from hippo_nnunet.files import hash_file
from hippo_nnunet.inference.members import Member, load_member
from hippo_nnunet.inference.onnx_network import OnnxNetwork
from hippo_nnunet.models.model_file import check_description, shared_of_dataset
from hippo_nnunet.models.onnx_file import (
    INPUT,
    LARGEST,
    OUTPUT,
    SUFFIX,
    check_supported,
    open_onnx,
    parse_onnx,
    with_document,
)
from hippo_nnunet.models.onnx_graph import OPSET
from hippo_nnunet.outputs import check_target, output_file
from hippo_nnunet.sharing.exporting import ExportOptions, describe_member, member_to_export
from hippo_nnunet.sharing.half_precision import round_weights, store_halves

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hippo_nnunet.inference.batched_predictor import BatchedPredictor

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest accepted difference between onnxruntime's and torch's logits, relative to the largest logit of the patch or
absolute where that is below 1. Source: ours; trained networks differ by rounding, about 1e-6."""

_PACKAGES = ("onnx", "onnxruntime")
_BATCHES = (1, 3)
"""Sizes of the batches on which they are compared."""


def export_onnx(model: Path, output: Path, options: ExportOptions | None = None) -> Path:
    """Write a model with all its folds to one ONNX file, which 'hippo-nnunet predict' reads without torch.

    Args:
        model: nnU-Net's model folder `{trainer}__{plans}__{configuration}`.
        output: The file, ending in `.onnx`.
        options: What else goes in; metrics of an experiment do not.

    Returns:
        The file.

    Raises:
        ConfigError: A model, fold or checkpoint that is not there, another ending, or metrics.
        DataError: The file exists, a checkpoint cannot be read or could run code, a weight is too large for half
            precision, or a model that an ONNX file cannot hold: guided by CLIP, a cascade's second stage, resampled by
            torch.
        DependencyError: onnx or onnxruntime is not installed.
        UpstreamError: onnxruntime does not reproduce torch's logits.
    """
    options = options or ExportOptions()
    if output.suffix != SUFFIX:
        raise ConfigError(f"{output}: with --onnx, the model is an {SUFFIX} file: give such a name")
    if options.experiment is not None:
        raise ConfigError("--experiment: an ONNX file holds no metrics; leave it out, or export a .hippo file")
    check_target(output, options.overwrite, "a model of 'model export --onnx'", lambda path: bool(open_onnx(path)))
    _check_installed()
    member = member_to_export(model, options)
    import torch

    dataset_json = shared_of_dataset(member.dataset_json)
    description = describe_member(member, options)
    description["weights"] = "float16" if options.half else "float32"
    description["versions"] |= {package: installed_version(package) for package in _PACKAGES}
    try:
        check_description(description, member.plans, dataset_json)
        check_supported(description, member.plans)
        predictor = load_member(member, torch.device("cpu"), use_mirroring=False, backend="torch")
        if options.half:
            round_weights(predictor.networks)
        graph = _graph(predictor, member.channels)
        content = with_document(
            store_halves(graph) if options.half else graph, description, member.plans, dataset_json, _hashes(member)
        )
    except DataError as error:
        raise DataError(f"{model}: cannot be exported to ONNX: {error}") from error
    if len(content) > LARGEST:
        raise DataError(f"{model}: {len(content)} bytes as ONNX, at most {LARGEST}: export fewer folds with --folds")
    _compare(output, content, predictor, member.channels)
    with output_file(output) as path:
        path.write_bytes(content)
    return output


def _check_installed() -> None:
    for package in _PACKAGES:
        try:
            __import__(package)
        except ImportError as error:
            raise DependencyError(f"--onnx needs {package} ({error}): pip install 'hippo_nnunet[onnx]'") from error


def _graph(predictor: BatchedPredictor, channels: int) -> bytes:
    """Return the graph of the folds' mean logits, for any batch size."""
    import torch

    patches = torch.zeros(1, channels, *predictor.configuration_manager.patch_size)
    with (
        tempfile.TemporaryDirectory(prefix="hippo-onnx-") as scratch,
        warnings.catch_warnings(),
        torch.inference_mode(),
    ):
        path = Path(scratch) / "graph.onnx"
        warnings.simplefilter("ignore")  # this exporter is deprecated; the new one needs onnxscript
        torch.onnx.export(
            _mean_of(predictor.networks),
            (patches,),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
        return path.read_bytes()


def _mean_of(networks: Sequence[nn.Module]) -> nn.Module:
    from torch import nn

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.folds = nn.ModuleList(networks)

        def forward(self, patches: Tensor) -> Tensor:
            first, *others = (fold(patches) for fold in self.folds)
            return sum(others, first) / len(self.folds) if others else first

    return Mean().eval()


def _compare(output: Path, content: bytes, predictor: BatchedPredictor, channels: int) -> None:
    """Refuse a file whose logits differ from torch's by more than TOLERANCE."""
    import torch

    network = OnnxNetwork(parse_onnx(output, content))
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for size in _BATCHES:
        patches = torch.randn(size, channels, *predictor.configuration_manager.patch_size, generator=generator)
        with torch.inference_mode():
            expected = torch.stack([fold(patches) for fold in predictor.networks]).mean(0).numpy()
        difference = np.abs(network.run(patches.numpy()) - expected).max() / max(1.0, np.abs(expected).max())
        largest = max(largest, float(difference))
        if not difference <= TOLERANCE:  # also NaN
            raise UpstreamError(
                f"{output}: not written, onnxruntime's logits differ from torch's by {difference:.2g} for {size} "
                f"patches, at most {TOLERANCE:g} is accepted: use the .hippo file, and report this"
            )
    log.info("onnxruntime's logits differ from torch's by %.1g of the largest", largest)


def _hashes(member: Member) -> dict[str, str]:
    files = {str(fold): member.folder / f"fold_{fold}" / member.checkpoint for fold in member.folds}
    return {fold: hash_file(file) for fold, file in files.items()}
