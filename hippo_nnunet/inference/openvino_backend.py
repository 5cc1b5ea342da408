"""Networks converted for OpenVINO; imported only if OpenVINO is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import nn

from hippo_nnunet.inference.openvino_graph import compile_model

if TYPE_CHECKING:
    from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet


def compile_network(
    network: Any, patches: torch.Tensor, guidance: torch.Tensor | None
) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
    """Convert a network for any batch size, in single precision, with as many threads as torch uses.

    `openvino.convert_model` takes three times as long: it traces a second time to compare, and freezes.

    Args:
        network: A module in evaluation mode, on the CPU; its weights must not change afterwards.
        patches: Example, float32 (batch, channel, *patch).
        guidance: Example (batch, embed_dim or maps) for a CLIP-guided network; None for others.

    Returns:
        Function from patches and guidance to logits (batch, head, *patch).
    """
    frontend = FrontEndManager().load_by_framework("pytorch")
    inputs = [patches[:1]]
    if hasattr(network, "text_embeddings"):  # importing CLIPGuidedUNet for isinstance would take two seconds
        none = patches.new_zeros(1, *network.guidance_shape(patches.shape[2:]))
        inputs.append(none if guidance is None else guidance[:1])
        network = _Guided(network)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and networks branch on their input's shape
        traced = torch.jit.trace(network, tuple(inputs), check_trace=False)
    decoder = TorchScriptPythonDecoder(traced, skip_freeze=True)
    model = frontend.convert(frontend.load(decoder))
    model.reshape({port: [-1, *part.shape[1:]] for port, part in zip(model.inputs, inputs, strict=True)})
    compiled = compile_model(model, torch.get_num_threads())

    def run(patches: torch.Tensor, guidance: torch.Tensor | None) -> torch.Tensor:
        arrays = [patches.contiguous().numpy()]
        if len(inputs) == 2:
            given = patches.new_zeros(len(patches), *inputs[1].shape[1:]) if guidance is None else guidance
            arrays.append(given.contiguous().numpy())
        return torch.from_numpy(compiled(arrays)[0])

    return run


class _Guided(nn.Module):
    """A trained CLIP-guided network with its temperature as a constant: OpenVINO has no custom autograd functions."""

    def __init__(self, network: CLIPGuidedUNet) -> None:
        super().__init__()
        self.network = network
        self.scale = None if network.plain_head else network.temperature.detach()

    def forward(self, x: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, class, *patch)."""
        logits = self.network.segment(x, guidance, self.scale)
        assert isinstance(logits, torch.Tensor)
        return logits
