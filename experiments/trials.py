"""Trials of the short schedule's hyperparameters: `python experiments/trials.py trials.json --output log.jsonl`.

Each trial trains one fold with `UNetTrainer`'s engine (data in memory, augmentation, loss, AdamW and one cycle) and
changed hyperparameters, and appends one JSON line: the trial, its mean foreground Dice on the fold's validation cases
(of the last weights and of their moving averages), and its seconds. nnU-Net's variables say where the preprocessed
dataset is; only the plans' preprocessing is used, so one set of plans serves all trials.

The file with the trials is a list of objects, whose keys are the fields of `Trial`; missing ones keep their default,
and a list under `fold` or `seed` stands for one trial each.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import time
import zipfile
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

AVERAGES = (0.995, 0.999)
"""Decays of the moving averages of the weights that are evaluated beside the last weights."""


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        name: The configuration's name in the log.
        fold: Of the split beside the preprocessed data.
        seed: Of initialisation, sampling and augmentation.
        configuration: `2d` or `3d_fullres`.
        plans: Name of the plans.
        features: Features of each stage.
        batch: Batch size.
        steps: Length.
        rate: Highest learning rate of the cycle.
        decay: AdamW's weight decay.
        dropout: Probability of spatial dropout after each convolution.
        oversample: Share of a batch that is centred on foreground; None for nnU-Net's.
        mirror: Spatial axes that are mirrored in training and prediction.
        strength: Factor of the ranges and probabilities of the short schedule's augmentation.
        patch: Patch in voxels; None for the plans'.
        slices: Adjacent slices that a 2D network sees: 1, 3, 5 or 7.
        convolutions: Convolutions of each stage of the encoder; the decoder has as many.
        mode: Name of the training step's mode.
        teachers: Pattern of model folders below nnUNet_results; the networks of the same fold in them, averaged, teach.
        ahead: Batches that are drawn at once, which halves the host's work for a small network on a GPU.
    """

    name: str
    fold: int = 1
    seed: int = 0
    configuration: str = "3d_fullres"
    plans: str = "nnUNetPlans"
    features: tuple[int, ...] = (16, 32, 64, 128)
    batch: int = 2
    steps: int = 4000
    rate: float = 2e-3
    decay: float = 1e-2
    dropout: float = 0.0
    oversample: float | None = None
    mirror: tuple[int, ...] = ()
    strength: float = 1.0
    patch: tuple[int, ...] | None = None
    slices: int = 1
    convolutions: int = 2
    mode: str = "eager"
    teachers: str = ""
    ahead: int = 1


def trials_of(document: list[dict[str, Any]]) -> list[Trial]:
    """Return the trials that a file describes, each fold and seed one."""
    found = []
    for entry in document:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
        common = Trial(**values)
        folds, seeds = (value if isinstance(value, tuple) else (value,) for value in (common.fold, common.seed))
        found += [replace(common, fold=fold, seed=seed) for seed, fold in product(seeds, folds)]
    return found


def changed_plans(plans: dict[str, Any], trial: Trial) -> dict[str, Any]:
    """Return nnU-Net's plans with the trial's network, batch and patch."""
    configuration = dict(plans["configurations"][trial.configuration])
    architecture = dict(configuration["architecture"])
    stages = len(trial.features)
    arguments = architecture["arch_kwargs"] | {
        "n_stages": stages,
        "features_per_stage": list(trial.features),
        "n_conv_per_stage": [trial.convolutions] * stages,
        "n_conv_per_stage_decoder": [trial.convolutions] * (stages - 1),
    }
    for key in ("kernel_sizes", "strides"):
        arguments[key] = (arguments[key] + arguments[key][-1:] * stages)[:stages]
    if trial.dropout:
        dim = len(configuration["patch_size"])
        arguments |= {"dropout_op": f"torch.nn.Dropout{dim}d", "dropout_op_kwargs": {"p": trial.dropout}}
    architecture["arch_kwargs"] = arguments
    configuration |= {"architecture": architecture, "batch_size": trial.batch}
    if trial.patch is not None:
        configuration["patch_size"] = list(trial.patch)
    return plans | {"configurations": plans["configurations"] | {trial.configuration: configuration}}


