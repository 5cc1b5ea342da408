"""`submit`: write the submission archive, or verify one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Overwrite
from hippo_nnunet.cli.output import echo


def submit(
    images: Annotated[Path, typer.Option("--images", help="Folder of the test images (imagesTs).")],
    predictions: Annotated[Path | None, typer.Argument(help="Folder of predicted test cases, <case>.nii.gz.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Archive to write, .zip.")] = None,
    verify: Annotated[Path | None, typer.Option("--verify", help="Archive to verify; nothing is written.")] = None,
    dataset_json: Annotated[
        Path | None,
        typer.Option(
            "--dataset-json",
            help="The task's dataset.json. Default: beside the predictions, or above the images.",
        ),
    ] = None,
    task_name: Annotated[str, typer.Option("--task-name", help="Folder in the archive.")] = "Task04_Hippocampus",
    overwrite: Overwrite = False,
) -> None:
    """Write the submission archive from predictions, or verify one and list all that is wrong with it."""
    if (predictions is None) == (verify is None):
        raise typer.BadParameter("give either a folder of predictions or --verify ARCHIVE")
    from hippo_nnunet.errors import DataError
    from hippo_nnunet.inference.submission import dataset_labels, nearby_labels, verify_submission, write_submission

    if verify is not None:
        labels = dataset_labels(dataset_json) if dataset_json else nearby_labels(images.resolve().parent)
        problems = verify_submission(verify, images, labels, task_name)
        for problem in problems:
            echo(problem)
        if problems:
            raise DataError(f"{verify}: refused, {len(problems)} problems, listed on stdout: write it with submit")
        typer.echo(f"{verify}: right")
        return
    if output is None:
        raise typer.BadParameter("name the archive to write", param_hint="--output")
    assert predictions is not None
    allowed = dataset_labels(dataset_json) if dataset_json else None
    cases = write_submission(predictions, images, output, task_name, overwrite, allowed)
    typer.echo(f"{output}: {len(cases)} cases, verified")
