"""nnU-Net's own optimiser and schedule."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler


def poly_sgd(
    parameters: Iterable[torch.nn.Parameter], lr: float, weight_decay: float, epochs: int, fused: bool | None = None
) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
    """Return SGD with Nesterov momentum, and the polynomial decay of its learning rate over the epochs.

    Source: `nnUNetTrainer.configure_optimizers`.
    """
    optimizer = torch.optim.SGD(parameters, lr, weight_decay=weight_decay, momentum=0.99, nesterov=True, fused=fused)
    return optimizer, PolyLRScheduler(optimizer, lr, epochs)
