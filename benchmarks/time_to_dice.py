"""The training time after which a fold's validation first reaches a given Dice."""

from __future__ import annotations

import csv
import json
import logging
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.document import OURS, STOCK, Result, read_document
from benchmarks.epochs_process import STOCK_ITERATIONS
from benchmarks.prepared import trainable
from benchmarks.processes import program, run_measured
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.nnunet.api import resolve_device
from hippo_nnunet.nnunet.finished import SUMMARY
from hippo_nnunet.nnunet.paths import environment
from hippo_nnunet.nnunet.plans import configuration_of
from hippo_nnunet.training import recipes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiceJob:
    """Which trainings are tried.

    Attributes:
        dataset: Id or name of a dataset that is planned and preprocessed.
        epochs: Lengths to try, in this order. A one-cycle schedule only gives good weights at its end, so each is a
            separate training.
        target: Mean foreground Dice of nnU-Net's final validation, over the fold's volumes.
        trainer: A recipe without a word for the number of epochs or the seed.
        configuration: Such as `2d`.
        plans: Name of the plans.
        fold: Index from 0.
        device: `auto`, `cpu`, `cuda` or `mps`.
        repeats: Trainings of each length, with the seeds 0, 1 and so on; their median Dice has to reach the target.
        stock: File of `train-epochs` that measured nnU-Net's seconds per epoch; None leaves nnU-Net out.
        curve: CSV with the columns `epoch` and a Dice; needed with `stock`.
    """

    dataset: str
    epochs: tuple[int, ...] = (4, 6, 8, 10, 12, 16)
    target: float = 0.86
    trainer: str = "UNetTrainer_fast"
    configuration: str = "2d"
    plans: str = "CompactPlans"
    fold: int = 0
    device: str = "auto"
    repeats: int = 1
    stock: Path | None = None
    curve: Path | None = None


def benchmark_time_to_dice(job: DiceJob, root: Path | None = None) -> Result:
    """Train longer and longer schedules until one reaches the target.

    Args:
        job: What to train.
        root: nnU-Net's root folder, for those of its variables that are unset. Nothing below it is written to.

    Returns:
        The reference is nnU-Net's extrapolated time, if requested. Without a schedule that reaches the
        target, our side has no figures.

    Raises:
        ConfigError: A dataset, recipe, device or combination of options that cannot be right.
        DataError: The curve or the file of `train-epochs` cannot be used.
        HippoError: A training failed; its last lines are in the log.
    """
    if min(job.epochs) < 1:
        raise ConfigError(f"--epochs {','.join(map(str, job.epochs))}: at least 1 is needed")
    if (job.stock is None) != (job.curve is None):
        raise ConfigError("--stock and --curve belong together: seconds per epoch, and epochs to the target")
    extrapolated = _stock(job) if job.stock and job.curve else None
    dataset, plans = trainable(job.dataset, job.plans, job.configuration, job.fold, root)
    device = resolve_device(job.device)
    trials: list[dict[str, Any]] = []
    reached: list[dict[str, Any]] = []
    for epochs in job.epochs:
        of_length = [_trial(job, dataset, device, root, epochs, seed) for seed in range(job.repeats)]
        trials += of_length
        if statistics.median(trial["dice"] for trial in of_length) >= job.target:
            reached = of_length
            break
    sides: dict[str, dict[str, list[float]]] = {STOCK: {"training_seconds": [extrapolated[0]]}} if extrapolated else {}
    sides[OURS] = {}
    if reached:
        sides[OURS] = {
            "training_seconds": [trial["training_seconds"] for trial in reached],
            "process_seconds": [trial["process_seconds"] for trial in reached],
        }
    checks = {
        "reached": bool(reached),
        "dice": statistics.median(t["dice"] for t in reached) if reached else None,
        "stock_extrapolated": extrapolated is not None,
        "trials": trials,
    }
    settings = {
        "dataset": dataset,
        "trainer": job.trainer,
        "configuration": job.configuration,
        "plans": job.plans,
        "batch_size": configuration_of(plans, job.configuration)["batch_size"],
        "fold": job.fold,
        "target": job.target,
        "device": device,
        "repeats": job.repeats,
    }
    notes = (_NOTE, *([extrapolated[1]] if extrapolated else []))
    return Result("time-to-dice", settings, sides, checks, notes)


