"""What a job says of itself while it runs: one small file per job, which `run --status` reads from any machine.

A file that does not say when the job ended is of a job that runs, or of one that was killed. On the job's own host its
process tells which of the two. Another host does not see that process: there the age of the file tells, which a running
job touches every `BEAT_S` seconds.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hippo_nnunet.experiment.paths import DONE

log = logging.getLogger(__name__)

FOLDER = DONE / "state"
"""Where the files lie, relative to the experiment's folder: named as the jobs' logs are below `logs`."""
RUN = FOLDER / "run.json"
"""The file of `run` itself."""
BEAT_S = 30.0
SILENT_S = 300.0
"""A job on another host that has not touched its file for so long counts as dead."""


@dataclass(frozen=True)
class JobState:
    """What a job's file says.

    Attributes:
        job: The job in words: `train UNet 2d fold 0`.
        log: Its log, relative to the experiment's folder; empty for `run` itself.
        host: Where it runs, or ran.
        pid: Its process there.
        command: Command line of that process, by which it is told from a later one of the same number.
        started: Seconds since the epoch.
        ended: The same; None while it runs, and for ever where it was killed.
        failure: Why it failed, in one line; None where it did not, or was killed.
        settings: What `run` was started with: device, parallel, nnU-Net's folders, products.
    """

    job: str
    log: str
    host: str
    pid: int
    command: tuple[str, ...]
    started: float
    ended: float | None = None
    failure: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


class Recorder:
    """Writes the file of a job that begins now, and keeps it fresh until the job ends.

    A file that cannot be written is a warning in the log: nothing that is computed depends on it.

    Args:
        path: The file.
        job: See `JobState`.
        log_file: See `JobState`.
        settings: See `JobState`.
    """

    def __init__(self, path: Path, job: str, log_file: str, settings: Mapping[str, Any] | None = None) -> None:
        self._path = path.absolute()
        self._state = JobState(
            job, log_file, socket.gethostname(), os.getpid(), _command_line(), time.time(), settings=settings or {}
        )
        self._write()
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def end(self, failure: str | None = None) -> None:
        """Say that the job has ended, and why where it failed."""
        self._ended.set()
        self._state = replace(self._state, ended=time.time(), failure=failure)
        self._write()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                os.utime(self._path)
            except OSError as error:
                log.debug("%s cannot be touched: %s", self._path, error)

    def _write(self) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(self._state)))
            temporary.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s): run --status will not see this job", self._path, error)


def state_file(marker: Path) -> Path:
    """Return the file of the job that makes a marker, both relative to the experiment's folder."""
    return FOLDER / f"{marker.relative_to(DONE).as_posix()}.json"


def marker_of(log_file: str) -> Path:
    """Return the marker of the job that writes a log, `logs/NAME.log`: `.done/NAME`."""
    return DONE / Path(*Path(log_file.removesuffix(".log")).parts[1:])


def read(path: Path) -> JobState | None:
    """Read a job's file; None where there is none that can be read."""
    try:
        content = json.loads(path.read_text())
        return JobState(**{**content, "command": tuple(content["command"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_alive(path: Path, state: JobState) -> bool:
    """Tell whether the job still runs: by its process on this host, by its file's age on another."""
    if state.ended is not None:
        return False
    if state.host != socket.gethostname():
        return time.time() - path.stat().st_mtime < SILENT_S
    import psutil

    try:
        process = psutil.Process(state.pid)
        return process.status() != psutil.STATUS_ZOMBIE and tuple(process.cmdline()) == state.command
    except psutil.AccessDenied:  # somebody else's process, on systems that hide its command
        return True
    except psutil.NoSuchProcess:
        return False


def forget_failures(folder: Path) -> None:
    """Delete the files of jobs that failed: a run that begins will try them again."""
    for path in (folder / FOLDER).rglob("*.json"):
        state = read(path)
        if state is not None and state.failure is not None:
            path.unlink()


def first_failure(folder: Path) -> JobState | None:
    """Return the job that failed first, or None."""
    states = [read(path) for path in (folder / FOLDER).rglob("*.json") if path != folder / RUN]
    failed = [state for state in states if state is not None and state.failure is not None]
    return min(failed, key=lambda state: state.ended or 0.0, default=None)


def _command_line() -> tuple[str, ...]:
    import psutil

    try:
        return tuple(psutil.Process().cmdline())
    except psutil.Error:
        return (sys.executable, *sys.argv)
