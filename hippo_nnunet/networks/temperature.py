"""The temperature of cosine similarities: its highest value, and how it is kept below."""

from __future__ import annotations

from typing import Any

import torch

MAX_SCALE = 100.0
"""Highest temperature. Source: CLIP's (Radford et al. 2021, arXiv:2103.00020, section 2.5)."""


class Ceiling(torch.autograd.Function):
    """The lesser of a number and a ceiling, whose gradient stops only what would lift the number further above it.

    A plain clamp has no gradient above the ceiling, so a temperature that starts there could never fall. CLIP clamps
    its parameter after each step instead, which is the trainer's business, not the network's.
    """

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, ceiling: float) -> torch.Tensor:
        """Return the lesser of both."""
        ctx.save_for_backward(value)
        ctx.ceiling = ceiling
        return value.clamp(max=ceiling)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Pass on a gradient that lowers the value, and below the ceiling every gradient."""
        (value,) = ctx.saved_tensors
        return torch.where(value < ctx.ceiling, grad, grad.clamp(min=0)), None
