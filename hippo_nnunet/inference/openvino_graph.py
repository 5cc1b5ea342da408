"""Graphs compiled by OpenVINO; imported only if OpenVINO is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino

from hippo_nnunet.inference.preprocessing import Floats


def compile_model(model: Any, threads: int) -> Any:
    """Compile OpenVINO's form of a network for the CPU, in single precision, with so many threads."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    return openvino.Core().compile_model(model, "CPU", settings)


def compile_graph(content: bytes, threads: int) -> Callable[[Floats], Floats]:
    """Compile the graph of a checked ONNX file for any batch size, in single precision.

    Args:
        content: The file's bytes.
        threads: CPU threads that compute it.

    Returns:
        Function from patches (batch, channel, *patch) to logits (batch, head, *patch).
    """
    compiled = compile_model(openvino.Core().read_model(content), threads)

    def run(patches: Floats) -> Floats:
        return np.asarray(compiled([patches])[0])

    return run
