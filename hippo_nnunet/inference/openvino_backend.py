"""Networks converted for OpenVINO; imported only if OpenVINO is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from openvino import Type
from openvino import opset15 as ops
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import nn

from hippo_nnunet.inference.openvino_graph import compile_model
from hippo_nnunet.networks.cosine_head import NORM_FLOOR

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
        if not network.plain_head:
            frontend.add_extension(_cosine_extension(network, tuple(patches.shape[2:])))
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


def _cosine_extension(network: CLIPGuidedUNet, spatial: tuple[int, ...]) -> Any:
    """Return a conversion of `CosineHead`'s operator for OpenVINO's frontend; the formula is explained there.

    Args:
        network: The network; without deep supervision it has one such operator.
        spatial: The patch size.
    """
    classes, channels = len(network.text_embeddings), network.decoder.seg_layers[-1].in_channels

    def part(of: Any, axis: int, start: int, end: int) -> Any:
        return ops.slice(of, *(np.array([n]) for n in (start, end, 1, axis)))

    def shaped(of: Any, *shape: int) -> Any:
        return ops.reshape(of, np.array([0, *shape]), special_zero=True)

    def convert(context: Any) -> list[Any]:
        features, form = context.get_input(0), context.get_input(1)
        pixels = shaped(features, channels, -1)
        rows = classes + channels + 1
        scores = ops.add(
            ops.matmul(part(form, 1, 0, channels), pixels, False, False), part(form, 1, channels, channels + 1)
        )
        squares = ops.multiply(part(scores, 1, classes, rows - 1), pixels)
        norm = ops.add(ops.reduce_sum(squares, np.array([1]), keep_dims=True), part(scores, 1, rows - 1, rows))
        diagonal = ops.multiply(part(form, 0, classes, rows), np.eye(channels + 1, dtype=np.float32))
        least = ops.multiply(ops.reduce_sum(diagonal, np.array([0, 1])), np.float32(NORM_FLOOR**2))
        norm = ops.maximum(norm, ops.maximum(least, np.float32(1e-12)))
        inverse = ops.divide(ops.constant(1.0, Type.f32), ops.sqrt(norm))
        logits = ops.multiply(part(scores, 1, 0, classes), inverse)
        return [shaped(logits, classes, *spatial).output(0), shaped(inverse, 1, *spatial).output(0)]

    return ConversionExtension("hippo_nnunet::cosine_logits", convert)
