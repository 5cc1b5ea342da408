"""The commands `plan` and `train`: nnU-Net's own steps, with our names and checks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Dataset, Device, Preset, Root, Subjects, TrustCheckpoint, stdout_to_stderr

log = logging.getLogger(__name__)


def plan(
    dataset: Dataset,
    planner: Annotated[
        str | None, typer.Option("--planner", "-pl", help="Ours or nnU-Net's. Default: the preset's.")
    ] = None,
    preset: Preset = "auto",
    configurations: Annotated[
        str, typer.Option("--configurations", "-c", help="Configurations to preprocess, with commas.")
    ] = "2d,3d_fullres",
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            "-np",
            min=1,
            help="Worker processes. Default: nnUNet_def_n_proc, else one per CPU, at most 8.",
        ),
    ] = None,
    trust_checkpoint: TrustCheckpoint = False,
    subjects: Subjects = "auto",
    root: Root = None,
) -> None:
    """Fingerprint, plan, split and preprocess what is not done yet. Prints the plans' name."""
    from hippo_nnunet.experiment import presets
    from hippo_nnunet.nnunet.api import plan_and_preprocess, resolve_device
    from hippo_nnunet.nnunet.paths import activate, folders_for
    from hippo_nnunet.nnunet.preprocessed import dataset_name

    dataset_name(dataset, folders_for(root))  # before folders are created for a dataset that does not exist
    if planner is not None and preset != presets.AUTO:
        raise typer.BadParameter("--planner takes its place: give one of them", param_hint="--preset")
    if planner is None:
        if preset == presets.AUTO:
            preset = presets.preset_for_device(resolve_device("auto"))
        planner = presets.preset(preset).planner
        log.info("preset %s: %s", preset, planner)
    activate(root)
    names = [name.strip() for name in configurations.split(",") if name.strip()]
    with stdout_to_stderr():
        plans = plan_and_preprocess(dataset, planner, names, processes, trust_checkpoint, subjects)
    typer.echo(plans)


def train(
    dataset: Dataset,
    configuration: Annotated[str, typer.Option("--configuration", "-c", help="Such as 2d or 3d_fullres.")],
    fold: Annotated[str, typer.Option("--fold", "-f", help="Index from 0, or all.")],
    trainer: Annotated[
        str | None,
        typer.Option("--trainer", "-tr", help="A recipe name. Default: AttentionUNetTrainer by the preset."),
    ] = None,
    plans: Annotated[str | None, typer.Option("--plans", "-p", help="Plans. Default: the preset's.")] = None,
    preset: Preset = "auto",
    device: Device = "auto",
    npz: Annotated[bool, typer.Option("--npz/--no-npz", help="Keep the validation's softmax for ensembling.")] = True,
    validation_only: Annotated[bool, typer.Option("--validation-only", help="Validate a trained fold again.")] = False,
    validate_best: Annotated[
        bool, typer.Option("--validate-best", help="Validate checkpoint_best, not checkpoint_final.")
    ] = False,
    pretrained_weights: Annotated[
        Path | None, typer.Option("--pretrained-weights", help="Checkpoint to start from.")
    ] = None,
    trust_checkpoint: TrustCheckpoint = False,
    num_gpus: Annotated[int, typer.Option("--num-gpus", min=1, help="GPUs of this training.")] = 1,
    disable_checkpointing: Annotated[
        bool,
        typer.Option("--disable-checkpointing", help="Write no checkpoints, for tests."),
    ] = False,
    root: Root = None,
) -> None:
    """Train and validate one fold; an interrupted training is resumed. Prints its folder."""
    from hippo_nnunet.experiment import presets
    from hippo_nnunet.nnunet.api import TrainJob, resolve_device, train_fold
    from hippo_nnunet.nnunet.paths import activate, folders_for
    from hippo_nnunet.nnunet.preprocessed import dataset_name

    folders = folders_for(root)
    name = dataset_name(dataset, folders)  # before folders are created for a dataset that does not exist
    if trainer is not None and plans is not None and preset != presets.AUTO:
        raise typer.BadParameter("--trainer and --plans take its place: leave one of them out", param_hint="--preset")
    if trainer is None or plans is None:
        if preset == presets.AUTO:
            preset = presets.preset_for_training(resolve_device(device), folders.preprocessed / name)
        trainer = trainer or presets.trainer_name("AttentionUNet", preset)
        plans = plans or presets.preset(preset).plans
        log.info("preset %s: %s with %s", preset, trainer, plans)
    activate(root)
    job = TrainJob(
        dataset=dataset,
        configuration=configuration,
        fold=int(fold) if fold.removeprefix("-").isdecimal() else fold,
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
    with stdout_to_stderr():
        folder = train_fold(job, validation_only)
    typer.echo(folder)
