"""`model export|verify|import|info`: a trained model as one file, without pickle; and the packaged one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import (
    FINAL,
    Checkpoint,
    Device,
    Folds,
    Overwrite,
    TrustCheckpoint,
    fold_numbers,
    stdout_to_stderr,
)
from hippo_nnunet.cli.output import echo

app = typer.Typer(help="Share a trained model as one file that cannot run code.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="File of 'model export'.")]


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="nnU-Net's model folder TRAINER__PLANS__CONFIGURATION.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .hippo; with --onnx, .onnx.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="One ONNX file with all folds, which 'predict' reads without torch.")
    ] = False,
    half: Annotated[
        bool, typer.Option("--half", help="With --onnx: store the weights in half precision, in half of the space.")
    ] = False,
    folds: Folds = None,
    checkpoint: Checkpoint = FINAL,
    experiment: Annotated[
        Path | None, typer.Option("--experiment", help="Experiment whose metrics per case are included.")
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights, such as CC-BY-SA-4.0.")] = "",
    citation: Annotated[str, typer.Option("--citation", help="What to cite.")] = "",
    trust_checkpoint: TrustCheckpoint = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a model's weights, plans, metrics and an example to one file, and verify it. Prints the file."""
    numbers = fold_numbers(folds)

    from hippo_nnunet.sharing.exporting import ExportOptions, export_model
    from hippo_nnunet.sharing.onnx_exporting import export_onnx

    options = ExportOptions(numbers, checkpoint, experiment, licence, citation, trust_checkpoint, overwrite, half)
    with stdout_to_stderr():
        written = (export_onnx if onnx else export_model)(model, output, options)
    typer.echo(written)


@app.command()
def verify(file: File, device: Device = "cpu") -> None:
    """Check a file and predict its example: does the model compute here what it computed where it was exported?"""
    from hippo_nnunet.sharing.verifying import verify_model

    with stdout_to_stderr():
        found = verify_model(file, device)
    for line in found.lines:
        echo(line)
    found.check()


@app.command(name="import")
def import_(
    file: File,
    root: Annotated[
        Path | None, typer.Option("--root", help="nnU-Net's root folder. Default: the variable nnUNet_results.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Put a model into nnU-Net's results folder, where nnUNetv2_predict finds it. Prints its folder."""
    from hippo_nnunet.sharing.installing import install_model

    with stdout_to_stderr():
        folder = install_model(file, root, overwrite)
    typer.echo(folder)


@app.command()
def info(
    file: Annotated[
        Path | None, typer.Argument(help="A .hippo or .onnx file. Default: the packaged model of 'predict'.")
    ] = None,
) -> None:
    """Say what a model is: training, performance out of fold, licence, hash."""
    from hippo_nnunet.sharing.info import file_lines, packaged_lines

    if file is None:
        from hippo_nnunet.models.packaged import open_packaged

        lines = packaged_lines(open_packaged())
    else:
        lines = file_lines(file)
    for line in lines:
        echo(line)
