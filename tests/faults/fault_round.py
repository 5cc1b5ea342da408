"""A round: one copy of the experiment, what breaks it, and what gives back what was taken away."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fault_checks import trained
from fault_mounts import SmallDisk
from fault_world import Ended, Started, World, jobs_after, start, wait_until_alone

AT_WORK = ("fresh", "converted", "prepared", "half", "fold0", "trained", "ensembled", "predicted")
"""Stages at which there is something left to do."""
UNTRAINED = ("prepared", "half", "fold0")


@dataclass
class Round:
    """One copy of the experiment that is broken.

    Attributes:
        world: Where the copies come from.
        folder: The copy.
        draw: The round's own random numbers.
        stage: Drawn by the fault.
        notes: What was done, for the tally.
        before: Folds that were trained when the fault had happened: see `trained`.
        same_times: Whether their files have to keep their times, too.
        last: What the run said that the fault hit; None where the files were broken at rest.
        relieve: Gives back what the fault has taken away.
        options: Options of the next run; without them, it goes on with what it knows.
        resumes: Whether the fold that was hit has to go on from a checkpoint.
        runs: How many were started.
        workers: Worker processes of each pool in a run.
        disk: The file system that the copy has for itself.
    """

    world: World
    folder: Path
    draw: random.Random
    stage: str = ""
    notes: list[str] = field(default_factory=list)
    before: dict[str, tuple[str, int]] = field(default_factory=dict)
    same_times: bool = True
    last: Ended | None = None
    relieve: Callable[[], None] = lambda: None
    options: list[str] = field(default_factory=lambda: ["--device", "cpu"])
    resumes: bool = False
    runs: int = 0
    workers: int = 1
    disk: SmallDisk | None = None

    def take(self, *stages: str) -> None:
        """Copy the experiment at one of these stages."""
        self.stage = self.draw.choice(stages)
        self.world.copy(self.stage, self.folder)
        if self.stage == "fresh":
            self.options = self.world.request

    def start(self) -> Started:
        """Start a run."""
        self.runs += 1
        return start(self.folder, self.options, self.log(self.runs), self.workers)

    def log(self, name: object) -> Path:
        """Return a file for what a command prints; not on a disk that is full."""
        place = self.folder.parent if self.disk is None else self.disk.folder.parent
        return place / f"{name}.log"

    def span_s(self) -> float:
        """Return about how long a run takes from the round's stage, in seconds."""
        return self.world.whole_s * (1 - len(jobs_after(self.stage)) / (1.2 * len(jobs_after("finished"))))

    def settle(self, started: Started) -> None:
        """Wait until the run that was hit, and what it has left, has ended."""
        self.last = started.end()
        wait_until_alone(self.folder)
        self.before = trained(self.folder)


@dataclass(frozen=True)
class Fault:
    """One way to break it.

    Attributes:
        name: As in docs/reliability.md.
        strike: Breaks it.
        mounts: Whether it takes a file system of its own.
    """

    name: str
    strike: Callable[[Round], None]
    mounts: bool = False
