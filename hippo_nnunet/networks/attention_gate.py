"""The additive attention gate of Attention U-Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

PSI_BIAS = 2.0
"""Initial bias of psi: sigmoid(2) = 0.88, so that a gate starts mostly open, yet not in the sigmoid's flat part."""

PSI_WEIGHT_STD = 0.01
"""Initial standard deviation of psi's weights: small, so that a gate starts uniform instead of as a random mask."""


def _pointwise(conv: _ConvNd, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
    """Apply a 1x1 convolution as a matrix product, (batch, channels, *spatial) to (batch, channels, positions).

    ``add`` takes the place of the bias. Ours, because the backward pass of a 1x1 convolution with few channels is
    several times slower on a CPU than that of the product.
    """
    if add is None:
        assert conv.bias is not None
        add = conv.bias.view(1, -1, 1)
    return torch.baddbmm(add, conv.weight.flatten(1).expand(x.shape[0], -1, -1), x.flatten(2))


class AttentionGate(nn.Module):
    """Weigh every position of a skip connection by its relevance to the decoder.

    ``alpha = sigmoid(psi(relu(theta(skip) + phi(signal))))`` and ``gated = alpha * skip``, where theta, phi and psi are
    1x1 convolutions and alpha has a single channel.

    Args:
        conv_op: ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d``.
        skip_features: Channels of the skip connection.
        signal_features: Channels of the gating signal.
        gate_features: Inner channels, to which both are mapped.

    Source:
        Oktay et al. 2018, Attention U-Net, arXiv:1804.03999, equations 1 and 2. Ours: the signal is the upsampled
        decoder feature, which has the skip's resolution, so neither the skip is strided nor alpha interpolated; the
        gated skip is not convolved again, so that an open gate is exactly nnU-Net's U-Net; psi starts as above, so
        that training starts from the U-Net's behaviour. The bias of theta would duplicate phi's, hence has none.
    """

    def __init__(
        self, conv_op: Callable[..., _ConvNd], skip_features: int, signal_features: int, gate_features: int
    ) -> None:
        super().__init__()
        self.gate_features = gate_features
        self.theta = conv_op(skip_features, gate_features, 1, bias=False)
        self.phi = conv_op(signal_features, gate_features, 1, bias=True)
        self.psi = conv_op(gate_features, 1, 1, bias=True)
        self.reset_psi()

    def reset_psi(self) -> None:
        """Reset psi to mostly open; theta and phi are unchanged."""
        nn.init.normal_(self.psi.weight, std=PSI_WEIGHT_STD)
        assert self.psi.bias is not None
        nn.init.constant_(self.psi.bias, PSI_BIAS)

    def forward(self, skip: torch.Tensor, signal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gate the skip.

        Args:
            skip: Shape (batch, skip_features, *spatial).
            signal: Shape (batch, signal_features, *spatial).

        Returns:
            The gated skip, shaped as the skip, and the coefficients in [0, 1], shape (batch, 1, *spatial).
        """
        joint = _pointwise(self.theta, skip, add=_pointwise(self.phi, signal)).relu_()
        coefficients = torch.sigmoid(_pointwise(self.psi, joint)).view(skip.shape[0], 1, *skip.shape[2:])
        return skip * coefficients, coefficients

    def compute_conv_feature_map_size(self, skip_size: Sequence[int]) -> np.int64:
        """Count the elements of the gate's convolution outputs, for nnU-Net's memory estimate.

        Args:
            skip_size: Spatial size of the skip connection.
        """
        return np.prod([2 * self.gate_features + 1, *skip_size], dtype=np.int64)
