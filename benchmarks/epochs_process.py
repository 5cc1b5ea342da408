"""The process that `train-epochs` measures: one training of a few short epochs, by any trainer.

nnU-Net's command line can shorten a training to few epochs, not to few iterations. So this does, step by step, what
`nnUNetv2_train` does: the same threads, the same worker processes, the same `run_training` of the trainer itself. Only
the numbers of epochs and of iterations differ; with them goes the number of validation iterations, one for every five
as in nnU-Net. It is the same code for both sides.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hippo_nnunet.files import write_json
from hippo_nnunet.nnunet.api import limit_processes
from hippo_nnunet.training import recipes

STOCK_ITERATIONS = 250
"""Training iterations of one of nnU-Net's epochs."""
ITERATIONS_PER_VALIDATION = 5
"""nnU-Net's 250 training iterations to 50 of validation."""


def trainer_of_length(name: str, epochs: int, iterations: int) -> str:
    """Return the class name of a trainer of this length: of ours the recipe with both words, another's as it is.

    Raises:
        ConfigError: A wrong recipe, or one that has a length already.
    """
    if not recipes.is_ours(name):
        return name
    words = [*recipes.parse(name).words.values(), f"{epochs}epochs", f"{iterations}iters"]
    return recipes.compose(recipes.parse(name).base, words)


def make_trainer(options: argparse.Namespace, device: Any) -> Any:
    """Make a trainer as `nnUNetv2_train` does, and set its length."""
    from nnunetv2.run.run_training import get_trainer_from_args

    name = trainer_of_length(options.trainer, options.epochs, options.iterations)
    trainer = get_trainer_from_args(
        options.dataset, options.configuration, options.fold, name, options.plans, device=device
    )
    trainer.num_epochs = options.epochs
    trainer.num_iterations_per_epoch = options.iterations
    trainer.num_val_iterations_per_epoch = max(1, options.iterations // ITERATIONS_PER_VALIDATION)
    return trainer


def set_up(device: str) -> Any:
    """Set torch's threads as `nnUNetv2_train` does; returns the torch device."""
    import multiprocessing

    import torch

    if device == "cuda":
        torch.set_num_threads(1)
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
    elif device == "cpu":
        torch.set_num_threads(multiprocessing.cpu_count())
    return torch.device(device)


def outcome(trainer: Any) -> dict[str, Any]:
    """Collect what a finished training logged.

    Returns:
        JSON-ready: seconds of each epoch by nnU-Net's own clock (training and validation iterations, without
        checkpoints and figures), losses, pseudo-Dice, and what the network and the batch were.
    """
    import torch

    log = trainer.logger
    starts, ends = log.get_value("epoch_start_timestamps", None), log.get_value("epoch_end_timestamps", None)
    network = getattr(trainer.network, "_orig_mod", trainer.network)
    return {
        "epoch_seconds": [end - start for start, end in zip(starts, ends, strict=True)],
        "training_loss": float(log.get_value("train_losses", -1)),
        "validation_loss": float(log.get_value("val_losses", -1)),
        "precision": trainer.record.precision if recipes.is_ours(type(trainer).__name__) else _stock_precision(trainer),
        "pseudo_dice": [float(value) for value in log.get_value("dice_per_class_or_region", -1)],
        "network": type(network).__name__,
        "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "batch_size": int(trainer.batch_size),
        "patch_size": [int(n) for n in trainer.configuration_manager.patch_size],
        "peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20 if trainer.device.type == "cuda" else None,
        "output_folder": str(trainer.output_folder),
    }


def _stock_precision(trainer: Any) -> str:
    """Return what nnU-Net's own trainer computes in."""
    return "float16" if trainer.device.type == "cuda" else "float32"


def main(arguments: list[str] | None = None) -> None:
    """Train, validate where asked to, and write the outcome."""
    parser = argparse.ArgumentParser(prog="benchmarks.epochs_process", description=__doc__)
    for name in ("dataset", "configuration", "fold", "trainer", "plans", "device"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--outcome", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.fold != "all":
        options.fold = int(options.fold)
    if recipes.is_ours(options.trainer):
        limit_processes()  # as `hippo-nnunet train` does; nnU-Net does not
    trainer = make_trainer(options, set_up(options.device))
    trainer.run_training()
    found = outcome(trainer)
    if options.validate:
        trainer.perform_actual_validation(False)
        summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
        found["validation_dice"] = float(summary["foreground_mean"]["Dice"])
    write_json(options.outcome, found)


if __name__ == "__main__":
    main()
