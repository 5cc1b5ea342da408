"""Networks converted for OpenVINO."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch


def compile_network(
    network: Any, patches: torch.Tensor, guidance: torch.Tensor | None
) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
    """Convert a network for any number of patches, in single precision, with as many threads as torch has.

    `openvino.convert_model` would take three times as long: it traces a second time to compare, and freezes.

    Args:
        network: A module in evaluation mode, on the CPU; its weights must not change afterwards.
        patches: Example, float32 (batch, channel, *patch).
        guidance: Example (batch, embed_dim) for a CLIP-guided network; None where it needs none.

    Returns:
        From patches and guidance to logits (batch, head, *patch).
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    inputs = [patches[:1]]
    if hasattr(network, "text_embeddings"):  # to import its class and ask would take two seconds
        from hippo_nnunet.inference.openvino_clip import Guided, cosine_extension

        frontend.add_extension(cosine_extension(network, tuple(patches.shape[2:])))
        inputs.append(patches.new_zeros(1, network.embed_dim) if guidance is None else guidance[:1])
        network = Guided(network)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and networks look at their input's shape
        traced = torch.jit.trace(network, tuple(inputs), check_trace=False)
    decoder = TorchScriptPythonDecoder(traced, skip_freeze=True)
    model = frontend.convert(frontend.load(decoder))
    model.reshape({port: [-1, *part.shape[1:]] for port, part in zip(model.inputs, inputs, strict=True)})
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(patches: torch.Tensor, guidance: torch.Tensor | None) -> torch.Tensor:
        arrays = [patches.contiguous().numpy()]
        if len(inputs) == 2:
            given = patches.new_zeros(len(patches), inputs[1].shape[1]) if guidance is None else guidance
            arrays.append(given.contiguous().numpy())
        return torch.from_numpy(compiled(arrays)[0])

    return run
