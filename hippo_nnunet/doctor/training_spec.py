"""What the training check works on: its settings, its trainings and the names of the modes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EAGER = "eager"
CHANNELS_LAST = "eager, channels last"
COMPILED = "compiled"
COMPILED_LAST = "compiled, channels last"
GRAPHS = "CUDA graphs"
GRAPHS_LAST = "CUDA graphs, channels last"
ON_CUDA = (COMPILED, GRAPHS, GRAPHS_LAST)
"""Modes that `hippo_nnunet.training.step` offers on CUDA only."""


@dataclass(frozen=True)
class Settings:
    """What is checked.

    Attributes:
        device: `cpu` or `cuda`.
        work: Folder for the dataset and the trainings.
        gpus: CUDA devices of this machine.
        quick: Whether few modes are compiled, as on a CPU.
    """

    device: str
    work: Path
    gpus: int = 0
    quick: bool = False

    @property
    def cuda(self) -> bool:
        """Whether the check is that of a GPU."""
        return self.device == "cuda"


@dataclass(frozen=True)
class Training:
    """A network and a configuration.

    Attributes:
        network: Name for display.
        base: The trainer's name without its length.
        configuration: `2d` or `3d_fullres`.
        seed: The seed word's number; None without one.
    """

    network: str
    base: str
    configuration: str
    seed: int | None = None

    @property
    def title(self) -> str:
        """Such as `AttentionUNet 2d`."""
        return f"{self.network} {self.configuration}"

    @property
    def live(self) -> bool:
        """Whether CLIP encodes every patch that is trained on."""
        return "live" in self.base.split("_")
