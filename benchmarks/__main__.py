"""`python -m benchmarks`: stock nnU-Net against ours, side by side. Run it in a clone's top folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.document import Result, check_target, describe_machine, markdown, read_document, write_document
from hippo_nnunet.cli.main import options, run_program
from hippo_nnunet.cli.options import TrustCheckpoint
from hippo_nnunet.files import write_json

app = typer.Typer(
    name="python -m benchmarks",
    help="Measure nnU-Net's own way against ours, in turns, with the results of both compared.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    callback=options,
)

Device = Annotated[str, typer.Option("--device", help="auto (CUDA if there is a device), cpu, cuda, mps; for both.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Turns of each side; an even number cancels a drift.")]
Output = Annotated[Path | None, typer.Option("--output", help="JSON file that gets the figures and the machine.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="nnU-Net's root folder, for those of its variables that are unset; only read."),
]
Dataset = Annotated[str, typer.Option("--dataset", "-d", help="Id or name of a preprocessed dataset.")]
Configuration = Annotated[str, typer.Option("--configuration", "-c", help="Such as 2d or 3d_fullres.")]
Fold = Annotated[str, typer.Option("--fold", "-f", help="Index from 0, or all.")]


@app.command()
def predict(
    model: Annotated[Path, typer.Option("--model", help="nnU-Net's model folder TRAINER__PLANS__CONFIGURATION.")],
    images: Annotated[Path, typer.Option("--images", help="Folder of images, such as imagesTs.")],
    folds: Annotated[
        str | None, typer.Option("--folds", help="Such as 0 or 0,1,2,3,4. Default: every trained fold.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Predict the first so many cases.")] = None,
    repeats: Repeats = 2,
    device: Device = "auto",
    no_mirroring: Annotated[bool, typer.Option("--no-mirroring", help="Mirror on neither side.")] = False,
    no_warm_up: Annotated[
        bool, typer.Option("--no-warm-up", help="Do not predict one case with each first, to load what is on disk.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Once more, unmeasured, comparing the probabilities too.")
    ] = False,
    backend: Annotated[str | None, typer.Option("--backend", help="Our predict's --backend.")] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Ours predicts with an ONNX file of the folds, exported beforehand.")
    ] = False,
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="File in each fold's folder.")
    ] = "checkpoint_final.pth",
    trust_checkpoint: TrustCheckpoint = False,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Whole processes: nnUNetv2_predict against hippo-nnunet predict; seconds, peak memory, share of equal labels."""
    from benchmarks.prediction import PredictJob, benchmark_predict

    job = PredictJob(
        model,
        images,
        _folds(folds),
        device,
        limit,
        repeats,
        mirroring=not no_mirroring,
        probabilities=probabilities,
        backend=backend,
        checkpoint=checkpoint,
        warm_up=not no_warm_up,
        trust=trust_checkpoint,
        onnx=onnx,
    )
    _show(lambda: [benchmark_predict(job)], output, overwrite)


@app.command()
def train_epochs(
    dataset: Dataset,
    configuration: Configuration = "2d",
    plans: Annotated[str, typer.Option("--plans", "-p", help="Name of the plans, for both.")] = "nnUNetPlans",
    fold: Fold = "0",
    stock: Annotated[str, typer.Option("--stock", help="nnU-Net's trainer.")] = "nnUNetTrainer",
    ours: Annotated[str, typer.Option("--ours", help="Our recipe, without length words.")] = "UNetTrainer",
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, help="Epochs of a training; of several the first is not counted.")
    ] = 3,
    iterations: Annotated[
        int, typer.Option("--iterations", min=1, help="Training iterations of an epoch; a fifth of validation.")
    ] = 10,
    repeats: Repeats = 2,
    device: Device = "auto",
    validate: Annotated[
        bool, typer.Option("--validate", help="Also run the final validation, and compare its Dice.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Folder that keeps the first training of each side.")
    ] = None,
    root: Root = None,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Whole epochs on the same plans and batch: nnU-Net's trainer, its workers included, against ours."""
    from benchmarks.epochs import EpochsJob, benchmark_epochs

    job = EpochsJob(
        dataset, configuration, plans, _fold(fold), stock, ours, epochs, iterations, device, repeats, validate, keep
    )
    _show(lambda: [benchmark_epochs(job, root)], output, overwrite)


