"""Whole epochs: nnU-Net's trainer against ours, on the same plans, configuration and batch."""

from __future__ import annotations

import json
import logging
import os
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.document import OURS, STOCK, Result
from benchmarks.epochs_process import trainer_of_length
from benchmarks.prepared import trainable
from benchmarks.processes import module_command, run_measured
from benchmarks.ratios import turns
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.nnunet.api import resolve_device
from hippo_nnunet.nnunet.paths import environment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochsJob:
    """What both sides train.

    Attributes:
        dataset: Id or name of a dataset that is planned and preprocessed.
        configuration: Such as `2d`.
        plans: Name of the plans.
        fold: Index from 0, or `all`.
        stock: nnU-Net's side: a trainer's class name.
        ours: Our side: a recipe without length words.
        epochs: Epochs of one training; where there are several, the first is not counted, as compiling and filling
            the queues belong to it.
        iterations: Training iterations of an epoch; a fifth as many of validation.
        device: `auto`, `cpu`, `cuda` or `mps`; the same for both.
        repeats: Trainings of each side.
        validate: Run the final validation after the training, and compare its Dice.
        keep: Folder that gets the first repeat's results of each side, `KEEP/stock` and `KEEP/ours`; None keeps none.
    """

    dataset: str
    configuration: str = "2d"
    plans: str = "nnUNetPlans"
    fold: int | str = 0
    stock: str = "nnUNetTrainer"
    ours: str = "UNetTrainer"
    epochs: int = 3
    iterations: int = 10
    device: str = "auto"
    repeats: int = 2
    validate: bool = False
    keep: Path | None = None


def benchmark_epochs(job: EpochsJob, root: Path | None = None) -> Result:
    """Train the same few epochs with both trainers in turns, each in a separate process.

    Args:
        job: What to train.
        root: nnU-Net's root folder, for those of its variables that are unset. Nothing below it is written to.

    Raises:
        ConfigError: A dataset, plans, configuration, fold, trainer or device that does not exist, or a folder
            to keep results in that has some already.
        HippoError: A training failed; its last lines are in the log.
    """
    dataset, _ = trainable(job.dataset, job.plans, job.configuration, job.fold, root)
    trainers = {STOCK: job.stock, OURS: job.ours}
    for trainer in trainers.values():
        trainer_of_length(trainer, job.epochs, job.iterations)
    device = resolve_device(job.device)
    if job.keep is not None and any((job.keep / side).exists() for side in trainers):
        raise ConfigError(f"{job.keep} holds results already: name another folder to keep these in")
    measures: dict[str, dict[str, list[float]]] = {STOCK: {}, OURS: {}}
    outcomes: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="hippo-benchmark-") as scratch:
        for side, repeat in turns(list(trainers), job.repeats):
            results = Path(scratch) / f"{side}-{repeat}"
            results.mkdir()
            found = _train(job, trainers[side], dataset, device, results, root, measures[side])
            outcomes.setdefault(side, found)
            log.info("%s, repeat %d: epochs of %s s", side, repeat + 1, _rounded(found["epoch_seconds"]))
            if job.keep is not None and repeat == 0:
                job.keep.mkdir(parents=True, exist_ok=True)
                shutil.copytree(results, job.keep / side)
            shutil.rmtree(results)
    return Result("train-epochs", _settings(job, dataset, device), measures, _checks(outcomes, measures), _notes(job))


def _train(
    job: EpochsJob,
    trainer: str,
    dataset: str,
    device: str,
    results: Path,
    root: Path | None,
    measures: dict[str, list[float]],
) -> dict[str, Any]:
    """Run one training; adds its figures to the measures and returns its outcome."""
    own = {**os.environ, "nnUNet_results": str(results)}
    options = {
        "dataset": dataset,
        "configuration": job.configuration,
        "fold": job.fold,
        "trainer": trainer,
        "plans": job.plans,
        "device": device,
        "epochs": job.epochs,
        "iterations": job.iterations,
        "outcome": results / "outcome.json",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command, environ = module_command("benchmarks.epochs_process", {**own, **environment(root, own)})
    validate = ["--validate"] if job.validate else []
    run = run_measured([*command, *words, *validate], environ, results / "output.log")
    found = dict(json.loads((results / "outcome.json").read_text()))
    run.add_to(measures)
    measures["process_seconds"] = [*measures.get("process_seconds", []), *measures.pop("seconds")]
    epochs = found["epoch_seconds"]
    measures.setdefault("epoch_seconds", []).extend(epochs[1:] or epochs)
    measures.setdefault("first_epoch_seconds", []).append(epochs[0])
    for measure in ("peak_gpu_mib", "validation_dice"):
        if found.get(measure) is not None:
            measures.setdefault(measure, []).append(found[measure])
    return found


def _settings(job: EpochsJob, dataset: str, device: str) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "configuration": job.configuration,
        "plans": job.plans,
        "fold": job.fold,
        "stock": job.stock,
        "ours": job.ours,
        "epochs": job.epochs,
        "iterations": job.iterations,
        "device": device,
        "repeats": job.repeats,
    }


def _checks(outcomes: dict[str, dict[str, Any]], measures: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Compare networks, batches and results of the sides."""
    stock, ours = outcomes[STOCK], outcomes[OURS]
    same = {f"same_{key}": stock[key] == ours[key] for key in ("network", "parameters", "batch_size", "patch_size")}
    checks: dict[str, Any] = {**same, "network": stock["network"], "batch_size": stock["batch_size"]}
    checks["patch_size"] = stock["patch_size"]
    for key in ("precision", "training_loss", "validation_loss", "pseudo_dice"):
        checks[key] = {STOCK: stock[key], OURS: ours[key]}
    dice = {side: figures.get("validation_dice", []) for side, figures in measures.items()}
    if all(dice.values()):
        checks["validation_dice_gain"] = statistics.mean(dice[OURS]) - statistics.mean(dice[STOCK])
    return checks


def _notes(job: EpochsJob) -> tuple[str, ...]:
    counted = "each epoch but the first" if job.epochs > 1 else "the only epoch, compiling and queues included"
    return (
        f"epoch_seconds counts {counted}, by nnU-Net's own clock: training and validation iterations, not the writing "
        "of checkpoints and figures; training_loss, validation_loss and pseudo_dice are the last epoch's",
        "nnU-Net's queue of augmented batches fills during validation: with few iterations it is faster than in "
        "epochs of 250",
    )


def _rounded(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
