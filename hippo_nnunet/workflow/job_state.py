"""The state of a job: one small file per job, which `run --status` reads from any machine.

A file without an end belongs to a job that is running, or to one that was killed. On the job's own host its process
tells which. Another host cannot see that process: there the file's age decides, because a running job touches its file
every `HEARTBEAT_S` seconds.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from hippo_nnunet.experiment.paths import STATE
from hippo_nnunet.files import write_json

log = logging.getLogger(__name__)

RUN = "run"
"""Name of the state of `run` itself."""
HEARTBEAT_S = 30.0
SILENT_S = 300.0
"""A job on another host that has not touched its file for so long counts as dead."""


@dataclass(frozen=True)
class JobState:
    """Content of a job's state file.

    Attributes:
        job: The job in words: `train UNet 2d fold 0`.
        log: Its log, relative to the experiment's folder; empty for `run` itself.
        host: Where it runs, or ran.
        pid: Its process there.
        command: Command line of that process, which distinguishes it from a later process with the same id.
        started: Seconds since the epoch.
        ended: The same; None while it runs, and after it was killed.
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


@contextmanager
def recorded(
    folder: Path,
    name: str,
    description: str,
    explain: Callable[[BaseException], str],
    settings: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Keep the state file of the job that the block runs, and record how it ends.

    A file that cannot be written is a warning in the log: no result depends on it.

    Args:
        folder: The experiment's folder.
        name: The job's name, as its log is named below `logs`; RUN for `run` itself.
        description: See `JobState.job`.
        explain: Returns in one line why the job failed.
        settings: See `JobState`.
    """
    path = state_file(folder, name)
    command = tuple(psutil.Process().cmdline())
    log_file = "" if name == RUN else f"logs/{name}.log"
    host, pid = socket.gethostname(), os.getpid()
    state = JobState(description, log_file, host, pid, command, time.time(), settings=settings or {})
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            try:
                os.utime(path)
            except OSError as error:
                log.debug("%s cannot be touched: %s", path, error)

    _write(path, state)
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        _write(path, replace(state, ended=time.time(), failure=explain(error)))
        raise
    else:
        _write(path, replace(state, ended=time.time()))
    finally:
        ended.set()


def _write(path: Path, state: JobState) -> None:
    try:
        write_json(path, asdict(state), indent=None)
    except OSError as error:
        log.warning("%s cannot be written (%s): run --status will not see this job", path, error)


def state_file(folder: Path, name: str) -> Path:
    """Return the state file of a job of an experiment, named as its log is below `logs`."""
    return folder / STATE / f"{name}.json"


def read(path: Path) -> JobState | None:
    """Read a state file; None if it is missing or cannot be read."""
    try:
        content = json.loads(path.read_text())
        state = JobState(**{**content, "command": tuple(content["command"])})
        int(state.settings.get("parallel", 1))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return state


def is_alive(path: Path, state: JobState) -> bool:
    """Tell whether a job still runs: by its process on this host, by its file's age on another."""
    if state.ended is not None:
        return False
    if state.host != socket.gethostname():
        return time.time() - path.stat().st_mtime < SILENT_S
    try:
        process = psutil.Process(state.pid)
        return process.status() != psutil.STATUS_ZOMBIE and tuple(process.cmdline()) == state.command
    except psutil.AccessDenied:  # another user's process, on systems that hide its command
        return True
    except psutil.NoSuchProcess:
        return False


def failed_jobs(folder: Path) -> dict[Path, JobState]:
    """Return the jobs of an experiment that failed, by their state files, the first failure first."""
    states = {path: read(path) for path in (folder / STATE).rglob("*.json") if path != state_file(folder, RUN)}
    failed = {path: state for path, state in states.items() if state is not None and state.failure is not None}
    return dict(sorted(failed.items(), key=lambda item: item[1].ended or 0.0))
