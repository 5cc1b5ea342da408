"""`explain`: what a network looks at, where it errs, and what another prompt changes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import (
    FINAL,
    Checkpoint,
    Device,
    ExperimentRoot,
    Folds,
    Overwrite,
    Prompts,
    TrustCheckpoint,
    fold_numbers,
    prompts_by_class,
    stdout_to_stderr,
)
from hippo_nnunet.cli.output import echo


def explain(
    experiment: Annotated[
        Path | None, typer.Argument(help="Folder of an experiment, for the worst and best cases of each variant.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Or: model folder TRAINER__PLANS__CONFIGURATION, or a .hippo file."),
    ] = None,
    input_: Annotated[
        list[Path] | None,
        typer.Option("--input", "-i", help="With --model: image or folder of images; repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write. Default: 'explain' in the experiment's."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="With --model: folder of the expert's labels, for error maps.")
    ] = None,
    folds: Folds = None,
    worst: Annotated[int, typer.Option("--worst", min=0, help="With an experiment: number of worst cases.")] = 3,
    best: Annotated[int, typer.Option("--best", min=0, help="With an experiment: number of best cases.")] = 3,
    prompt: Prompts = None,
    device: Device = "auto",
    checkpoint: Checkpoint = FINAL,
    overwrite: Overwrite = False,
    root: ExperimentRoot = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Attention, similarity and error maps as NIfTI, figures and a page. Prints the files written, the page last."""
    if (model is None) == (experiment is None):
        raise typer.BadParameter("give either the folder of an experiment or --model")
    if model is not None and (not input_ or output is None):
        raise typer.BadParameter("--model needs --input and --output")
    if experiment is not None and (input_ or labels or folds):
        raise typer.BadParameter("--input, --labels and --folds go with --model; an experiment knows its own")
    numbers = fold_numbers(folds)
    prompts = prompts_by_class(prompt)

    from hippo_nnunet.inference.scans import FailedScans
    from hippo_nnunet.pages.explanation.explain import Settings, explain_experiment, explain_images

    settings = Settings(device, checkpoint, prompts, overwrite, trust_checkpoint)
    failed = None
    with stdout_to_stderr():
        try:
            if experiment is not None:
                written = explain_experiment(experiment, worst, best, output, root, settings)
            else:
                assert model is not None
                assert output is not None
                written = explain_images(model, input_ or [], output, numbers, labels, settings)
        except FailedScans as error:
            written, failed = error.written, error
    for path in written:
        echo(path)
    if failed:
        raise failed
