"""`run --status` in words and as JSON."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from hippo_nnunet.progress import duration
from hippo_nnunet.workflow import status as states
from hippo_nnunet.workflow.status import JobStatus, Status
from hippo_nnunet.workflow.time_left import MEASURED, RUNNING, SCALED, STATED

_SOURCES = {
    MEASURED: "finished jobs of the kind",
    RUNNING: "epochs of the trainings that run",
    SCALED: "the stated time, scaled as other trainings turned out",
    STATED: "the stated time alone: nothing was measured yet",
}


def describe(status: Status) -> Iterator[Table | str]:
    """Yield what to print: a headline, a table of the jobs, the time that is left, and the logs of what went wrong."""
    yield _headline(status)
    if status.state == states.NOT_STARTED:
        return
    table = Table()
    for column in ("job", "state", "progress"):
        table.add_column(column)
    for column in ("took", "left"):
        table.add_column(column, justify="right")
    for job in status.jobs:
        is_open = job.state != states.DONE_STATE
        left = duration(job.left.seconds) if is_open and not math.isnan(job.left.seconds) else "?" if is_open else ""
        table.add_row(job.name, job.state, _progress(job), "" if job.seconds is None else duration(job.seconds), left)
    yield table
    if status.problem:
        yield f"problem: {status.problem}"
    if status.state != states.FINISHED:
        yield _time_left(status)
    for job in status.jobs:
        if job.state in (states.FAILED, states.KILLED):
            yield _what_went_wrong(job)


def as_json(status: Status) -> str:
    """Return everything as JSON: seconds as numbers, null where unknown."""
    content = {
        "folder": str(status.folder),
        "state": status.state,
        "run": None if status.run is None else _plain(asdict(status.run)),
        "jobs": [_job(job) for job in status.jobs],
        "left_s": _number(status.left_s),
        "problem": status.problem,
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _headline(status: Status) -> str:
    run = status.run
    again = f"hippo-nnunet run {shlex.quote(str(status.folder))}"
    counts = [(status.count(state), state) for state in _ORDER]
    text = f"{status.folder}: {status.state}"
    if status.state == states.NOT_STARTED:
        return f"{text}; {again} --task TASK starts it"
    text += f"; {len(status.jobs)} jobs: " + ", ".join(f"{number} {state}" for number, state in counts if number)
    if status.state == states.RUNNING and run is not None and run.ended is None:
        return f"{text}; on {run.host} for {duration(max(0.0, time.time() - run.started))} (process {run.pid})"
    if status.state == states.FAILED:
        return f"{text}\n{run.failure + chr(10) if run is not None and run.failure else ''}then go on: {again}"
    return f"{text}; go on: {again}" if status.state == states.STOPPED else text


_ORDER = (states.DONE_STATE, states.RUNNING, states.WAITING, states.FAILED, states.KILLED)


def _progress(job: JobStatus) -> str:
    training = job.training
    if training is None:
        return ""
    if training.validating:
        return "validating" if job.state == states.RUNNING else "trained"
    text = f"epoch {min(training.epoch + 1, training.epochs)} of {training.epochs}"
    return text if math.isnan(training.epoch_seconds) else f"{text}, {training.epoch_seconds:.3g} s each"


def _time_left(status: Status) -> str:
    waits = [job for job in status.jobs if job.state != states.DONE_STATE]
    sources = dict.fromkeys(_SOURCES[job.left.source] for job in waits if job.left.source in _SOURCES)
    unknown = dict.fromkeys(job.name.split("/")[0] for job in waits if math.isnan(job.left.seconds))
    text = f"about {duration(status.left_s)} left"
    text += f", from {'; '.join(sources)}" if sources else ""
    return f"{text}; not counted: {', '.join(unknown)}" if unknown else text


def _what_went_wrong(job: JobStatus) -> str:
    why = job.message or "it ended without a word; SIGKILL, want of memory or of power does that"
    lines = [f"{job.name} {job.state}: {why}", f"  log: {job.log}", *(f"  | {line}" for line in job.tail)]
    return "\n".join(lines)


def _job(job: JobStatus) -> dict[str, Any]:
    return {
        "name": job.name,
        "state": job.state,
        "seconds": _number(job.seconds),
        "left_s": _number(job.left.seconds),
        "left_from": job.left.source,
        "host": job.host,
        "training": None if job.training is None else _plain(asdict(job.training)),
        "message": job.message,
        "log": str(job.log),
        "tail": list(job.tail),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _number(value) if isinstance(value, float) else value for name, value in values.items()}


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 1)
