#!/usr/bin/env python3
"""Put a trained model into the package: ONNX in half precision, calibration, figures, licence and hashes.

python scripts/package_model.py EXPERIMENT MODEL_FOLDER [--version 1] [--folds all] [--output FOLDER]

EXPERIMENT cross-validated the recipe (`hippo-nnunet run`), and keeps its out-of-fold probabilities; MODEL_FOLDER is
nnU-Net's folder of the same recipe with the folds to package, such as the experiment's own with fold_all.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.main import run_program
from hippo_nnunet.cli.options import Folds, fold_numbers
from hippo_nnunet.models.packaged import FOLDER
from hippo_nnunet.sharing.packaging import PackageOptions, package_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def package(
    experiment: Annotated[Path, typer.Argument(help="Folder of the experiment.")],
    model: Annotated[Path, typer.Argument(help="nnU-Net's model folder.")],
    version: Annotated[str, typer.Option("--version", help="Of the model; raise it with every other model.")] = "1",
    name: Annotated[str, typer.Option("--name", help="Of the model.")] = "hippocampus-3d",
    folds: Folds = "all",
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="File in each fold's folder.")] = (
        PackageOptions.checkpoint
    ),
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the files.")] = FOLDER,
    root: Annotated[Path | None, typer.Option("--root", help="nnU-Net's root folder of the experiment.")] = None,
) -> None:
    """Write the files of the packaged model, and print their folder."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    options = PackageOptions(output, name, version, fold_numbers(folds), checkpoint, root)
    typer.echo(package_model(experiment, model, options))


if __name__ == "__main__":
    run_program(app)