_NOTE = (
    "training_seconds is wall-clock time of training alone; process_seconds of the whole command, with start and final "
    "validation. The first length that reaches the target was looked for on this very fold"
)


def epochs_to(curve: Path, target: float) -> int:
    """Return the first epoch at which a published curve reaches a Dice.

    Args:
        curve: CSV file: a column `epoch`, and one column of Dice.
        target: The Dice.

    Raises:
        DataError: The file is not such a table, or never reaches the target.
    """
    try:
        with curve.open(newline="") as file:
            rows = list(csv.DictReader(file))
        (column,) = [name for name in rows[0] if name != "epoch"]
        points = [(int(row["epoch"]), float(row[column])) for row in rows]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{curve}: expected a CSV with the columns epoch and one Dice ({type(error).__name__}: {error})"
        ) from error
    for epoch, dice in points:
        if dice >= target:
            return epoch
    raise DataError(f"{curve} never reaches {target}: its best is {max(dice for _, dice in points)}; lower --target")


def _stock(job: DiceJob) -> tuple[float, str]:
    """Return nnU-Net's extrapolated seconds, and a sentence that says how."""
    assert job.stock is not None
    assert job.curve is not None
    _, results = read_document(job.stock)
    found = [r for r in results if r.benchmark == "train-epochs"]
    try:
        measured = found[-1]
        iterations = int(measured.settings["iterations"])
        seconds = float(measured.median(STOCK, "epoch_seconds") or "none") * STOCK_ITERATIONS / iterations
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise DataError(
            f"{job.stock} holds no whole result of train-epochs ({type(error).__name__}: {error}): name a file that "
            "its --output wrote"
        ) from error
    epochs = epochs_to(job.curve, job.target)
    return epochs * seconds, (
        f"stock is EXTRAPOLATED, not trained: {epochs} epochs until {job.curve.name} reaches {job.target} (a published "
        f"curve of pseudo-Dice), times {seconds:.0f} s for an epoch of {STOCK_ITERATIONS} iterations, measured on "
        f"{iterations} iterations of {measured.settings['plans']} {measured.settings['configuration']} on "
        f"{measured.settings['device']}"
    )


def _trial(job: DiceJob, dataset: str, device: str, root: Path | None, epochs: int, seed: int) -> dict[str, Any]:
    """Train and validate one schedule."""
    recipe = recipes.parse(job.trainer)
    trainer = recipes.compose(recipe.base, _words(recipe, epochs, seed, job.repeats))
    with tempfile.TemporaryDirectory(prefix="hippo-benchmark-") as scratch:
        own = {**os.environ, "nnUNet_results": scratch}
        command = [program("hippo-nnunet"), "train", "--dataset", dataset, "--configuration", job.configuration]
        command += ["--fold", str(job.fold), "--trainer", trainer, "--plans", job.plans, "--device", device, "--no-npz"]
        run = run_measured(command, {**own, **environment(root, own)}, Path(scratch) / "output.log")
        folder = Path(scratch) / dataset / f"{trainer}__{job.plans}__{job.configuration}" / f"fold_{job.fold}"
        summary = json.loads((folder / "validation" / "summary.json").read_text())
        trained = json.loads((folder / SUMMARY).read_text())
    trial = {
        "epochs": epochs,
        "iterations": trained["iterations"],
        "seed": trained["seed"],
        "dice": float(summary["foreground_mean"]["Dice"]),
        "training_seconds": float(trained["trained_seconds"]),
        "process_seconds": run.seconds,
    }
    log.info("%s: Dice %.4f after %.1f s of training", trainer, trial["dice"], trial["training_seconds"])
    return trial


def _words(recipe: recipes.Recipe, epochs: int, seed: int, repeats: int) -> Sequence[str]:
    return [*recipe.words.values(), f"{epochs}epochs", *([f"seed{seed}"] if repeats > 1 else [])]
