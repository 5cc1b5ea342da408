"""How far a training is, read from the log that nnU-Net writes into the fold's folder."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.progress import seconds_per_epoch

_EPOCH = re.compile(r": Epoch (\d+) *$", re.MULTILINE)
_SECONDS = re.compile(r": Epoch time: ([\d.]+) s *$", re.MULTILINE)
_ENDED = re.compile(r": Training done\. *$", re.MULTILINE)


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands.

    Attributes:
        epoch: Epochs that are complete.
        epochs: All of them.
        epoch_seconds: Median of the last five; NaN before the first is complete.
        since_s: Seconds since the log's last line, when the current epoch began.
    """

    epoch: int
    epochs: int
    epoch_seconds: float
    since_s: float

    @property
    def validating(self) -> bool:
        """Whether all epochs are done, so that the validation is what is left."""
        return self.epoch >= self.epochs

    def left_s(self) -> float:
        """Return the expected seconds of the epochs that are left; NaN before the first is complete."""
        if self.validating:
            return 0.0
        current = min(self.since_s, self.epoch_seconds) if not math.isnan(self.epoch_seconds) else 0.0
        return (self.epochs - self.epoch) * self.epoch_seconds - current


def training_progress(fold_folder: Path, epochs: int) -> TrainingProgress | None:
    """Read the newest of nnU-Net's logs in a fold's folder that knows of an epoch.

    Args:
        fold_folder: nnU-Net's folder of the fold.
        epochs: Epochs of the whole training.

    Returns:
        The progress; None where no epoch has begun. A resumed training's seconds are those of its last part.
    """
    for path in sorted(fold_folder.glob("training_log_*.txt"), key=_started, reverse=True):
        try:
            text, modified = path.read_text(errors="replace"), path.stat().st_mtime
        except OSError:
            continue
        begun = [int(number) for number in _EPOCH.findall(text)]
        if not begun:
            continue
        seconds = [float(number) for number in _SECONDS.findall(text)]
        ended = bool(_ENDED.search(text))
        done = epochs if ended else begun[0] + len(seconds)
        return TrainingProgress(done, epochs, seconds_per_epoch(seconds), max(0.0, time.time() - modified))
    return None


def _started(path: Path) -> list[int]:
    """Return the time in the name of a log, of which nnU-Net writes months and days without leading zeros."""
    return [int(number) for number in re.findall(r"\d+", path.stem)]
