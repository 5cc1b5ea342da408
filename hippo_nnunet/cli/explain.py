"""`explain`: what a network looks at, where it errs, and what another prompt changes."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer


def explain(
    experiment: Annotated[
        Path | None, typer.Argument(help="Folder of an experiment, for the worst and best cases of each variant.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Or: nnU-Net's model folder TRAINER__PLANS__CONFIGURATION, or a .hippo file."),
    ] = None,
    input_: Annotated[
        list[Path] | None, typer.Option("--input", help="With --model: image or folder of images; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder to write. Default with an experiment: its folder 'explain'.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="With --model: folder of the expert's labels, for error maps.")
    ] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", help="With --model: such as 0,1,2, or all. Default: every fold.")
    ] = None,
    worst: Annotated[int, typer.Option("--worst", min=0, help="With an experiment: how many of the worst.")] = 3,
    best: Annotated[int, typer.Option("--best", min=0, help="With an experiment: how many of the best.")] = 3,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="CLASS=DESCRIPTION: show what this text changes; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto (CUDA if there is a device), cpu, cuda, mps.")] = "auto",
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="File in each fold's folder.")
    ] = "checkpoint_final.pth",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace explanations that are there.")] = False,
    root: Annotated[
        Path | None,
        typer.Option("--root", help="With an experiment: nnU-Net's root folder, if it was run with one."),
    ] = None,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Load a checkpoint that could run code: you trust its author.")
    ] = False,
) -> None:
    """Attention, similarity and error maps as NIfTI and figures. Prints the files written."""
    if (model is None) == (experiment is None):
        raise typer.BadParameter("give either the folder of an experiment or --model")
    if model is not None and (not input_ or output is None):
        raise typer.BadParameter("--model needs --input and --output")
    if experiment is not None and (input_ or labels or folds):
        raise typer.BadParameter("--input, --labels and --folds go with --model; an experiment knows its own")
    try:
        chosen_folds = None if folds is None else [f if f == "all" else int(f) for f in folds.split(",")]
    except ValueError:
        raise typer.BadParameter("give numbers such as 0,1,2, or all", param_hint="--folds") from None
    prompts: dict[str, list[str]] = {}
    for text in prompt or []:
        name, equals, description = text.partition("=")
        if not equals:
            raise typer.BadParameter("write CLASS=DESCRIPTION, such as 'posterior=the tail'", param_hint="--prompt")
        prompts.setdefault(name.strip(), []).append(description.strip())

    from hippo_nnunet.pages.explanation.explain import Settings, explain_experiment, explain_images

    settings = Settings(device, checkpoint, prompts, overwrite, trust_checkpoint)
    with contextlib.redirect_stdout(sys.stderr):  # nnU-Net prints
        if experiment is not None:
            written = explain_experiment(experiment, worst, best, output, root, settings)
        else:
            assert model is not None
            assert output is not None
            written = explain_images(model, input_ or [], output, chosen_folds, labels, settings)
    for path in written:
        typer.echo(path)
