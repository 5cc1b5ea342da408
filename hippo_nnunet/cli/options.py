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
    Path | None, typer.Option("--root", help="nnU-Net's root folder, if not the experiment's own nor the variables'.")
]
Dataset = Annotated[str, typer.Option("--dataset", "-d", help="Id or name: 4, Dataset004_Hippocampus.")]
Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        help="auto (gpu if there is a CUDA device, else laptop), laptop, overnight, pad64, gpu, standard or paper.",
    ),
]
Subjects = Annotated[
    str,
    typer.Option(
        "--subjects",
        help="Cases that stay in one fold: auto (by subjects.csv beside dataset.json, else crops of one scan), a CSV "
        "file with case,subject, or none (nnU-Net's own folds).",
    ),
]
Device = Annotated[
    str, typer.Option("--device", "-device", help="auto (CUDA if there is a device, else the CPU), cpu, cuda or mps.")
]
Folds = Annotated[
    str | None,
    typer.Option(
        "--folds",
        "-f",
        help="Such as 0,1,2; 'all' is nnU-Net's fold of that name. Default: every numbered one, else 'all'.",
    ),
]
Checkpoint = Annotated[str, typer.Option("--checkpoint", "-chk", help="File in each fold's folder.")]
TrustCheckpoint = Annotated[
    bool,
    typer.Option("--trust-checkpoint", help="Use checkpoints and plans that could run code: you trust their author."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what this command has written.")]
Coverage = Annotated[
    float, typer.Option("--coverage", help="Share of true volumes that the intervals of volumes should hold.")
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", help="CLASS=DESCRIPTION: what a CLIP-guided model looks for instead; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

FINAL = "checkpoint_final.pth"


def fold_numbers(folds: str | None) -> list[int | str] | None:
    """Parse the option `--folds`: numbers with commas, or `all`."""
    try:
        return None if folds is None else [fold if fold == "all" else int(fold) for fold in folds.split(",")]
    except ValueError:
        raise typer.BadParameter("give numbers such as 0,1,2, or all", param_hint="--folds") from None


def prompts_by_class(prompts: list[str] | None) -> dict[str, list[str]]:
    """Parse the option `--prompt`; several descriptions of a class are collected."""
    by_class: dict[str, list[str]] = {}
    for text in prompts or []:
        name, equals, description = text.partition("=")
        if not equals:
            raise typer.BadParameter("write CLASS=DESCRIPTION, such as 'posterior=the tail'", param_hint="--prompt")
        by_class.setdefault(name.strip(), []).append(description.strip())
    return by_class


def stdout_to_stderr() -> contextlib.redirect_stdout[Any]:
    """Keep what nnU-Net prints out of the command's results."""
    return contextlib.redirect_stdout(sys.stderr)


class NnunetStyle(TyperCommand):
    """A command without arguments that also reads what users of nnU-Net's commands type: see LISTS and SPELLINGS."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Translate nnU-Net's spellings of options, and join the values of lists: `-f 0 1 2` is `-f 0,1,2`."""
        words: list[str] = []
        for word in args:
            if len(words) > 1 and words[-2] in LISTS and not word.startswith("-"):
                words[-1] += f",{word}"
            else:
                words.append(SPELLINGS.get(word, word))
        return super().parse_args(ctx, words)


LISTS = ("-f", "--folds", "-c", "--configurations")
SPELLINGS = {
    "--disable_checkpointing": "--disable-checkpointing",
    "--disable_tta": "--no-mirroring",
    "--save_probabilities": "--save-probabilities",
    "--val": "--validation-only",
    "--val_best": "--validate-best",
    "-num_gpus": "--num-gpus",
    "-pretrained_weights": "--pretrained-weights",
}
"""nnU-Net's long options to ours; the short ones are options of their own."""
