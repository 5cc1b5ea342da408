"""How long a recipe trains, what it mirrors, and the hyperparameters of its optimiser; torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hippo_nnunet.training.recipes import Recipe


@dataclass(frozen=True)
class Schedule:
    """The length of a training, its mirroring, and the hyperparameters of the short schedule's optimiser.

    Attributes:
        epochs: Number of epochs.
        iterations: Training iterations of an epoch.
        validation_iterations: Batches of an epoch's pseudo-validation.
        fast: Whether AdamW and one cycle replace nnU-Net's SGD and polynomial decay.
        max_lr: Highest learning rate of the cycle (`fast`).
        weight_decay: AdamW's (`fast`).
        mirroring: A mirroring word of the recipes; None where the augmentation decides.
    """

    epochs: int
    iterations: int
    validation_iterations: int
    fast: bool = False
    max_lr: float = 0.0
    weight_decay: float = 0.0
    mirroring: str | None = None


STOCK = Schedule(epochs=1000, iterations=250, validation_iterations=50)
"""nnU-Net's own length."""

FAST: dict[int, Schedule] = {
    2: Schedule(
        epochs=16,
        iterations=100,
        validation_iterations=6,
        fast=True,
        max_lr=4e-3,
        weight_decay=1e-2,
        mirroring="mirrorLR",
    ),
    3: Schedule(
        epochs=40,
        iterations=100,
        validation_iterations=10,
        fast=True,
        max_lr=6e-3,
        weight_decay=1e-2,
        mirroring="noMirror",
    ),
}
"""The short schedule for patches of two and of three dimensions. Source: ours; docs/recipes.md says what was tried."""


def schedule_for(recipe: Recipe, dim: int) -> Schedule:
    """Return the schedule of a recipe.

    Args:
        recipe: The parsed trainer name.
        dim: Dimensions of the patch, 2 or 3.
    """
    base = FAST[dim] if recipe.fast else STOCK
    return replace(
        base,
        epochs=recipe.epochs or base.epochs,
        iterations=recipe.iterations or base.iterations,
        mirroring=None if recipe.augmentation else recipe.mirroring or base.mirroring,
    )