def scaled(spec: Any, strength: float) -> Any:
    """Return an augmentation with its ranges widened, or narrowed, about the identity; probabilities at most 0.8."""
    changed = {}
    for name in ("rotation", "scaling", "noise", "brightness", "contrast", "gamma"):
        operation = getattr(spec, name)
        low, high = operation.bounds
        additive = name in ("rotation", "noise")  # the others are factors: the range of the logarithm is scaled
        bounds = (low * strength, high * strength) if additive else (low**strength, high**strength)
        changed[name] = replace(operation, p=min(0.8, operation.p * strength), bounds=bounds)
    return replace(spec, **changed)


def train(trial: Trial, device: str, probabilities: Path | None) -> dict[str, Any]:
    """Train and evaluate.

    Args:
        trial: The training.
        device: `cpu` or `cuda`.
        probabilities: Zip archive that gets the last weights' probabilities of the validation cases, as 8-bit integers;
            None for none.
    """
    import torch

    started = time.monotonic()
    trainer = make_trainer(trial, torch.device(device))
    parameters = list(trainer.network.parameters())
    weights = {"last": parameters} | {str(decay): [p.detach().clone() for p in parameters] for decay in AVERAGES}
    loaded = time.monotonic()
    losses = []
    for step in range(trial.steps):
        part = step % trial.ahead
        if part == 0:
            drawn = next(trainer.dataloader_train)
        losses.append(trainer.train_step(part_of(drawn, part, trial.ahead))["loss"])
        trainer.record.epoch_outputs.clear()
        with torch.no_grad():
            for decay in AVERAGES:
                share = 1 - min(decay, (1 + step) / (10 + step))
                torch._foreach_lerp_(weights[str(decay)], parameters, share)
    loss = torch.stack(losses[-100:]).mean().item()
    trained = time.monotonic()
    found = evaluate(trainer, weights, trial, probabilities)
    return {
        **asdict(trial),
        **found,
        "loss": round(loss, 4),
        "parameters": sum(p.numel() for p in parameters),
        "s_load": round(loaded - started, 1),
        "s_train": round(trained - loaded, 1),
        "s_evaluate": round(time.monotonic() - trained, 1),
    }


def make_trainer(trial: Trial, device: Any) -> Any:
    """Return a trainer with the trial's hyperparameters, ready for its first step; it writes no checkpoints."""
    import torch
    from nnunetv2.paths import nnUNet_preprocessed

    from hippo_nnunet.files import read_object
    from hippo_nnunet.trainers import UNetTrainer
    from hippo_nnunet.training.augmentation_spec import SHORT_SCHEDULE
    from hippo_nnunet.training.recipes import parse
    from hippo_nnunet.training.step import COMPILE_VARIABLE, step_modes

    seen = f"{trial.slices}slices_" if trial.slices > 1 else ""

    class TrialTrainer(UNetTrainer):
        recipe = parse(f"UNetTrainer_{seen}fast_1epochs_{trial.steps}iters")

        def _mirror_axes(self) -> tuple[int, ...]:
            return trial.mirror

        def _augmentation(self) -> Any:
            return replace(scaled(SHORT_SCHEDULE, trial.strength), mirror_axes=trial.mirror)

        def configure_optimizers(self) -> tuple[Any, Any]:
            self.schedule = replace(self.schedule, max_lr=trial.rate, weight_decay=trial.decay)
            return super().configure_optimizers()

    folder = next(Path(str(nnUNet_preprocessed)).glob("Dataset004_*"))
    plans = changed_plans(read_object(folder / f"{trial.plans}.json"), trial) | {"continue_training": False}
    trainer = TrialTrainer(plans, trial.configuration, trial.fold, read_object(folder / "dataset.json"), device)
    trainer.seed, trainer.disable_checkpointing = trial.seed, True
    trainer.print_to_log_file = lambda *_args, **_kwargs: None
    torch.backends.cudnn.benchmark = device.type == "cuda"
    os.environ[COMPILE_VARIABLE] = "f"
    trainer.initialize()
    if trial.oversample is not None:
        trainer.oversample_foreground_percent = trial.oversample
    trainer.batch_size *= trial.ahead
    trainer.on_train_start()
    mode = next(m for m in step_modes(trainer.device) if m.name == trial.mode)
    if trial.teachers:
        learn_from_teachers(trainer, trial)
    trainer.set_step_mode(mode)
    trainer.network.train()
    return trainer


