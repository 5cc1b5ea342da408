"""`predict`: segment images with a model, its folds, or an ensemble."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hippo_nnunet.cli.options import (
    FINAL,
    Checkpoint,
    Coverage,
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
from hippo_nnunet.errors import HippoError

if TYPE_CHECKING:
    from hippo_nnunet.models.packaged import PackagedModel

log = logging.getLogger(__name__)


def predict(
    input_: Annotated[list[Path], typer.Option("--input", "-i", help="Folder of images, or an image; repeatable.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the segmentations.")],
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            "-m",
            help="nnU-Net's model folder TRAINER__PLANS__CONFIGURATION, a .hippo or an .onnx file; several: an "
            "ensemble. Without --model, --experiment and --dataset: the packaged model (see 'model info').",
        ),
    ] = None,
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", help="Or: folder of an experiment, for its ensemble."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="Or: id or name of the dataset of a model in nnUNet_results.")
    ] = None,
    configuration: Annotated[
        str | None, typer.Option("--configuration", "-c", help="With --dataset: such as 2d or 3d_fullres.")
    ] = None,
    trainer: Annotated[
        str | None, typer.Option("--trainer", "-tr", help="With --dataset: needed where several were trained.")
    ] = None,
    plans: Annotated[
        str | None, typer.Option("--plans", "-p", help="With --dataset: needed where several were trained with.")
    ] = None,
    folds: Folds = None,
    device: Device = "auto",
    checkpoint: Checkpoint = FINAL,
    overwrite: Overwrite = False,
    save_probabilities: Annotated[
        bool,
        typer.Option("--save-probabilities", help="Also write <case>.npz and .pkl, as nnU-Net does."),
    ] = False,
    no_mirroring: Annotated[
        bool,
        typer.Option("--no-mirroring", help="Do not average over mirrored images: faster, a little worse."),
    ] = False,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            help="torch (with an ONNX file: onnxruntime), openvino, or auto: on a CPU OpenVINO where it is installed, "
            "saves time and agrees with the other.",
        ),
    ] = "auto",
    prompt: Prompts = None,
    root: ExperimentRoot = None,
    trust_checkpoint: TrustCheckpoint = False,
    volumes: Annotated[
        Path | None,
        typer.Option(
            "--volumes",
            help="Also write this table: volumes in mm3, intervals, flags (docs/volumetry.md). Default with the "
            "packaged model: volumes.csv in --output.",
        ),
    ] = None,
    coverage: Coverage = 0.9,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            help="With --volumes or --qc, for models of --model: their experiment, or none: no intervals.",
        ),
    ] = None,
    qc: Annotated[
        Path | None,
        typer.Option("--qc", help="Also write this folder: a page to check every segmentation by eye (docs/qc.md)."),
    ] = None,
) -> None:
    """Segment NIfTI images; every image is checked first, and left out if it fails. Prints the files written."""
    named = [bool(model), experiment is not None, dataset is not None].count(True)
    if named > 1:
        raise typer.BadParameter("give one of --model, --experiment, and --dataset with --configuration")
    if (dataset is None) != (configuration is None) or (dataset is None and (trainer or plans)):
        raise typer.BadParameter("--dataset needs --configuration; --trainer and --plans go with them")
    if qc is not None and qc.resolve() == output.resolve():
        raise typer.BadParameter("name another folder than --output, such as one in it", param_hint="--qc")
    numbers, prompts = fold_numbers(folds), prompts_by_class(prompt)
    by_default = not named and volumes is None
    volumes = output / "volumes.csv" if by_default else volumes
    if calibration is not None and volumes is None and qc is None:
        raise typer.BadParameter("it is for --volumes or --qc, neither is given", param_hint="--calibration")
    onnx = not named or (bool(model) and all(path.name.endswith(".onnx") for path in model or ()))
    if onnx:
        _refuse_with_onnx(
            {
                "--folds": folds,
                "--device": device not in ("auto", "cpu"),
                "--checkpoint": checkpoint != FINAL,
                "--backend": backend == "torch",
                "--prompt": prompt,
                "--root": root and not (volumes or qc),
                "--trust-checkpoint": trust_checkpoint,
            }
        )

    from hippo_nnunet.inference.scans import FailedScans

    models, postprocessing, packaged = tuple(model or ()), "none", None
    if not named:
        packaged = _packaged()
        models = (packaged.path,)
    if experiment is not None:
        from hippo_nnunet.experiment.experiment import ensemble_models

        models, postprocessing = ensemble_models(experiment, root)
    if dataset is not None and configuration is not None:
        from hippo_nnunet.nnunet.paths import folders_for, trained_model

        models = (trained_model(folders_for(root, {} if root else None), dataset, configuration, trainer, plans),)
    table = page = None
    if volumes is not None or qc is not None:
        if packaged and calibration is None:
            from hippo_nnunet.analysis.predicted_volumes import prepare_packaged

            table = prepare_packaged(volumes, packaged, coverage, overwrite, extend=by_default)
        else:
            from hippo_nnunet.analysis.volume_preparation import prepare_volumes

            table = prepare_volumes(volumes, models, experiment, calibration, coverage, root, overwrite)
    if table and qc is not None:
        from hippo_nnunet.pages.qc.predicted import PredictedPage

        page = PredictedPage(qc, table, models, overwrite)
    observe, check = (page.add, page.check) if page else (table.add if table else None, None)
    others = [volumes] if volumes else []
    if onnx:
        from hippo_nnunet.inference.onnx_predict import OnnxOptions, predict_onnx

        known = packaged.known_images() if packaged else None
        settings = OnnxOptions(overwrite, save_probabilities, not no_mirroring, observe, others, known, check, backend)
        start = partial(predict_onnx, input_, output, models, settings)
    else:
        from hippo_nnunet.inference.predict import PredictOptions
        from hippo_nnunet.inference.predict import predict as predict_images

        options = PredictOptions(
            numbers,
            device,
            checkpoint,
            overwrite,
            save_probabilities,
            use_mirroring=not no_mirroring,
            postprocessing=postprocessing,
            backend=backend,
            trust_checkpoint=trust_checkpoint,
            observe=observe,
            other_outputs=others,
            check_cases=check,
            prompts=prompts,
        )
        start = partial(predict_images, input_, output, models, options)
    failed = None
    with stdout_to_stderr():
        try:
            written = start()
        except FailedScans as error:
            written, failed = error.written, error
        except BaseException:  # also an interruption: what is complete is in the table and on the page
            if table and table.cases:
                with suppress(HippoError, OSError):
                    table.write()
                    if page:
                        page.write()
            raise
    for path in written:
        echo(path)
    if table and written and (target := table.write()):
        echo(target)
    if page:
        if failed:
            page.fail(failed.reasons)
        echo(page.write())
    if failed:
        raise failed


def _packaged() -> PackagedModel:
    """Open the packaged model, and say which it is."""
    from hippo_nnunet.models.packaged import open_packaged

    model = open_packaged()
    log.info("packaged model %s, %s, as no other is named: see 'hippo-nnunet model info'", model.title, model.licence)
    return model


def _refuse_with_onnx(given: Mapping[str, object]) -> None:
    named = [option for option, value in given.items() if value]
    if named:
        raise typer.BadParameter(
            f"{', '.join(named)}: not with an ONNX file or the packaged model, which hold their folds and "
            "compute on the CPU; leave it out, or name a model folder or a .hippo file"
        )