@app.command()
def train_step(
    dataset: Dataset,
    trainers: Annotated[
        str, typer.Option("--trainers", help="Names with commas; the first is the reference.")
    ] = "UNetTrainer_fast,AttentionUNetTrainer_fast",
    configuration: Configuration = "2d",
    plans: Annotated[str, typer.Option("--plans", "-p", help="Name of the plans, for all.")] = "CompactPlans",
    fold: Fold = "0",
    repeats: Repeats = 20,
    warm_up: Annotated[int, typer.Option("--warm-up", min=0, help="Steps of each before any is measured.")] = 3,
    device: Device = "auto",
    root: Root = None,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Training steps of several trainers in one process, in turns: forward, loss, backward, optimiser."""
    from benchmarks.steps import StepsJob, benchmark_steps

    names = tuple(name.strip() for name in trainers.split(",") if name.strip())
    job = StepsJob(dataset, names, configuration, plans, _fold(fold), device, repeats, warm_up)
    _show(lambda: [benchmark_steps(job, root)], output, overwrite)


@app.command()
def time_to_dice(
    dataset: Dataset,
    target: Annotated[float, typer.Option("--target", min=0, max=1, help="Mean foreground Dice.")] = 0.86,
    epochs: Annotated[
        str, typer.Option("--epochs", help="Lengths to train, with commas, until one reaches the target.")
    ] = "4,6,8,10,12,16",
    trainer: Annotated[
        str, typer.Option("--trainer", "-tr", help="A recipe without epochs or seed.")
    ] = "UNetTrainer_fast",
    configuration: Configuration = "2d",
    plans: Annotated[str, typer.Option("--plans", "-p", help="Name of the plans.")] = "CompactPlans",
    fold: Annotated[int, typer.Option("--fold", "-f", min=0, help="Index from 0.")] = 0,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Seeds of each length; their median Dice has to reach the target.")
    ] = 1,
    device: Device = "auto",
    stock: Annotated[
        Path | None, typer.Option("--stock", help="JSON of train-epochs: nnU-Net's seconds per epoch.")
    ] = None,
    curve: Annotated[
        Path | None, typer.Option("--curve", help="CSV (epoch, Dice) that nnU-Net is extrapolated along.")
    ] = None,
    root: Root = None,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Training time until the final validation of a fold reaches a Dice; nnU-Net's is extrapolated, and says so."""
    from benchmarks.time_to_dice import DiceJob, benchmark_time_to_dice

    lengths = tuple(_numbers(epochs, "--epochs"))
    job = DiceJob(
        dataset, lengths, target, trainer, configuration, plans, fold, device, repeats, stock=stock, curve=curve
    )
    _show(lambda: [benchmark_time_to_dice(job, root)], output, overwrite)


@app.command()
def head(
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples.")] = 366,
    size: Annotated[str, typer.Option("--size", help="Patch, with commas: two or three numbers.")] = "56,40",
    features: Annotated[int, typer.Option("--features", min=1, help="Channels of the decoder's features.")] = 32,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Classes, background included.")] = 3,
    repeats: Repeats = 3,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Forward and backward of the cosine head: the plain form, ours, and nnU-Net's 1x1 convolution."""

    def measure() -> Iterable[Result]:
        from benchmarks.head import benchmark_head, head_result

        patch = tuple(_numbers(size, "--size"))
        yield head_result(benchmark_head(batch, patch, features, classes=classes, repeats=repeats, device=device))

    _show(measure, output, overwrite)


@app.command()
def startup(
    model: Annotated[
        Path | None, typer.Option("--model", help="With --images: also predict one case with this model's fold 0.")
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", help="With --model: folder of images.")] = None,
    repeats: Repeats = 4,
    device: Device = "auto",
    trust_checkpoint: TrustCheckpoint = False,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Seconds of --help and list, and whether they import torch; of one predicted case, against nnU-Net's."""
    from benchmarks.prediction import PredictJob, benchmark_predict
    from benchmarks.startup import benchmark_startup

    if (model is None) != (images is None):
        raise typer.BadParameter("--model and --images belong together")

    def measure() -> Iterable[Result]:
        yield benchmark_startup(repeats)
        if model is not None and images is not None:
            yield benchmark_predict(PredictJob(model, images, (0,), device, 1, repeats, trust=trust_checkpoint))

    _show(measure, output, overwrite)


@app.command()
def experiment(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished experiment of `hippo-nnunet run`.")],
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Seconds of a whole experiment, read from what its jobs took; nothing is run."""
    from benchmarks.experiment import benchmark_experiment

    _show(lambda: [benchmark_experiment(folder)], output, overwrite)


@app.command()
def contention(
    dataset: Dataset,
    trainer: Annotated[str, typer.Option("--trainer", "-tr", help="Our recipe, without length words.")] = (
        "UNetTrainer_fast"
    ),
    configuration: Configuration = "2d",
    plans: Annotated[str, typer.Option("--plans", "-p", help="Name of the plans.")] = "CompactPlans",
    fold: Fold = "0",
    repeats: Repeats = 2,
    busy: Annotated[int, typer.Option("--busy", min=1, help="Number of busy processes.")] = 1,
    settle: Annotated[float, typer.Option("--settle", min=0, help="Seconds of a turn that are not counted.")] = 4,
    window: Annotated[float, typer.Option("--window", min=0, help="Seconds of a turn that are counted.")] = 5,
    compiled: Annotated[bool, typer.Option("--compiled", help="Compile the training step.")] = False,
    root: Root = None,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Steps on the CPU alone and beside a busy process, with a fixed and an adaptive number of threads, in turns."""
    from benchmarks.contention import ContentionJob, benchmark_contention

    job = ContentionJob(
        dataset, trainer, configuration, plans, _fold(fold), repeats, busy, settle, window, compiled=compiled
    )
    _show(lambda: [benchmark_contention(job, root)], output, overwrite)


@app.command()
def gpu(
    work: Annotated[Path, typer.Option("--work", help="Folder for nnU-Net's folders and the models; is kept.")],
    task: Annotated[Path | None, typer.Option("--task", help="Decathlon task to convert: its folder or .tar.")] = None,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Or: id or name of a dataset in nnUNet_raw.")] = "4",
    parts: Annotated[
        str | None,
        typer.Option(
            "--parts", help="Some of train-2d,train-3d,predict-2d,predict-3d,step-2d,step-3d. Default: all, in turn."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=2, help="Epochs of each training.")] = 20,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Trainings of each side.")] = 2,
    device: Annotated[str, typer.Option("--device", help="cuda, or cpu to rehearse.")] = "cuda",
    quick: Annotated[
        bool, typer.Option("--quick", help="Rehearse: few iterations, two cases, useless figures.")
    ] = False,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Everything that needs a GPU, from the dataset on: epochs, validation Dice, prediction, steps; 2D and 3D."""
    from benchmarks.gpu import PARTS, GpuJob, benchmark_gpu, prepare

    chosen = tuple(part.strip() for part in parts.split(",")) if parts else PARTS
    job = GpuJob(work, dataset, device, chosen, epochs, repeats, quick)
    _show(lambda: benchmark_gpu(job, prepare(job, task)), output, overwrite)


@app.command()
def segment(
    variants: Annotated[int, typer.Option("--variants", min=0, help="Seeded variants of each head.")] = 100,
    orders: Annotated[int, typer.Option("--orders", min=1, max=48, help="Axis orders of each head.")] = 48,
    model: Annotated[Path | None, typer.Option("--model", help="ONNX file; default: the packaged model.")] = None,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Heads that are on this machine: agreement with other programs, stability over variants, images of no head.

    The folder that HIPPO_HEADS names has hippodeep's example and masks; MNI152 comes with nilearn, Colin27 with
    Debian's mricron-data.
    """
    from benchmarks.segment_heads import benchmark_heads, heads_folder, summary_text

    if output is not None:
        check_target(output, overwrite)
    measured = benchmark_heads(heads_folder(), variants, orders, model)
    print(summary_text(measured))
    if output is not None:
        write_json(output, {"machine": describe_machine(), **measured})


@app.command()
def registration(
    variants: Annotated[int, typer.Option("--variants", min=1, help="Seeded variants of each head.")] = 20,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """The registration of segment against SimpleITK's, on the same variants; heads as for `segment`."""
    from benchmarks.registration_peer import benchmark_registration, registration_text
    from benchmarks.segment_heads import heads_folder

    if output is not None:
        check_target(output, overwrite)
    measured = benchmark_registration(heads_folder(), variants)
    print(registration_text(measured))
    if output is not None:
        write_json(output, {"machine": describe_machine(), "heads": measured})


@app.command()
def table(files: Annotated[list[Path], typer.Argument(help="Files that --output wrote.")]) -> None:
    """Print every target, what was measured, and whether it is met; of several results, the last counts."""
    from benchmarks.targets import target_table

    typer.echo(target_table([read_document(file) for file in files]))


def _show(measure: Callable[[], Iterable[Result]], output: Path | None, overwrite: bool) -> None:
    """Print each result as it is measured, and rewrite the file; what nnU-Net prints goes to stderr.

    Raises:
        ConfigError: The file exists, or cannot be written.
    """
    check_target(output, overwrite)
    machine = describe_machine()
    results: list[Result] = []
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for result in measure():
            results.append(result)
            if output is not None:
                write_document(output, machine, results, overwrite=overwrite or len(results) > 1)
            typer.echo(markdown(result), file=stdout)


def _fold(fold: str, option: str = "--fold") -> int | str:
    return fold if fold == "all" else _numbers(fold, option)[0]


def _folds(folds: str | None) -> tuple[int | str, ...] | None:
    return None if folds is None else tuple(_fold(fold.strip(), "--folds") for fold in folds.split(","))


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{text}': give numbers such as 0,1,2", param_hint=option) from None


if __name__ == "__main__":
    run_program(app)
