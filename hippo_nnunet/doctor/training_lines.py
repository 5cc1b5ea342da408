"""The lines of the training check for a device; torch-free, because the worker's parent imports them too."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from hippo_nnunet.doctor.isolation import Check
from hippo_nnunet.doctor.training_data import CONFIGURATIONS
from hippo_nnunet.doctor.training_spec import (
    CHANNELS_LAST,
    COMPILED,
    COMPILED_LAST,
    EAGER,
    GRAPHS,
    GRAPHS_LAST,
    ON_CUDA,
    Settings,
    Training,
)

NEEDS_CUDA = "needs CUDA"
NEEDS_TWO = "needs two CUDA devices"
QUICK = "left out of the quick check"
COMPILED_WHEN_QUICK = {"cpu": ("UNet 2d",), "cuda": ("UNet 2d", "CLIPGuidedUNet cached 3d_fullres")}
"""Trainings that the quick check compiles, by device."""

NETWORKS = {
    "UNet": "UNetTrainer",
    "AttentionUNet": "AttentionUNetTrainer_fast",
    "CLIPGuidedUNet cached": "CLIPGuidedUNetTrainer_mini_fast",
    "CLIPGuidedUNet live": "CLIPGuidedUNetTrainer_live_mini_fast",
}
"""The first with nnU-Net's SGD and augmentation, the others with AdamW and the short schedule's augmentation."""


def lines(settings: Settings) -> list[Check]:
    """Return the lines for a device, in order; those that cannot run there say why."""
    trainings = [Training(name, base, c) for name, base in NETWORKS.items() for c in CONFIGURATIONS]
    found = [Check("dataset: synthesise, convert, plan, preprocess", _action("prepare", settings), essential=True)]

    def add(training: Training, what: str, action: str, *arguments: object, missing: str = "", group: str = "") -> None:
        run = _action(action, settings, training, *arguments)
        found.append(Check(what, run, missing, group=group or training.title))

    for training in trainings:
        add(training, f"{training.title}: eager, validate", "train")
        add(training, f"{training.title}: predict", "compare_predictions")
        for modes in _relays(settings, training):
            name = f"{training.title}: {', then '.join(modes)}"
            add(training, name, "relay", modes, missing=_missing(settings, training, modes))
    unet, cuda = trainings[0], _cuda(settings)
    add(unet, "predict from files", "predict_files")
    add(unet, "fastest mode measured", "measure_modes", missing=_missing(settings, unet), group="modes")
    for training in trainings[:6]:
        add(training, f"{training.title}: same seed twice", "repeat", missing=_missing(settings, training))
    for training in (trainings[0], trainings[1], trainings[4], trainings[5]):
        add(training, f"{training.title}: steps do not wait for the GPU", "step_without_waiting", missing=cuda)
    add(unet, "CPU: bfloat16, resumed in float32", "change_precision", group="resume")
    add(unet, "GPU's training resumed on the CPU", "change_device", missing=cuda, group="resume")
    add(trainings[2], "two trainings at once", "train_two", group="resume")
    two = NEEDS_TWO if settings.gpus < 2 else cuda
    add(trainings[2], "one training on two GPUs", "train_distributed", missing=two, group="resume")
    return found


def _action(name: str, *arguments: object) -> Callable[[], str]:
    """Return a call of a function of `training_actions`, which imports torch and nnU-Net."""

    def run() -> str:
        result: str = getattr(import_module("hippo_nnunet.doctor.training_actions"), name)(*arguments)
        return result

    return run


def _relays(settings: Settings, training: Training) -> list[tuple[str, str]]:
    """Return pairs of modes: one training is interrupted in the first and resumed in the second."""
    if training.live:
        return [(CHANNELS_LAST, EAGER), (GRAPHS, EAGER)]
    relays = [(CHANNELS_LAST, EAGER), (EAGER, CHANNELS_LAST)]
    if not settings.cuda:
        relays.append((COMPILED_LAST, EAGER))
    return [*relays, (GRAPHS_LAST, EAGER), (EAGER, GRAPHS), (COMPILED, COMPILED_LAST)]


def _cuda(settings: Settings) -> str:
    return "" if settings.cuda else NEEDS_CUDA


def _missing(settings: Settings, training: Training, modes: tuple[str, ...] = ()) -> str:
    """Return why a line is not run; empty if it is."""
    if not settings.cuda and any(mode in ON_CUDA for mode in modes):
        return NEEDS_CUDA
    if not settings.quick:
        return ""
    if not modes:
        return "" if training.configuration == "2d" else QUICK
    compiled = any(mode not in (EAGER, CHANNELS_LAST) for mode in modes)
    first = modes in ((COMPILED_LAST, EAGER), (GRAPHS_LAST, EAGER))
    return QUICK if compiled and not (first and training.title in COMPILED_WHEN_QUICK[settings.device]) else ""