def learn_from_teachers(trainer: Any, trial: Trial) -> None:
    """Let the training step learn from other networks, too: see `hippo_nnunet.training.distillation`."""
    from nnunetv2.paths import nnUNet_results

    from hippo_nnunet.nnunet.trust import read_checkpoint
    from hippo_nnunet.training.distillation import Teachers

    dataset = trainer.plans_manager.dataset_name
    files = sorted(Path(str(nnUNet_results), dataset).glob(f"{trial.teachers}/fold_{trial.fold}/checkpoint_final.pth"))
    if not files:
        raise SystemExit(f"{trial.name}: no network of fold {trial.fold} in {trial.teachers}")
    networks = [copy.deepcopy(trainer.network) for _ in files]
    for network, file in zip(networks, files, strict=True):
        network.load_state_dict(read_checkpoint(file)["network_weights"])
    trainer._teachers = Teachers(networks)


def evaluate(trainer: Any, weights: dict[str, Any], trial: Trial, probabilities: Path | None) -> dict[str, Any]:
    """Return the Dice of each label and their mean on the validation cases, for each set of weights."""
    import numpy as np
    import torch

    from hippo_nnunet.inference.batched_predictor import BatchedPredictor
    from hippo_nnunet.inference.sliding_window import PreprocessedImage
    from hippo_nnunet.nnunet.memory_cases import read_case

    trainer.set_deep_supervision_enabled(False)
    _, keys = trainer.do_split()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, keys)
    cases = [read_case(dataset, key)[:2] for key in keys]
    result: dict[str, Any] = {}
    for name, values in weights.items():  # the last weights first: the averages then overwrite them
        with torch.no_grad():
            for parameter, value in zip(trainer.network.parameters(), values, strict=True):
                parameter.copy_(value)
        predictor = BatchedPredictor.of_trainer(trainer)  # a new one: OpenVINO keeps the weights that it compiled
        images = [PreprocessedImage(torch.from_numpy(image.astype(np.float32))) for image, _ in cases]
        dice, kept = [], {}
        for key, (_, labels), logits in zip(keys, cases, predictor.predict_images(images), strict=True):
            reference, predicted = torch.from_numpy(np.asarray(labels[0])), logits.argmax(0)
            dice.append([_dice(predicted == label, reference == label) for label in (1, 2)])
            kept[key] = (torch.softmax(logits, 0)[1:] * 255).round().to(torch.uint8).numpy()
        result[name] = [round(float(value), 5) for value in np.mean(dice, 0)]
        result[f"{name} mean"] = round(float(np.mean(dice)), 5)
        if name == "last":
            result["cases"] = {key: [round(d, 4) for d in row] for key, row in zip(keys, dice, strict=True)}
            if probabilities is not None:
                _store(probabilities, trial, kept)
    return result


def part_of(batch: dict[str, Any], part: int, parts: int) -> dict[str, Any]:
    """Return every `parts`-th sample of a batch, so that foreground patches are spread evenly."""

    def of(value: Any) -> Any:
        return [of(scale) for scale in value] if isinstance(value, list) else value[part::parts].contiguous()

    return {"data": of(batch["data"]), "target": of(batch["target"])}


def _dice(first: Any, second: Any) -> float:
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def _store(archive: Path, trial: Trial, cases: dict[str, Any]) -> None:
    import numpy as np

    buffer = BytesIO()
    np.savez_compressed(buffer, **cases)
    entry = f"{trial.name}_fold{trial.fold}_seed{trial.seed}.npz"
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(entry, buffer.getvalue())


def _run(job: tuple[Trial, str, Path | None]) -> dict[str, Any]:
    trial, device, folder = job
    archive = folder / f"probabilities_{os.getpid()}.zip" if folder is not None else None
    try:
        return train(trial, device, archive)
    except Exception as error:  # one trial that fails does not end the others
        import traceback

        traceback.print_exc()
        return {**asdict(trial), "error": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    """Run the trials of a file that the log does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--probabilities", type=Path, help="folder for the validation cases' probabilities")
    arguments = parser.parse_args()
    done = set()
    if arguments.output.exists():
        done = {(r["name"], r["fold"], r["seed"]) for r in map(json.loads, arguments.output.read_text().splitlines())}
    jobs = [
        (trial, arguments.device, arguments.probabilities)
        for trial in trials_of(json.loads(arguments.trials.read_text()))
        if (trial.name, trial.fold, trial.seed) not in done
    ]
    if arguments.probabilities is not None:
        arguments.probabilities.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.jobs) as pool, arguments.output.open("a") as log:
        for row in pool.imap_unordered(_run, jobs):
            log.write(json.dumps(row) + "\n")
            log.flush()
            shown = {k: row[k] for k in ("name", "fold", "seed", "last mean", "s_train", "error") if k in row}
            print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
