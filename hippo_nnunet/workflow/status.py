"""`run --status`: which jobs of an experiment are done, running, waiting or failed, and how long the rest will take.

Only reads files, so it works at any time and on any machine that mounts the experiment's folder.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.experiment import markers
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import DONE, ExperimentPaths
from hippo_nnunet.experiment.stale import stale_markers
from hippo_nnunet.nnunet.training_log import TrainingProgress
from hippo_nnunet.workflow import estimate, job_state
from hippo_nnunet.workflow.estimate import Remaining
from hippo_nnunet.workflow.job_state import JobState

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
        state: `done`, `running`, `failed`, `killed` (it ended without an error: killed, out of memory, power lost) or
            `waiting`.
        seconds: What a finished one took, or a running one has taken so far; None if unknown.
        left_s: Expected remaining seconds; NaN if unknown.
        left_from: Where `left_s` comes from: see `estimate`.
        host: Where it runs, or where it failed or was killed; None for the others.
        training: Progress of a training that has begun and is not done.
        message: Why it failed.
        log: Its log file, which need not exist.
        tail: Last lines of the log of a job that failed or was killed.
    """

    name: str
    state: str
    seconds: float | None
    left_s: float
    left_from: str
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
        run: What the last `run` recorded; None where there was none.
        jobs: In the order of the work.
        left_s: Expected seconds until everything is done; NaN where those of a training are unknown.
        problem: Why plans or split cannot be read, which the next `run` will refuse; None if they can.
    """

    folder: Path
    state: str
    run: JobState | None
    jobs: tuple[JobStatus, ...]
    left_s: float
    problem: str | None = None


def read_status(folder: Path, root: Path | None = None, check: bool = True) -> Status:
    """Read the status of an experiment; changes nothing.

    Args:
        folder: The experiment's folder, which need not exist.
        root: See `ExperimentPaths.nnunet`.
        check: Look for stale markers: a job whose results are gone is not done. `run` has done so when it starts.

    Raises:
        ConfigError: `experiment.yaml` does not describe an experiment.
    """
    folder = folder.expanduser().absolute()
    paths = ExperimentPaths(folder)
    if not paths.request.is_file():
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file; name the folder of an experiment")
        return Status(folder, NOT_STARTED, None, (), math.nan)
    experiment = Experiment.load(paths.request)
    run = job_state.read(job_state.state_file(folder, job_state.RUN))
    settings: Mapping[str, Any] = run.settings if run is not None else {}
    folders = paths.nnunet(root)
    stale: Collection[Path] = ()
    problem = None
    try:
        stale = stale_markers(experiment, folder, folders) if check else ()
    except DataError as error:
        problem = str(error)
    products = settings.get("products", markers.products_of(folders.raw / experiment.dataset, None))
    expected = dict.fromkeys(markers.all_markers(experiment, products))
    states = {marker: _state(folder, marker, marker in stale) for marker in expected}
    cells = [cell for cell in experiment.cells() if states[cell.marker][0] != DONE_STATE]
    running = [cell for cell in cells if states[cell.marker][0] == RUNNING]
    device = str(settings.get("device", ""))
    parallel = int(settings.get("parallel", 1))
    shared = estimate.sharing(parallel, settings.get("profile", "local"))
    left = estimate.remaining_trainings(experiment, cells, folders.results, device, running, shared)
    by_marker = {cell.marker: remaining for cell, remaining in left.items()}
    jobs = tuple(_job(folder, marker, *state, by_marker.get(marker)) for marker, state in states.items())
    trainings = [job.left_s for job in jobs if job.is_training]
    others = [job.left_s for job in jobs if not job.is_training]
    left_s = estimate.wall_clock_seconds(trainings, parallel, others)
    is_running = run is not None and job_state.is_alive(job_state.state_file(folder, job_state.RUN), run)
    job_states = {job.state for job in jobs}
    if is_running or running:
        state = RUNNING
    elif job_states == {DONE_STATE}:
        state = FINISHED
    else:
        state = FAILED if FAILED in job_states or (run is not None and run.failure is not None) else STOPPED
    return Status(folder, state, run, jobs, left_s, problem)


def _state(folder: Path, marker: Path, is_stale: bool) -> tuple[str, JobState | None]:
    path = job_state.state_file(folder, _name(marker))
    recorded = job_state.read(path)
    if recorded is not None and job_state.is_alive(path, recorded):
        return RUNNING, recorded
    if (folder / marker).exists() and not is_stale:
        return DONE_STATE, recorded
    if recorded is None:
        return WAITING, None
    if recorded.failure is not None:
        return FAILED, recorded
    return (KILLED if recorded.ended is None else WAITING), recorded


def _job(folder: Path, marker: Path, state: str, recorded: JobState | None, left: Remaining | None) -> JobStatus:
    name, seconds = _name(marker), None
    if state == DONE_STATE:
        seconds, left = estimate.job_seconds(folder, name), Remaining(0.0, estimate.MEASURED)
    elif state == RUNNING and recorded is not None:
        seconds = max(0.0, time.time() - recorded.started)
    left = left or estimate.remaining_of_job(folder, name, seconds or 0.0)
    log = ExperimentPaths(folder).logs / f"{name}.log"
    return JobStatus(
        name=name,
        state=state,
        seconds=seconds,
        left_s=left.seconds,
        left_from=left.source,
        host=recorded.host if recorded is not None and state in (RUNNING, FAILED, KILLED) else None,
        training=left.progress,
        message=recorded.failure if recorded is not None and state == FAILED else None,
        log=log,
        tail=tail(log) if state in (FAILED, KILLED) else (),
    )


def _name(marker: Path) -> str:
    return marker.relative_to(DONE).as_posix()


def tail(log: Path) -> tuple[str, ...]:
    """Return the last lines of a log that are not empty; none where there is no log.

    Of a line that was overwritten, as progress bars are, only the last state is kept; other control characters are
    removed.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    shown = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    clean = ("".join(c for c in line if c.isprintable() or c == "\t") for line in shown)
    return tuple(
        [line if len(line) <= LINE_LENGTH else f"{line[:LINE_LENGTH]}..." for line in clean if line][-TAIL_LINES:]
    )
