"""Runs a command and measures its time and memory."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.memory import PeakMemory
from hippo_nnunet.errors import DependencyError, HippoError
from hippo_nnunet.processes import python_command

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Time and memory of a process tree.

    Attributes:
        seconds: Wall-clock seconds from start to end.
        peak_rss_mib: Highest sum of resident memory, in MiB; shared pages count for each process.
        peak_pss_mib: The same with shared pages divided among the processes; None if the system does not report it.
    """

    seconds: float
    peak_rss_mib: float
    peak_pss_mib: float | None

    def add_to(self, measures: dict[str, list[float]]) -> None:
        """Append the figures to the lists of a side, unmeasured ones left out."""
        measures.setdefault("seconds", []).append(self.seconds)
        measures.setdefault("peak_rss_mib", []).append(self.peak_rss_mib)
        if self.peak_pss_mib is not None:
            measures.setdefault("peak_pss_mib", []).append(self.peak_pss_mib)


def program(name: str) -> str:
    """Return the path of a console script of this Python.

    Raises:
        DependencyError: It is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise DependencyError(f"the program {name} is not installed beside {sys.executable}: pip install nnunetv2")
    return found


def module_command(module: str, environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a module of this package, and an environment in which Python finds it.

    Args:
        module: Such as `benchmarks.epochs_process`.
        environ: The environment apart from that.
    """
    clone = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (clone, environ.get("PYTHONPATH"))))
    return python_command("-m", module), {**environ, "PYTHONPATH": path}


def run_measured(command: Sequence[str], environ: Mapping[str, str], output: Path) -> Run:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        environ: Its whole environment.
        output: File that gets what it prints.

    Returns:
        What it and its descendants took.

    Raises:
        HippoError: It failed; its last lines go to the log.
    """
    with output.open("wb") as sink:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        )
        try:
            with PeakMemory(process.pid) as memory:
                code = process.wait()
                seconds = time.perf_counter() - began
        except BaseException:
            _end(process)
            raise
    if code != 0:
        lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
        for line in lines[-20:]:
            log.error("  %s", line)
        last = lines[-1].strip() if lines else "it printed nothing"
        raise HippoError(f"{Path(command[0]).name} ended with exit code {code}: {last}; its last lines are above")
    return Run(seconds, memory.rss_mib, memory.pss_mib)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and everything that it has started."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        children = []
    process.kill()
    for child in children:
        if child.is_running():
            child.kill()
    process.wait()
