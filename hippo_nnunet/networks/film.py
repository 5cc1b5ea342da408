"""Feature-wise linear modulation of a feature map by a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


class FiLM(nn.Module):
    """Scale and shift every channel of a feature map by the output of a small MLP for a guidance vector.

    ``out = (1 + gamma) * features + beta`` with ``gamma, beta = MLP(sqrt(guidance_dim) * guidance)``. The factor gives
    the entries of a unit vector a mean square of one, which a linear layer's initialisation assumes. The last layer
    starts at zero, so the module starts as the exact identity.

    Args:
        guidance_dim: Length of the guidance vector.
        hidden_features: Width of the MLP's only hidden layer.
        features: Channels of the feature map.

    Source:
        Perez et al. 2018, FiLM, arXiv:1709.07871. Ours: gamma is a difference from 1, and
        the last layer starts at zero.
    """

    def __init__(self, guidance_dim: int, hidden_features: int, features: int) -> None:
        super().__init__()
        self.gain = math.sqrt(guidance_dim)
        self.hidden = nn.Linear(guidance_dim, hidden_features)
        self.nonlin = nn.LeakyReLU()
        self.modulation = nn.Linear(hidden_features, 2 * features)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the last layer to zero, so that the module is the identity."""
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, features: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
        """Modulate.

        Args:
            features: Shape (batch, features, *spatial).
            guidance: Unit vectors or zeros, shape (batch, guidance_dim).

        Returns:
            Shaped as the features.
        """
        modulation = self.modulation(self.nonlin(self.hidden(self.gain * guidance)))
        gamma, beta = modulation.view(*modulation.shape, *[1] * (features.dim() - 2)).chunk(2, 1)
        return features * (1 + gamma) + beta

    def compute_conv_feature_map_size(self, size: Sequence[int]) -> np.int64:
        """Count the elements of the module's outputs, for nnU-Net's memory estimate.

        Args:
            size: Spatial size of the feature map.
        """
        features = self.modulation.out_features // 2
        return np.prod([features, *size], dtype=np.int64) + self.hidden.out_features + 2 * features
