"""`predict`: segment images with a model, its folds, or an ensemble."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer


def predict(
    input_: Annotated[list[Path], typer.Option("--input", help="Folder of images, or an image; may be repeated.")],
    output: Annotated[Path, typer.Option("--output", help="Folder that gets the segmentations.")],
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", help="nnU-Net's model folder TRAINER__PLANS__CONFIGURATION; several: an ensemble."),
    ] = None,
    experiment: Annotated[
        Path | None, typer.Option("--experiment", help="Or: folder of an experiment, for the ensemble it has chosen.")
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option("--folds", help="Such as 0,1,2; 'all' is nnU-Net's fold of that name. Default: every fold."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto (CUDA if there is a device), cpu, cuda, mps.")] = "auto",
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="File in each fold's folder.")
    ] = "checkpoint_final.pth",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace segmentations that are there.")] = False,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also write <case>.npz and .pkl, as nnU-Net does.")
    ] = False,
    no_mirroring: Annotated[
        bool, typer.Option("--no-mirroring", help="Do not average over mirrored images: faster, a little worse.")
    ] = False,
    backend: Annotated[
        str,
        typer.Option(
            "--backend", help="auto (on a CPU OpenVINO where installed, worth it and equal to torch), torch, openvino."
        ),
    ] = "auto",
    root: Annotated[
        Path | None,
        typer.Option("--root", help="With --experiment: nnU-Net's root folder, if the experiment was run with one."),
    ] = None,
) -> None:
    """Segment NIfTI images; every image is checked first. Prints the files written."""
    if bool(model) == (experiment is not None):
        raise typer.BadParameter("give either --model or --experiment")
    try:
        chosen_folds = None if folds is None else [f if f == "all" else int(f) for f in folds.split(",")]
    except ValueError:
        raise typer.BadParameter("give numbers such as 0,1,2, or all", param_hint="--folds") from None

    from hippo_nnunet.inference.predict import predict as predict_images

    models, postprocessing = tuple(model or ()), None
    if experiment is not None:
        from hippo_nnunet.workflow.chosen import chosen_models

        chosen = chosen_models(experiment, root)
        models, postprocessing = chosen.folders, chosen.postprocessing
    with contextlib.redirect_stdout(sys.stderr):  # nnU-Net prints
        written = predict_images(
            input_,
            output,
            models,
            chosen_folds,
            device,
            checkpoint,
            overwrite,
            save_probabilities,
            use_mirroring=not no_mirroring,
            postprocessing=postprocessing,
            show_progress=True,
            backend=backend,
        )
    for path in written:
        typer.echo(path)
