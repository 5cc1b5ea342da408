"""`model export|verify|import`: a trained model as one file, without pickle."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Share a trained model as one file that cannot run code.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="File of 'model export'.", show_default=False)]


@app.command()
def export(
    model: Annotated[
        Path, typer.Argument(help="nnU-Net's model folder TRAINER__PLANS__CONFIGURATION.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", help="File to write, .hippo.", show_default=False)],
    folds: Annotated[
        str | None,
        typer.Option("--folds", help="Such as 0,1,2; 'all' is nnU-Net's fold of that name. Default: every fold."),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="File in each fold's folder.")
    ] = "checkpoint_final.pth",
    experiment: Annotated[
        Path | None, typer.Option("--experiment", help="Experiment whose metrics of each case go along.")
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights, such as CC-BY-SA-4.0.")] = "",
    citation: Annotated[str, typer.Option("--citation", help="What to cite.")] = "",
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Load a checkpoint that could run code: you trust its author.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a model's weights, plans, metrics and an example to one file, and verify it. Prints the file."""
    try:
        chosen = None if folds is None else [f if f == "all" else int(f) for f in folds.split(",")]
    except ValueError:
        raise typer.BadParameter("give numbers such as 0,1,2, or all", param_hint="--folds") from None

    from hippo_nnunet.sharing.exporting import ExportOptions, export_model

    options = ExportOptions(chosen, checkpoint, experiment, licence, citation, trust_checkpoint, overwrite)
    with contextlib.redirect_stdout(sys.stderr):  # nnU-Net prints
        written = export_model(model, output, options)
    typer.echo(written)


@app.command()
def verify(
    file: File,
    device: Annotated[str, typer.Option("--device", help="auto (CUDA if there is a device), cpu, cuda, mps.")] = "cpu",
) -> None:
    """Check a file and predict its example: does the model do here what it did where it was written?"""
    from hippo_nnunet.sharing.verifying import verify_model

    with contextlib.redirect_stdout(sys.stderr):  # nnU-Net prints
        found = verify_model(file, device)
    for line in found.lines:
        typer.echo(line)
    found.check()


@app.command(name="import")
def import_(
    file: File,
    root: Annotated[
        Path | None, typer.Option("--root", help="nnU-Net's root folder. Default: its variables.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
) -> None:
    """Put a model into nnU-Net's results folder, where nnUNetv2_predict finds it. Prints its folder."""
    from hippo_nnunet.sharing.installing import install_model

    with contextlib.redirect_stdout(sys.stderr):  # nnU-Net prints
        folder = install_model(file, root, overwrite)
    typer.echo(folder)
