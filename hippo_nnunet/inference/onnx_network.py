"""The network of an ONNX file in onnxruntime or OpenVINO: logits of an image by a sliding window; without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from hippo_nnunet.errors import DataError, DependencyError, one_line
from hippo_nnunet.inference.openvino_use import disagreement, is_worth_it, leave_out
from hippo_nnunet.inference.preprocessing import Floats
from hippo_nnunet.inference.windows import mirrorings, padding, windows
from hippo_nnunet.memory import is_out_of_memory, memory_error
from hippo_nnunet.models.container import REMEDY
from hippo_nnunet.models.onnx_file import INPUT, OUTPUT, OnnxModel
from hippo_nnunet.threads import cpu_count

VOXELS_PER_BATCH = 2**18
"""Voxels of a batch of patches. Source: ours; larger batches were not faster on two CPU cores."""

_ERRORS_ONLY = 3
"""onnxruntime's severity of what it logs."""


class OnnxNetwork:
    """Predicts logits as `BatchedPredictor` does: averaged over folds and mirrorings, weighted by a Gaussian.

    Args:
        model: The checked file.
        use_mirroring: Average over the mirrorings that the training allowed.

    Raises:
        DataError: onnxruntime refuses the graph, or its input or output do not fit the plans and labels.
        DependencyError: onnxruntime is not installed, or there is not enough memory.
    """

    def __init__(self, model: OnnxModel, use_mirroring: bool = True) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise DependencyError(
                f"{model.path}: predicting with an ONNX file needs onnxruntime ({error}): pip install onnxruntime"
            ) from error
        self._path = model.path
        self._patch = tuple(model.configuration["patch_size"])
        self._heads = model.labels.heads
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = allowed_threads()
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(model.content, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common class
            if is_out_of_memory(error):
                raise memory_error(str(model.path)) from error
            reason = one_line(error)
            raise DataError(f"{model.path}: onnxruntime refuses its graph ({reason}); {REMEDY}") from error
        channels = len(model.configuration["normalization_schemes"])
        for ports, name, count in (
            (self._session.get_inputs(), INPUT, channels),
            (self._session.get_outputs(), OUTPUT, self._heads),
        ):
            found = [(port.name, port.type, list(port.shape[1:])) for port in ports]
            expected = [(name, "tensor(float)", [count, *self._patch])]
            if found != expected:
                raise DataError(f"{model.path}: its graph has {found}, its metadata {expected}; {REMEDY}")
        self._mirrorings = mirrorings(model.mirroring_axes if use_mirroring else ())
        self._weight = importance(self._patch)
        self._content = model.content
        self._compute: Callable[[Floats], Floats] = self._onnxruntime

    def choose(self, backend: str, voxels: int) -> None:
        """Compute with another backend from now on, if its logits are those of onnxruntime.

        Args:
            backend: `onnxruntime`, `openvino`, or `auto`: OpenVINO if it is installed, saves time and agrees.
            voxels: Voxels that will be predicted, without mirrored copies.

        Raises:
            UpstreamError: `openvino` is requested, but cannot compile the graph or disagrees with onnxruntime.
        """
        copies = len(self._mirrorings)
        if backend == "onnxruntime" or (backend == "auto" and not is_worth_it(voxels * copies)):
            return
        channels = self._session.get_inputs()[0].shape[1]
        example = np.random.default_rng(0).normal(size=(1, channels, *self._patch)).astype(np.float32)
        try:
            from hippo_nnunet.inference.openvino_graph import compile_graph

            compute = compile_graph(self._content, allowed_threads())
            problem = disagreement(self._onnxruntime(example), compute(example), "onnxruntime")
        except Exception as error:  # OpenVINO raises various exceptions
            problem = f"it cannot compute the graph ({' '.join(str(error).split())[:300]})"
        if problem is None:
            self._compute = compute
        else:
            leave_out(backend, problem, "onnxruntime")

    def predict(self, image: Floats) -> Floats:
        """Return the logits (head, z, y, x) of a preprocessed image (channel, z, y, x); both float32.

        Raises:
            DataError: They hold infinity or NaN, or the graph fails.
        """
        around = padding(image.shape[1:], self._patch)
        padded = np.pad(image, [(0, 0), *around])
        total = np.zeros((self._heads, *padded.shape[1:]), np.float32)
        weights = np.zeros(padded.shape[1:], np.float32)
        places = windows(padded.shape[1:], self._patch)
        size = max(1, VOXELS_PER_BATCH // prod(self._patch))
        for start in range(0, len(places), size):
            batch = places[start : start + size]
            for place, logits in zip(batch, self._forward(np.stack([padded[place] for place in batch])), strict=True):
                total[place] += logits * self._weight
                weights[place[1:]] += self._weight
        total /= weights
        z, y, x = (slice(before, before + side) for (before, _), side in zip(around, image.shape[1:], strict=True))
        logits = total[:, z, y, x]
        if not np.isfinite(logits).all():
            raise DataError(
                f"{self._path} predicts numbers that are NaN or infinite: check the image for extreme values, else "
                "export a model that has not diverged"
            )
        return logits

    def run(self, patches: Floats) -> Floats:
        """Return the logits (batch, head, *patch) of patches (batch, channel, *patch), without mirroring.

        Raises:
            DataError: The graph fails.
        """
        try:
            logits = self._compute(patches)
        except Exception as error:
            if is_out_of_memory(error):
                raise memory_error(str(self._path)) from error
            reason = one_line(error)
            raise DataError(f"{self._path}: its graph cannot be computed ({reason}); {REMEDY}") from error
        expected = (len(patches), self._heads, *self._patch)
        if logits.shape != expected:
            raise DataError(f"{self._path}: its graph gives {logits.shape}, expected {expected}; {REMEDY}")
        return logits

    def _onnxruntime(self, patches: Floats) -> Floats:
        return np.asarray(self._session.run([OUTPUT], {INPUT: patches})[0])

    def _forward(self, patches: Floats) -> Floats:
        """Return the mean logits over mirrorings."""
        total = self.run(patches)
        for axes in self._mirrorings[1:]:
            total += np.flip(self.run(np.ascontiguousarray(np.flip(patches, axes))), axes)
        total /= len(self._mirrorings)
        return total


def allowed_threads() -> int:
    """Return the number of CPUs that this process may use, at most `OMP_NUM_THREADS`."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cpu_count(), int(limit)) if limit.isdecimal() and int(limit) else cpu_count()


def importance(patch_size: Sequence[int]) -> Floats:
    """Return the weight of each voxel of a patch.

    Source: nnunetv2 2.8.1, ``inference/sliding_window_prediction.py``, ``compute_gaussian``, in half precision there.
    """
    weight = np.ones(())
    for side in patch_size:
        weight = weight[..., None] * _gaussian(side)
    halves = (weight / (weight.max() / 10)).astype(np.float16)
    halves[halves == 0] = halves[halves > 0].min()
    return halves.astype(np.float32)


def _gaussian(side: int) -> npt.NDArray[np.float64]:
    """Return scipy's Gaussian of standard deviation side / 8, cut at four of them, around the middle of an axis."""
    offsets = np.arange(side) - side // 2
    weight = np.exp(-0.5 / (side / 8) ** 2 * offsets**2)
    weight[np.abs(offsets) > int(4 * (side / 8) + 0.5)] = 0
    return weight
