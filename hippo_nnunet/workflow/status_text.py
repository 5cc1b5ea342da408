"""`run --status` as text and as JSON."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict

from rich.table import Table

from hippo_nnunet.files import json_values
from hippo_nnunet.progress import duration
from hippo_nnunet.workflow import estimate
from hippo_nnunet.workflow import status as states
from hippo_nnunet.workflow.status import JobStatus, Status

_SOURCES = {
    estimate.MEASURED: "finished jobs of the kind",
    estimate.RUNNING: "epochs of the trainings that run",
    estimate.SCALED: "the stated time, scaled as other trainings turned out",
    estimate.STATED: "the stated time alone: nothing was measured yet",
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
        left = "?" if math.isnan(job.left_s) else duration(job.left_s)
        took = "" if job.seconds is None else duration(job.seconds)
        table.add_row(job.name, job.state, _progress(job), took, "" if job.state == states.DONE_STATE else left)
    yield table
    if status.problem:
        yield f"problem: {status.problem}"
    if status.state != states.FINISHED:
        yield _time_left(status)
    for job in status.jobs:
        if job.state in (states.FAILED, states.KILLED):
            why = job.message or "it ended without an error message, as after SIGKILL, out of memory or a power cut"
            yield "\n".join([f"{job.name} {job.state}: {why}", f"  log: {job.log}", *(f"  | {x}" for x in job.tail)])


def summary(status: Status) -> str:
    """Return in one line which jobs run, how far the trainings are, and how long the rest will take."""
    running = [f"{job.name} {_progress(job)}".strip() for job in status.jobs if job.state == states.RUNNING]
    return "; ".join([*running, f"about {duration(status.left_s)} left"])


def as_json(status: Status) -> str:
    """Return everything as JSON: seconds as numbers, null if unknown."""
    return json.dumps(json_values(asdict(status), 1), indent=1, allow_nan=False, default=str)


def _headline(status: Status) -> str:
    run = status.run
    again = f"hippo-nnunet run {shlex.quote(str(status.folder))}"
    text = f"{status.folder}: {status.state}"
    if status.state == states.NOT_STARTED:
        return f"{text}; {again} --task TASK starts it"
    order = (states.DONE_STATE, states.RUNNING, states.WAITING, states.FAILED, states.KILLED)
    counts = {state: sum(job.state == state for job in status.jobs) for state in order}
    text += f"; {len(status.jobs)} jobs: " + ", ".join(
        f"{number} {state}" for state, number in counts.items() if number
    )
    if status.state == states.RUNNING and run is not None and run.ended is None:
        return f"{text}; on {run.host} for {duration(max(0.0, time.time() - run.started))} (process {run.pid})"
    if status.state == states.FAILED:
        return "\n".join([text, *([run.failure] if run is not None and run.failure else []), f"then go on: {again}"])
    return f"{text}; go on: {again}" if status.state == states.STOPPED else text


def _progress(job: JobStatus) -> str:
    training = job.training
    if training is None:
        return ""
    if training.validating:
        return "validating" if job.state == states.RUNNING else "trained"
    text = f"epoch {min(training.epoch + 1, training.epochs)} of {training.epochs}"
    return text if math.isnan(training.epoch_seconds) else f"{text}, {training.epoch_seconds:.3g} s each"


def _time_left(status: Status) -> str:
    open_jobs = [job for job in status.jobs if job.state != states.DONE_STATE]
    sources = dict.fromkeys(_SOURCES[job.left_from] for job in open_jobs if job.left_from in _SOURCES)
    unknown = dict.fromkeys(job.name.split("/")[0] for job in open_jobs if math.isnan(job.left_s))
    text = f"about {duration(status.left_s)} left"
    text += f", from {'; '.join(sources)}" if sources else ""
    return f"{text}; not counted: {', '.join(unknown)}" if unknown else text
