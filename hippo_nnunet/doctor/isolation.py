"""Runs checks in worker processes, so that one that crashes or hangs does not end the others.

A worker is started once, and again after a crash, because importing torch and nnU-Net takes seconds.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal

import psutil

from hippo_nnunet.errors import one_line
from hippo_nnunet.processes import die_with_parent, kill_all

MB = 1e6
POLL_S = 0.2
"""Seconds between two samples of the worker's memory."""
MAX_REASON = 400
"""Length to which an error's message is truncated; the log has all of it."""

_ENVIRONMENT = threading.Lock()
"""Held while a worker inherits changed variables."""

Result = Literal["pass", "fail", "not run"]


class CheckError(Exception):
    """A check failed; the message says what was expected."""


class NotRunError(Exception):
    """A check cannot run here; the message says what it needs."""


@dataclass(frozen=True)
class Check:
    """One line of a list of checks.

    Attributes:
        name: Unique in its list.
        run: Returns what was found, in a line. Raises CheckError, NotRunError, or anything else.
        missing: What this machine lacks for it; empty if it can run.
        essential: Whether the following checks need its result. Essential checks come first.
        timeout_s: Seconds after which its process is ended.
        group: Checks of one group run one after the other, because later ones need the results of earlier ones.
    """

    name: str
    run: Callable[[], str]
    missing: str = ""
    essential: bool = False
    timeout_s: float = 300.0
    group: str = ""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check.

    Attributes:
        name: The check's.
        result: `pass`, `fail` or `not run`.
        reason: What was found, why it failed, or why it was not run.
        seconds: Wall-clock time.
        peak_gpu_mb: Most memory that torch held allocated on the GPU, in 10^6 bytes; None without a GPU.
        peak_rss_mb: Most resident memory of the worker and its children, in 10^6 bytes.
    """

    name: str
    result: Result
    reason: str
    seconds: float = 0.0
    peak_gpu_mb: float | None = None
    peak_rss_mb: float | None = None


Provider = Callable[[Any], Sequence[Check]]
"""A function of a module that returns the checks for some settings, the same ones in every process."""


def run_checks(
    provider: Provider, settings: Any, log: Path, environ: Mapping[str, str], processes: int = 1
) -> Iterator[Outcome]:
    """Run checks and yield their outcomes: with one process in the checks' order, otherwise as they end.

    Args:
        provider: Gives the checks, here and in the workers.
        settings: Its argument; is pickled.
        log: Gets what the checks print, and the tracebacks; with several processes each has a file, see `log_file`.
        environ: Variables of the workers beside those of this process.
        processes: Groups of checks that run at the same time, after the essential checks.
    """
    with _Runner(provider, settings, log, environ, processes) as runner:
        checks = provider(settings)
        essential = [check for check in checks if check.essential]
        rest = [check for check in checks if not check.essential]
        lost = ""
        for outcome in runner.run([essential]):
            yield outcome
            lost = lost or (outcome.name if outcome.result != "pass" else "")
        if lost:
            rest = [replace(check, missing=check.missing or f"'{lost}' failed") for check in rest]
        yield from runner.run(_grouped(rest) if processes > 1 else [rest])


def log_file(log: Path, number: int) -> Path:
    """Return the log of a worker process, numbered from 0."""
    return log.with_stem(f"{log.stem}_{number + 1}") if number else log


def _grouped(checks: Sequence[Check]) -> list[list[Check]]:
    groups: dict[str, list[Check]] = {}
    for check in checks:
        groups.setdefault(check.group or check.name, []).append(check)
    return list(groups.values())


class _Runner:
    """A thread for each worker; both live until the end, because a worker ends with the thread that started it."""

    def __init__(
        self, provider: Provider, settings: Any, log: Path, environ: Mapping[str, str], processes: int
    ) -> None:
        self._start = lambda number: _Worker(provider, settings, log_file(log, number), environ)
        self._threads = ThreadPoolExecutor(processes)
        self._workers: dict[int, _Worker | None] = {}
        self._stopped = False

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped = True
        for worker in list(self._workers.values()):
            if worker is not None:
                worker.close()
        self._threads.shutdown()

    def run(self, groups: Sequence[Sequence[Check]]) -> Iterator[Outcome]:
        """Run groups of checks and yield their outcomes as they end."""
        found: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()

        def run_group(group: Sequence[Check]) -> None:
            try:
                for check in group:
                    if not self._stopped:
                        found.put(self._outcome(check))
            finally:
                found.put(None)

        running = [self._threads.submit(run_group, group) for group in groups]
        ended = 0
        while ended < len(running):
            if (outcome := found.get()) is None:
                ended += 1
            else:
                yield outcome
        for group in running:
            group.result()

    def _outcome(self, check: Check) -> Outcome:
        if check.missing:
            return Outcome(check.name, "not run", check.missing)
        thread = threading.get_ident()
        worker = self._workers.setdefault(thread, None)
        if worker is None:
            worker = self._workers[thread] = self._start(list(self._workers).index(thread))
        outcome = worker.run(check)
        if not worker.usable:
            worker.close()
            self._workers[thread] = None
        return outcome


class _Worker:
    """The process that runs checks, seen from the parent.

    Attributes:
        usable: Whether it can run another check.
    """

    def __init__(self, provider: Provider, settings: Any, log: Path, environ: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_work, args=(theirs, provider, settings, log))
        with _ENVIRONMENT:
            before = dict(os.environ)
            os.environ.update(environ)
            try:
                self._process.start()
            finally:
                os.environ.clear()
                os.environ.update(before)
        theirs.close()
        self.usable = True

    def run(self, check: Check) -> Outcome:
        """Run a check; a crash and a timeout are outcomes, too."""
        started = time.monotonic()
        peak = 0.0
        try:
            self._connection.send(check.name)
            while not self._connection.poll(POLL_S):
                peak = max(peak, self._resident_mb())
                if time.monotonic() - started > check.timeout_s:
                    self.usable = False
                    return Outcome(
                        check.name, "fail", f"not done within {check.timeout_s:.0f} s", check.timeout_s, None, peak
                    )
            outcome, self.usable = self._connection.recv()
        except (EOFError, OSError):
            self.usable = False
            self._process.join(10)
            reason = f"its process ended with exit code {self._process.exitcode}; see the log"
            return Outcome(check.name, "fail", reason, time.monotonic() - started, None, peak)
        return replace(outcome, peak_rss_mb=round(max(peak, self._resident_mb())))

    def close(self) -> None:
        """End the process and its children."""
        self._connection.close()
        if self.usable:
            self._process.join(10)
        kill_all(self._family())
        self._process.join()

    def _family(self) -> list[psutil.Process]:
        try:
            worker = psutil.Process(self._process.pid)
            return [*worker.children(recursive=True), worker]
        except psutil.NoSuchProcess:
            return []

    def _resident_mb(self) -> float:
        total = 0
        for process in self._family():
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        return total / MB


def _work(connection: Connection, provider: Provider, settings: Any, log: Path) -> None:
    """Run the checks that the parent names until it closes the connection."""
    die_with_parent()
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    checks = {check.name: check for check in provider(settings)}
    environ = dict(os.environ)
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        sys.stdout.write(f"\n===== {name}\n")
        connection.send(_outcome(checks[name]))
        os.environ.clear()
        os.environ.update(environ)


def _outcome(check: Check) -> tuple[Outcome, bool]:
    """Run a check; also tell whether this process can run another one."""
    started = time.monotonic()
    result: Result = "pass"
    try:
        reason = check.run()
    except NotRunError as error:
        result, reason = "not run", str(error)
    except CheckError as error:
        result, reason = "fail", str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever torch, nnU-Net and our code raise, SystemExit included
        traceback.print_exc()
        message = one_line(error, MAX_REASON)
        result, reason = "fail", f"{type(error).__name__}: {message}"
    gc.collect()  # trainers are in reference cycles; the next check needs their memory
    peak, gpu_error = _gpu_peak_mb()
    if gpu_error:
        result, reason = "fail", f"{reason}; afterwards the GPU cannot be used: {gpu_error}"
    sys.stdout.flush()
    return Outcome(check.name, result, reason, round(time.monotonic() - started, 1), peak), not gpu_error


def _gpu_peak_mb() -> tuple[float | None, str]:
    """Return the peak since the last call, and the error of a GPU that an earlier fault has made useless."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None, ""
    try:
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / MB
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    except RuntimeError as error:
        return None, one_line(error, MAX_REASON)
    return round(peak, 1), ""
