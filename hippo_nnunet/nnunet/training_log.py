"""The curves of a training, from the text that nnU-Net writes while it trains; no checkpoint is unpickled for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PATTERN = "training_log_*.txt"
"""nnU-Net's file, one for each start of the training; its name ends with the date and time of that start."""

_STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?: (.*?)\s*$")
_NUMBER = re.compile(r"(?:float\d*\()?(nan|-?\d+(?:\.\d*)?(?:e[+-]?\d+)?)\)?", re.IGNORECASE)
_LOSSES = ("train_loss", "val_loss")


@dataclass
class Curves:
    """One value an epoch; NaN where an epoch has none (such as the pseudo-Dice of labels that no patch held).

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


def read_curves(fold: Path) -> Curves | None:
    """Read the curves of one fold.

    A training that was interrupted has a file for each part; an epoch that was begun twice counts once, as it ended.

    Args:
        fold: nnU-Net's folder `fold_X`.

    Returns:
        The curves; None where no file there holds a finished epoch.

    Source:
        nnU-Net 2.8, `nnUNetTrainer.on_epoch_end`: `Epoch`, `train_loss`, `val_loss` and `Pseudo dice`, each in a line
        with a time stamp, rounded to four decimals.
    """
    epochs: dict[int, dict[str, float]] = {}
    for path in sorted(fold.glob(PATTERN), key=_started):
        found = dict(_epochs(path))
        if found:
            first = min(found)
            epochs = {number: values for number, values in epochs.items() if number < first} | found
    if not epochs:
        return None
    curves = Curves()
    for number in sorted(epochs):
        values = epochs[number]
        curves.epochs.append(number)
        curves.train_loss.append(values.get("train_loss", np.nan))
        curves.val_loss.append(values.get("val_loss", np.nan))
        curves.pseudo_dice.append(values.get("pseudo_dice", np.nan))
    return curves


def _started(path: Path) -> list[int]:
    """The date and time in a log's name, whose months and days have no leading zeros."""
    return [int(number) for number in re.findall(r"\d+", path.stem)]


def _epochs(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield number and values of every epoch that has some."""
    number: int | None = None
    values: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        stamped = _STAMP.match(line)
        text = stamped[1] if stamped else ""
        begun = re.fullmatch(r"Epoch (\d+)", text)
        if begun:
            if number is not None and values:
                yield number, values
            number, values = int(begun[1]), {}
            continue
        word, _, rest = text.partition(" ")
        if word in _LOSSES and _numbers(rest):
            values[word] = _numbers(rest)[0]
        elif text.startswith("Pseudo dice "):
            per_label = np.asarray(_numbers(text.removeprefix("Pseudo dice ")))
            measured = per_label[~np.isnan(per_label)]
            values["pseudo_dice"] = float(measured.mean()) if len(measured) else np.nan
    if number is not None and values:
        yield number, values


def _numbers(text: str) -> list[float]:
    """Return the numbers in `0.5`, `[0.5, nan]` or `[np.float32(0.5), np.float32(nan)]`."""
    return [float(found) for found in _NUMBER.findall(text.replace("np.", ""))]
