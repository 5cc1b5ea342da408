"""`run --status`: what of an experiment is done, running, waiting, failed, and how long the rest will take.

Reads files only, so that it can be asked at any time and from any machine that sees the experiment's folder.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.experiment import markers, stale
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import DONE, ExperimentPaths
from hippo_nnunet.nnunet.paths import NnunetFolders, folders_for
from hippo_nnunet.workflow import job_state
from hippo_nnunet.workflow.job_state import JobState
from hippo_nnunet.workflow.time_left import Left, job_seconds, other_left, progress_of, together, trainings_left
from hippo_nnunet.workflow.training_progress import TrainingProgress

DONE_STATE, RUNNING, FAILED, KILLED, WAITING = "done", "running", "failed", "killed", "waiting"
NOT_STARTED, STOPPED, FINISHED = "not started", "stopped", "finished"
TAIL_LINES = 8
TAIL_BYTES = 20_000
LINE_LENGTH = 200


@dataclass(frozen=True)
class JobStatus:
    """One job.

    Attributes:
        name: Path of its marker below `.done`: `train/UNet/2d/fold_0`.
        state: `done`, `running`, `failed`, `killed` (it ended without a word: killed, out of memory, power lost) or
            `waiting`.
        seconds: What a finished one took, or a running one has taken so far; None where that is not known.
        left: Expected seconds that are left.
        host: Where it runs, ran or failed; None for the others.
        training: How far a training is that has begun and is not done.
        message: Why it failed.
        log: Its log file, which need not exist.
        tail: Last lines of the log of a job that failed or was killed.
    """

    name: str
    state: str
    seconds: float | None
    left: Left
    host: str | None
    training: TrainingProgress | None
    message: str | None
    log: Path
    tail: tuple[str, ...]

    @property
    def is_training(self) -> bool:
        """Whether this trains a fold."""
        return self.name.startswith("train/")


@dataclass(frozen=True)
class Status:
    """The whole experiment.

    Attributes:
        folder: Its folder.
        state: `not started`, `running`, `failed`, `stopped` (what is missing waits for another `run`) or `finished`.
        run: What the last `run` said of itself; None where none did.
        jobs: In the order of the work.
        left_s: Expected seconds of everything that is left; NaN where a training's are unknown.
        problem: What of plans or split cannot be read, which the next `run` will refuse; None if nothing.
    """

    folder: Path
    state: str
    run: JobState | None
    jobs: tuple[JobStatus, ...]
    left_s: float
    problem: str | None = None

    def count(self, state: str) -> int:
        """Return the number of jobs in a state."""
        return sum(job.state == state for job in self.jobs)


def read_status(folder: Path, root: Path | None = None) -> Status:
    """Look at an experiment; changes nothing.

    Args:
        folder: The experiment's folder, which need not exist.
        root: nnU-Net's root folder; None: the folders that the last `run` used, else nnU-Net's variables, else
            `nnunet` in the folder.

    Raises:
        ConfigError: `experiment.yaml` does not describe an experiment.
    """
    folder = folder.expanduser().absolute()
    if not ExperimentPaths(folder).request.is_file():
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file; name the folder of an experiment")
        return Status(folder, NOT_STARTED, None, (), math.nan)
    experiment = Experiment.load(ExperimentPaths(folder).request)
    run = job_state.read(folder / job_state.RUN)
    settings: Mapping[str, Any] = run.settings if run is not None else {}
    folders = _folders(folder, root, settings)
    raw = folders.raw / experiment.dataset
    products = settings["products"] if "products" in settings else markers.products_of(raw, None)
    lost, problem = _lost(experiment, folder, folders)
    every = dict.fromkeys(markers.all_markers(experiment, products))
    states = {marker: _state(folder, marker, marker in lost) for marker in every}
    cells = {cell.marker: cell for cell in experiment.cells()}
    running = [cells[m] for m, (state, _) in states.items() if state == RUNNING and m in cells]
    left = trainings_left(experiment, folder, folders.results, str(settings.get("device", "")), running)
    jobs = []
    for marker, (state, said) in states.items():
        cell = cells.get(marker)
        training = None
        if cell is not None and state != DONE_STATE:
            training = progress_of(experiment, cell, folders.results)
        jobs.append(_job(folder, marker, state, said, left.get(cell) if cell is not None else None, training))
    is_running = (run is not None and job_state.is_alive(folder / job_state.RUN, run)) or bool(running)
    return Status(folder, _overall(is_running, run, jobs), run, tuple(jobs), _total(jobs, settings), problem)


def _lost(experiment: Experiment, folder: Path, folders: NnunetFolders) -> tuple[set[Path], str | None]:
    """Return the markers that lie, and what kept this from finding out."""
    try:
        return set(stale.stale_markers(experiment, folder, folders)), None
    except DataError as error:
        return set(), str(error)


def _folders(folder: Path, root: Path | None, settings: Mapping[str, Any]) -> NnunetFolders:
    if root is not None:
        return folders_for(root, {})
    if settings.get("folders"):
        return NnunetFolders(*map(Path, settings["folders"]))
    return folders_for(folder / "nnunet")


def _state(folder: Path, marker: Path, is_lost: bool) -> tuple[str, JobState | None]:
    path = folder / job_state.state_file(marker)
    said = job_state.read(path)
    if said is not None and job_state.is_alive(path, said):
        return RUNNING, said
    if (folder / marker).exists() and not is_lost:
        return DONE_STATE, said
    if said is None:
        return WAITING, None
    if said.failure is not None:
        return FAILED, said
    return (KILLED if said.ended is None else WAITING), said


def _job(
    folder: Path, marker: Path, state: str, said: JobState | None, left: Left | None, training: TrainingProgress | None
) -> JobStatus:
    name = marker.relative_to(DONE).as_posix()
    log = ExperimentPaths(folder).logs / f"{name}.log"
    seconds = None
    if state == RUNNING and said is not None:
        seconds = max(0.0, time.time() - said.started)
    elif state == DONE_STATE:
        seconds = job_seconds(folder, name)
        left = Left(0.0, "measured")
    if left is None:
        left = other_left(folder, name, seconds or 0.0)
    ended_badly = state in (FAILED, KILLED)
    return JobStatus(
        name=name,
        state=state,
        seconds=seconds,
        left=left,
        host=said.host if said is not None and state in (RUNNING, FAILED, KILLED) else None,
        training=training,
        message=said.failure if said is not None and state == FAILED else None,
        log=log,
        tail=tail(log) if ended_badly else (),
    )


def _overall(is_running: bool, run: JobState | None, jobs: list[JobStatus]) -> str:
    if is_running:
        return RUNNING
    if all(job.state == DONE_STATE for job in jobs):
        return FINISHED
    failed = any(job.state == FAILED for job in jobs) or (run is not None and run.failure is not None)
    return FAILED if failed else STOPPED


def _total(jobs: list[JobStatus], settings: Mapping[str, Any]) -> float:
    trainings = [job.left.seconds for job in jobs if job.is_training]
    others = [job.left.seconds for job in jobs if not job.is_training]
    return together(trainings, others, int(settings.get("parallel", 1)))


def tail(log: Path, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """Return the last lines of a log that say something; none where there is no log.

    A line that was drawn over itself, as progress bars are, comes as it looked last; other control characters go.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    shown = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    clean = ("".join(c for c in line if c.isprintable() or c == "\t") for line in shown)
    return tuple([line if len(line) <= LINE_LENGTH else f"{line[:LINE_LENGTH]}..." for line in clean if line][-lines:])
