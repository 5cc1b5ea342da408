"""Weights of an ONNX file stored in half precision, and computed in single precision.

The networks' weights are rounded first, so the graph before and after is the same function, and torch and onnxruntime
can be compared as closely as without. Each weight of the graph is stored as float16 with an operator Cast to float32
behind it, which onnxruntime computes once, when it opens the file. Source: ours; a graph that computes in float16 is
slower on CPUs, which convert every number, and differs from torch by a thousand times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hippo_nnunet.errors import DataError

if TYPE_CHECKING:
    from torch import nn

FEWEST = 16
"""Numbers of a tensor that is worth an operator."""


def round_weights(networks: Sequence[nn.Module]) -> None:
    """Round all weights of networks to half precision, in place.

    Raises:
        DataError: A weight is too large for it.
    """
    import torch

    with torch.no_grad():
        for network in networks:
            for name, weight in (*network.named_parameters(), *network.named_buffers()):
                if not weight.is_floating_point():
                    continue
                halves = weight.half()
                if not torch.isfinite(halves).all():
                    raise DataError(f"weight {name} exceeds the range of half precision: export without --half")
                weight.copy_(halves)


def store_halves(exported: bytes) -> bytes:
    """Store the weights of a graph in half precision where that loses nothing.

    Args:
        exported: A serialised ONNX model in float32, of networks that `round_weights` has rounded.

    Returns:
        A model of the same function. What the exporter derived from weights, and half precision does not hold, is
        left as it is.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(exported)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values, name = numpy_helper.to_array(tensor), tensor.name
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.size < FEWEST or not np.array_equal(halves.astype(np.float32), values):
            continue
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    return bytes(model.SerializeToString(deterministic=True))
