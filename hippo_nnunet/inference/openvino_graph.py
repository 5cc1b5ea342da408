"""ONNX graphs in OpenVINO; imported only if OpenVINO is installed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino

from hippo_nnunet.inference.preprocessing import Floats


def compile_graph(content: bytes, threads: int) -> Callable[[Floats], Floats]:
    """Compile the graph of a checked ONNX file for any batch size, in single precision.

    Args:
        content: The file's bytes.
        threads: CPU threads that compute it.

    Returns:
        Function from patches (batch, channel, *patch) to logits (batch, head, *patch).
    """
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", settings)

    def run(patches: Floats) -> Floats:
        return np.asarray(compiled([patches])[0])

    return run
