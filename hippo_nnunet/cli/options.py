"""Options that several commands share, with nnU-Net's short forms, and how their values are read."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

Root = Annotated[
    Path | None, typer.Option("--root", help="Root folder for those of nnU-Net's folders whose variable is unset.")
]
ExperimentRoot = Annotated[
    Path | None, typer.Option("--root", help="nnU-Net's root folder, if the experiment was run with one.")
]
Dataset = Annotated[str, typer.Option("--dataset", "-d", help="Id or name: 4, Dataset004_Hippocampus.")]
Preset = Annotated[
    str,
    typer.Option("--preset", help="auto (gpu if there is a CUDA device, else laptop), laptop, gpu, standard or paper."),
]
Device = Annotated[
    str, typer.Option("--device", "-device", help="auto (CUDA if there is a device, else the CPU), cpu, cuda or mps.")
]
Folds = Annotated[
    str | None,
    typer.Option("--folds", "-f", help="Such as 0,1,2; 'all' is nnU-Net's fold of that name. Default: every fold."),
]
Checkpoint = Annotated[str, typer.Option("--checkpoint", "-chk", help="File in each fold's folder.")]
TrustCheckpoint = Annotated[
    bool, typer.Option("--trust-checkpoint", help="Load a checkpoint that could run code: you trust its author.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Coverage = Annotated[
    float, typer.Option("--coverage", help="With --volumes: share of true volumes that the intervals should hold.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

FINAL = "checkpoint_final.pth"


def fold_numbers(folds: str | None) -> list[int | str] | None:
    """Parse the option `--folds`: numbers with commas, or `all`."""
    try:
        return None if folds is None else [fold if fold == "all" else int(fold) for fold in folds.split(",")]
    except ValueError:
        raise typer.BadParameter("give numbers such as 0,1,2, or all", param_hint="--folds") from None


def stdout_to_stderr() -> contextlib.redirect_stdout[Any]:
    """Keep what nnU-Net prints out of the command's results."""
    return contextlib.redirect_stdout(sys.stderr)


class SpacedLists(TyperCommand):
    """A command without arguments that reads lists as nnU-Net does, too: `-f 0 1 2` for `-f 0,1,2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the values of folds and configurations with commas."""
        joined: list[str] = []
        for word in args:
            if len(joined) > 1 and joined[-2] in _LISTS and not word.startswith("-"):
                joined[-1] += f",{word}"
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


_LISTS = ("-f", "--folds", "-c", "--configurations")
