"""Curves and progress of a training, read from nnU-Net's text log; no checkpoint is unpickled for them.

Source: nnU-Net 2.8, `nnUNetTrainer.on_epoch_end`: `Epoch`, `train_loss`, `val_loss`, `Pseudo dice` and `Epoch time`,
each on a line with a time stamp, rounded to four decimals.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hippo_nnunet.progress import seconds_per_epoch

PATTERN = "training_log_*.txt"
"""nnU-Net's file, one for each start of the training; its name ends with the date and time of that start."""

_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?: (.*?)\s*$")
_VALUE = re.compile(r"(Epoch(?= \d)|train_loss|val_loss|Pseudo dice|Epoch time:) (.*)")
_NUMBER = re.compile(r"(?:float\d*\()?(nan|-?\d+(?:\.\d*)?(?:e[+-]?\d+)?)\)?", re.IGNORECASE)


@dataclass
class Curves:
    """One value per epoch; NaN if an epoch has none (such as the pseudo-Dice of labels that no patch held).

    Attributes:
        epochs: Numbers of the epochs, from 0.
        train_loss: nnU-Net's loss on the training patches.
        val_loss: The same on the validation patches.
        pseudo_dice: Dice over the validation patches, mean of the labels; not a Dice of whole cases.
    """

    epochs: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    pseudo_dice: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is.

    Attributes:
        epoch: Completed epochs.
        epochs: Epochs of the whole training.
        epoch_seconds: Median of the last five; NaN before the first is complete.
        since_s: Seconds since the log's last line, when the current epoch began.
    """

    epoch: int
    epochs: int
    epoch_seconds: float
    since_s: float

    @property
    def validating(self) -> bool:
        """Whether all epochs are complete, so that only the validation is left."""
        return self.epoch >= self.epochs

    def left_s(self) -> float:
        """Return the expected seconds of the remaining epochs; NaN before the first is complete."""
        if self.validating:
            return 0.0
        current = 0.0 if math.isnan(self.epoch_seconds) else min(self.since_s, self.epoch_seconds)
        return (self.epochs - self.epoch) * self.epoch_seconds - current


def read_curves(fold: Path) -> Curves | None:
    """Read the curves of one fold.

    An interrupted training has a file for each part; for an epoch that was started twice, the later values count.

    Args:
        fold: nnU-Net's folder `fold_X`.

    Returns:
        The curves; None if no file there holds a finished epoch.
    """
    epochs: dict[int, dict[str, float]] = {}
    for path in _logs(fold):
        found = {number: values for number, values in _read(path)[0].items() if values}
        if found:
            first = min(found)
            epochs = {number: values for number, values in epochs.items() if number < first} | found
    if not epochs:
        return None
    curves = Curves(sorted(epochs))
    for number in curves.epochs:
        for name in ("train_loss", "val_loss", "pseudo_dice"):
            getattr(curves, name).append(epochs[number].get(name, math.nan))
    return curves


def read_progress(fold: Path, epochs: int) -> TrainingProgress | None:
    """Read how far a training is from the newest log that knows an epoch.

    Args:
        fold: nnU-Net's folder `fold_X`.
        epochs: Epochs of the whole training.

    Returns:
        The progress; None if no epoch has begun. The seconds of a resumed training are those of its last part.
    """
    for path in reversed(_logs(fold)):
        try:
            (started, ended), modified = _read(path), path.stat().st_mtime
        except OSError:
            continue
        if started:
            seconds = [values["seconds"] for values in started.values() if "seconds" in values]
            complete = epochs if ended else min(started) + len(seconds)
            return TrainingProgress(complete, epochs, seconds_per_epoch(seconds), max(0.0, time.time() - modified))
    return None


def _logs(fold: Path) -> list[Path]:
    """Return the logs in the order of their start; their names have no leading zeros in months and days."""
    return sorted(fold.glob(PATTERN), key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)])


def _read(path: Path) -> tuple[dict[int, dict[str, float]], bool]:
    """Return the logged values of every epoch that has begun, by its number, and whether the training has ended."""
    epochs: dict[int, dict[str, float]] = {}
    values: dict[str, float] = {}
    ended = False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        stamped = _LINE.match(line)
        text = stamped[1] if stamped else ""
        ended = ended or text == "Training done."
        found = _VALUE.fullmatch(text)
        numbers = _numbers(found[2]) if found else []
        if not found or not numbers:
            continue
        if found[1] == "Epoch":
            values = epochs.setdefault(int(numbers[0]), {})
        elif found[1] == "Epoch time:":
            values["seconds"] = numbers[0]
        elif found[1] == "Pseudo dice":
            measured = [value for value in numbers if not math.isnan(value)]
            values["pseudo_dice"] = float(np.mean(measured)) if measured else math.nan
        else:
            values[found[1]] = numbers[0]
    return epochs, ended


def _numbers(text: str) -> list[float]:
    """Return the numbers in `0.5`, `[0.5, nan]` or `[np.float32(0.5), np.float32(nan)]`."""
    return [float(found) for found in _NUMBER.findall(text.replace("np.", ""))]
