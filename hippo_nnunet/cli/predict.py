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
        typer.Option(
            "--model",
            help="nnU-Net's model folder TRAINER__PLANS__CONFIGURATION, or a .hippo file; several: an ensemble.",
        ),
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
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Load a checkpoint that could run code: you trust its author.")
    ] = False,
    volumes: Annotated[
        Path | None,
        typer.Option("--volumes", help="Also write this table: volumes in mm3, intervals, flags (docs/volumetry.md)."),
    ] = None,
    coverage: Annotated[
        float, typer.Option("--coverage", help="With --volumes: share of true volumes that intervals shall hold.")
    ] = 0.9,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration", help="With --volumes and --model: the models' experiment, or none: no intervals."
        ),
    ] = None,
) -> None:
    """Segment NIfTI images; every image is checked first. Prints the files written."""
    if bool(model) == (experiment is not None):
        raise typer.BadParameter("give either --model or --experiment")
    if calibration is not None and volumes is None:
        raise typer.BadParameter("it is for --volumes, which is not given", param_hint="--calibration")
    try:
        chosen_folds = None if folds is None else [f if f == "all" else int(f) for f in folds.split(",")]
    except ValueError:
        raise typer.BadParameter("give numbers such as 0,1,2, or all", param_hint="--folds") from None

    from hippo_nnunet.inference.predict import PredictOptions
    from hippo_nnunet.inference.predict import predict as predict_images

    models, postprocessing = tuple(model or ()), "none"
    if experiment is not None:
        from hippo_nnunet.experiment.experiment import ensemble_models

        models, postprocessing = ensemble_models(experiment, root)
    table = None
    if volumes is not None:
        from hippo_nnunet.analysis.predicted_volumes import prepare_volumes

        table = prepare_volumes(volumes, models, experiment, calibration, coverage, root, overwrite)
    options = PredictOptions(
        chosen_folds,
        device,
        checkpoint,
        overwrite,
        save_probabilities,
        use_mirroring=not no_mirroring,
        postprocessing=postprocessing,
        show_progress=True,
        backend=backend,
        trust_checkpoint=trust_checkpoint,
        observe=table.add if table else None,
    )
    with contextlib.redirect_stdout(sys.stderr):  # nnU-Net prints
        written = predict_images(input_, output, models, options)
    for path in written:
        typer.echo(path)
    if table:
        typer.echo(table.write())
