"""The command `run`: a whole experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Device, TrustCheckpoint
from hippo_nnunet.cli.output import Printable


def run(
    experiment: Annotated[Path, typer.Argument(help="Folder of the experiment; created, or resumed.")],
    task: Annotated[
        Path | None, typer.Option("--task", help="Decathlon task to convert: its folder, .tar or .zip.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="Or: id or name of a dataset in nnUNet_raw.")
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            "--variants",
            "-tr",
            help="Networks with recipe words, or trainers: UNet,AttentionUNet_flip; UNet@3d_fullres is trained in that "
            "configuration alone. Default: UNet,AttentionUNet.",
        ),
    ] = None,
    configurations: Annotated[
        str | None, typer.Option("--configurations", "-c", help="Such as 2d,3d_fullres. Default: 2d.")
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option("--folds", "-f", help="all, 0,1,2, or for each configuration: 2d=0-4,3d_fullres=0. Default: all."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="auto, laptop, overnight, pad64, gpu, standard or paper. Default: the experiment's; in a new one "
            "auto, which is gpu if there is a CUDA device, else laptop.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Overrides the preset's number of epochs.")] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="Overrides the preset's iterations per epoch.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            max=100,
            help="Trainings of each recipe; the others are its repeats _seed1, ... Default: 3 with overnight, else 1.",
        ),
    ] = None,
    train_cases: Annotated[
        str | None,
        typer.Option(
            "--train-cases",
            help="Train each recipe on numbers of cases, such as 5,10,20,all: nested subsets of each fold's subjects.",
        ),
    ] = None,
    subjects: Annotated[
        str | None,
        typer.Option(
            "--subjects",
            help="Cases that stay in one fold: auto (by subjects.csv beside dataset.json, else crops of one scan), a "
            "CSV file with case,subject, or none (nnU-Net's own folds). Default: the experiment's; in a new one auto.",
        ),
    ] = None,
    device: Device = "auto",
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", min=1, help="Trainings at the same time, each on a GPU of its own where there are several."
        ),
    ] = 1,
    profile: Annotated[
        str, typer.Option("--profile", help="local, slurm, or the folder of a Snakemake profile.")
    ] = "local",
    root: Annotated[
        Path | None,
        typer.Option(
            "--root", help="nnU-Net's root folder. Default: EXPERIMENT/nnunet if it exists, else nnU-Net's variables."
        ),
    ] = None,
    trust_checkpoint: TrustCheckpoint = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the missing jobs and their expected time.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show what is done, running, waiting and failed; changes nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: as JSON.")] = False,
) -> None:
    """Train, cross-validate, ensemble, evaluate, predict and pack a submission; a second run does what is missing."""
    from rich.console import Console

    from hippo_nnunet.experiment.request import Request
    from hippo_nnunet.workflow import status_text
    from hippo_nnunet.workflow.launch import Settings
    from hippo_nnunet.workflow.main import perform
    from hippo_nnunet.workflow.status import read_status

    request = Request(
        task, dataset, variants, configurations, folds, preset, epochs, iterations, seeds, subjects, train_cases
    )
    if as_json and not status:
        raise typer.BadParameter("--json goes with --status")
    settings = Settings(device, jobs, profile, task, trust=trust_checkpoint)
    if status and (dry_run or request != Request() or settings != Settings("auto")):
        raise typer.BadParameter("--status takes no other option than --root and --json")
    console = Console()
    wide = console if console.is_terminal else Console(width=160)
    if status:
        found = read_status(experiment, root)
        parts = iter([status_text.as_json(found)]) if as_json else status_text.describe(found)
    else:
        parts = perform(experiment, request, root, settings, dry_run)
    for part in parts:
        wide.print(Printable(part), highlight=False, markup=False, soft_wrap=isinstance(part, str))
