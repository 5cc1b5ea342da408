"""The commands `plan` and `train`: nnU-Net's own steps, with our names and checks."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[
    Path | None,
    typer.Option("--root", help="nnU-Net's root folder, for those of its variables that are unset."),
]
Dataset = Annotated[str, typer.Option("--dataset", "-d", help="Id or name: 4, Dataset004_Hippocampus.")]


def plan(
    dataset: Dataset,
    planner: Annotated[str, typer.Option("--planner", help="Ours or nnU-Net's.")] = "CompactPlanner",
    configurations: Annotated[
        str, typer.Option("--configurations", "-c", help="Configurations to preprocess, with commas.")
    ] = "2d,3d_fullres",
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="Worker processes. Default: one per CPU.")
    ] = None,
    root: Root = None,
) -> None:
    """Fingerprint, plan, split and preprocess what is not done yet. Prints the plans' name."""
    from hippo_nnunet.nnunet.api import plan_and_preprocess
    from hippo_nnunet.nnunet.paths import activate, folders_for
    from hippo_nnunet.nnunet.preprocessed import dataset_name

    dataset_name(dataset, folders_for(root))  # before folders are made for one that is not there
    activate(root)
    names = [name.strip() for name in configurations.split(",") if name.strip()]
    with contextlib.redirect_stdout(sys.stderr):
        plans = plan_and_preprocess(dataset, planner, names, processes)
    typer.echo(plans)


def train(
    dataset: Dataset,
    configuration: Annotated[str, typer.Option("--configuration", "-c", help="Such as 2d or 3d_fullres.")],
    fold: Annotated[str, typer.Option("--fold", "-f", help="Index from 0, or all.")],
    trainer: Annotated[str, typer.Option("--trainer", "-tr", help="A recipe name.")] = "AttentionUNetTrainer_fast",
    plans: Annotated[str, typer.Option("--plans", "-p", help="Name of the plans.")] = "CompactPlans",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")] = "auto",
    npz: Annotated[bool, typer.Option("--npz/--no-npz", help="Keep the validation's softmax for ensembling.")] = True,
    validation_only: Annotated[bool, typer.Option("--validation-only", help="Validate a trained fold again.")] = False,
    validate_best: Annotated[
        bool, typer.Option("--validate-best", help="Validate checkpoint_best, not checkpoint_final.")
    ] = False,
    pretrained_weights: Annotated[
        Path | None, typer.Option("--pretrained-weights", help="Checkpoint to start from.")
    ] = None,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Load weights that could run code: you trust their author.")
    ] = False,
    num_gpus: Annotated[int, typer.Option("--num-gpus", min=1, help="GPUs of this training.")] = 1,
    disable_checkpointing: Annotated[
        bool, typer.Option("--disable-checkpointing", help="Write no checkpoints, for tests.")
    ] = False,
    root: Root = None,
) -> None:
    """Train and validate one fold, from where it was left. Prints its folder."""
    from hippo_nnunet.nnunet.api import TrainJob, train_fold
    from hippo_nnunet.nnunet.paths import activate, folders_for
    from hippo_nnunet.nnunet.preprocessed import dataset_name

    dataset_name(dataset, folders_for(root))  # before folders are made for one that is not there
    activate(root)
    job = TrainJob(
        dataset=dataset,
        configuration=configuration,
        fold=int(fold) if fold.isdecimal() else fold,
        trainer=trainer,
        plans=plans,
        device=device,
        npz=npz,
        num_gpus=num_gpus,
        pretrained_weights=pretrained_weights,
        trust_checkpoint=trust_checkpoint,
        validate_best=validate_best,
        disable_checkpointing=disable_checkpointing,
    )
    with contextlib.redirect_stdout(sys.stderr):
        folder = train_fold(job, validation_only)
    typer.echo(folder)
