"""Runs checks one after the other in a worker process, so that one that crashes or hangs does not end the others.

The worker is started once, and again after a crash, because importing torch and nnU-Net takes seconds.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal

import psutil

from hippo_nnunet.processes import die_with_parent

MB = 1e6
POLL_S = 0.2
"""Seconds between two samples of the worker's memory."""
MAX_REASON = 400
"""Length to which an error's message is truncated; the log has all of it."""

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
        essential: Whether the following checks need its result.
        timeout_s: Seconds after which its process is ended.
    """

    name: str
    run: Callable[[], str]
    missing: str = ""
    essential: bool = False
    timeout_s: float = 300.0


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


def run_checks(provider: Provider, settings: Any, log: Path, environ: Mapping[str, str]) -> Iterator[Outcome]:
    """Run checks and yield their outcomes, in order.

    Args:
        provider: Gives the checks, here and in the worker.
        settings: Its argument; is pickled.
        log: Gets what the checks print, and the tracebacks.
        environ: Variables of the worker beside those of this process.
    """
    worker: _Worker | None = None
    lost = ""
    try:
        for check in provider(settings):
            if check.missing or lost:
                yield Outcome(check.name, "not run", check.missing or f"'{lost}' failed")
                continue
            worker = worker or _Worker(provider, settings, log, environ)
            outcome = worker.run(check)
            if not worker.usable:
                worker.close()
                worker = None
            if check.essential and outcome.result != "pass":
                lost = check.name
            yield outcome
    finally:
        if worker is not None:
            worker.close()


class _Worker:
    """The process that runs checks, seen from the parent.

    Attributes:
        usable: Whether it can run another check.
    """

    def __init__(self, provider: Provider, settings: Any, log: Path, environ: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_work, args=(theirs, provider, settings, log))
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
        for process in self._family():
            process.kill()
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
        message = " ".join(str(error).split())[:MAX_REASON]
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
        return None, " ".join(str(error).split())[:MAX_REASON]
    return round(peak, 1), ""
