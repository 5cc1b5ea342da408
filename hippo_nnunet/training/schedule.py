"""How long a recipe trains and how its learning rate runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch

from hippo_nnunet.training.recipes import Recipe


@dataclass(frozen=True)
class Schedule:
    """The length of a training, and the optimiser's numbers where the short schedule sets them.

    Attributes:
        epochs: Number of epochs.
        iterations: Training iterations of an epoch.
        validation_iterations: Batches of an epoch's pseudo-validation.
        fast: Whether AdamW and one cycle take the place of nnU-Net's SGD and polynomial decay.
        max_lr: Highest learning rate of the cycle (`fast`).
        weight_decay: AdamW's (`fast`).
    """

    epochs: int
    iterations: int
    validation_iterations: int
    fast: bool = False
    max_lr: float = 0.0
    weight_decay: float = 0.0

    def as_dict(self) -> dict[str, int | float | bool]:
        """Return what a checkpoint keeps to recognise its own schedule."""
        return asdict(self)


STOCK = Schedule(epochs=1000, iterations=250, validation_iterations=50)
"""nnU-Net's own length."""

FAST: dict[int, Schedule] = {
    2: Schedule(epochs=16, iterations=100, validation_iterations=6, fast=True, max_lr=4e-3, weight_decay=1e-2),
    3: Schedule(epochs=11, iterations=100, validation_iterations=10, fast=True, max_lr=2e-3, weight_decay=1e-2),
}
"""The short schedule for patches of two and of three dimensions."""


def schedule_for(recipe: Recipe, dim: int) -> Schedule:
    """Return the schedule of a recipe.

    Args:
        recipe: The parsed trainer name.
        dim: Dimensions of the patch, 2 or 3.
    """
    base = FAST[dim] if recipe.fast else STOCK
    values = base.as_dict() | {
        "epochs": recipe.epochs or base.epochs,
        "iterations": recipe.iterations or base.iterations,
    }
    return Schedule(**values)  # type: ignore[arg-type]


class CycleSchedule(torch.optim.lr_scheduler.OneCycleLR):
    """One cycle of the learning rate, moved by `advance` after every iteration.

    nnU-Net calls `step(epoch)` once an epoch, which must not move it.

    Source: Smith and Topin 2017 (arXiv:1708.07120).
    """

    def step(self, epoch: int | None = None) -> None:
        """Do nothing for nnU-Net's call, which names the epoch."""
        if epoch is None:
            super().step()

    def advance(self) -> None:
        """Move to the next iteration; stays at the end once there."""
        if self.last_epoch + 1 < self.total_steps:
            self.step()


def one_cycle(
    parameters: Iterable[torch.nn.Parameter], schedule: Schedule
) -> tuple[torch.optim.Optimizer, CycleSchedule]:
    """Return AdamW and its cycle. The numbers are ours, from trials on Task04."""
    optimizer = torch.optim.AdamW(parameters, lr=schedule.max_lr, weight_decay=schedule.weight_decay)
    cycle = CycleSchedule(
        optimizer,
        max_lr=schedule.max_lr,
        total_steps=schedule.epochs * schedule.iterations,
        pct_start=0.15,
        div_factor=10,
        final_div_factor=1000,
    )
    return optimizer, cycle
