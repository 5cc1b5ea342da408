"""The command `run`: a whole experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    experiment: Annotated[Path, typer.Argument(help="Folder of the experiment; made, or resumed.")],
    task: Annotated[Path | None, typer.Option("--task", help="Decathlon task to convert: its folder or .tar.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Or: id or name of a dataset in nnUNet_raw.")] = None,
    variants: Annotated[
        str | None,
        typer.Option("--variants", help="With recipe words: UNet,AttentionUNet_flip. Default: both networks."),
    ] = None,
    configurations: Annotated[
        str | None, typer.Option("--configurations", help="Such as 2d,3d_fullres. Default: 2d.")
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option("--folds", help="all, 0,1,2, or for each configuration: 2d=0-4,3d_fullres=0. Default: all."),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="laptop, standard or paper. Default: laptop.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs, in the place of the preset's.")] = None,
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", help="Iterations of an epoch, in the place of the preset's."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto (CUDA if there is a device), cpu, cuda, mps.")] = "auto",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trainings at the same time.")] = 1,
    profile: Annotated[
        str, typer.Option("--profile", help="local, slurm, or the folder of a Snakemake profile.")
    ] = "local",
    root: Annotated[
        Path | None,
        typer.Option("--root", help="nnU-Net's root folder. Default: its variables, else EXPERIMENT/nnunet."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done and how long it takes.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show what is done, running, waiting and failed; changes nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: as JSON.")] = False,
) -> None:
    """Train, cross-validate, ensemble, evaluate, predict and pack a submission; a second run does what is missing."""
    from rich.console import Console

    from hippo_nnunet.experiment.request import Request
    from hippo_nnunet.workflow.main import perform, show_status

    request = Request(task, dataset, variants, configurations, folds, preset, epochs, iterations)
    if as_json and not status:
        raise typer.BadParameter("--json goes with --status")
    if status and (dry_run or request != Request()):
        raise typer.BadParameter("--status takes no other option than --root and --json")
    console = Console()
    wide = console if console.is_terminal else Console(width=160)
    if status:
        parts = show_status(experiment, root, as_json)
    else:
        parts = perform(experiment, request, root, device, jobs, profile, dry_run)
    for part in parts:
        wide.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))
