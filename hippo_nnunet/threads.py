"""The number of CPU threads that torch computes with, lowered while other programs use the cores.

OpenMP's threads wait for each other at the end of every parallel loop, and spin while they wait. When another program
takes one of the cores, each of these loops lasts until the scheduler lets the delayed thread run again: on two cores
beside one busy process, a training step takes 3 times as long with two threads, and 1.5 times with one
(`python -m benchmarks contention`).
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

VARIABLE = "HIPPO_ADAPT_THREADS"
"""`f` keeps the number of threads as it is."""

LOOK_EVERY_S = 0.5
"""Seconds between two measurements of what other programs use. The system counts CPU time in steps of 10 ms."""

SHORTEST_LOOK_S = 0.2
"""Seconds within which the counters are too coarse to tell a load."""

SLOW, SLOW_BLIND = 2.0, 3.0
"""A step is slow if it takes this many times the shortest time seen; the second factor is for an unknown load."""

SOME_LOAD = 0.15
"""Cores used by other programs from which a slow step is attributed to them."""

LOWER_MARGIN, RAISE_MARGIN = 0.4, 0.2
"""Part of a core that other programs may use before it counts as taken, and before it counts as free again."""

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Seconds before the number of threads is raised again; doubled each time when that was too early."""


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds since the system started.

    Attributes:
        busy_s: Of all programs, on the CPUs that this process may use.
        own_s: Of this process and the worker processes that it has started.
    """

    busy_s: float
    own_s: float


def usable_cpus() -> list[int]:
    """Return the indices of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_count() -> int:
    """Return the number of CPUs that this process may use at once: those of its affinity, or its quota rounded up."""
    return max(1, min(len(usable_cpus()), math.ceil(min(cpu_quota(), 1e6))))


def cpu_quota(mounted: Path = Path("/sys/fs/cgroup"), of_process: Path = Path("/proc/self/cgroup")) -> float:
    """Return how many CPUs' time the container or batch system grants this process; infinity without limit.

    Args:
        mounted: Where Linux shows control groups, of version 2 (`cpu.max`) or 1 (`cpu.cfs_quota_us`).
        of_process: The control groups of this process: `0::/path`, or `4:cpu,cpuacct:/path` in version 1. Inside of a
            container the path may be the host's, which does not exist there: its own group is then the root.
    """
    quotas = [math.inf]
    with suppress(OSError, ValueError):
        for line in of_process.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = mounted / (controllers if (mounted / controllers).is_dir() else "cpu")
            group = root / path.lstrip("/")
            # a limit of a group above counts too
            quotas += [_group_quota(folder) for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return min(quotas)


def _group_quota(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if quota.strip() != "max" and float(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def limit_threads() -> None:
    """Let torch compute with as many threads as there are CPUs for this process; `OMP_NUM_THREADS` wins."""
    import torch

    if not os.environ.get("OMP_NUM_THREADS") and torch.get_num_threads() > cpu_count():
        torch.set_num_threads(cpu_count())


def read_cpu_times() -> CpuTimes | None:
    """Read the system's counters; None where they cannot be read, or not for each CPU."""
    try:
        of_cpus = psutil.cpu_times(percpu=True)
        used = [of_cpus[index] for index in usable_cpus()]
    except (OSError, psutil.Error, IndexError, RuntimeError, ValueError):
        return None
    idle = ("idle", "iowait", "guest", "guest_nice")  # Linux counts guests under user as well
    busy = sum(value for cpu in used for name, value in cpu._asdict().items() if name not in idle)
    own = sum(os.times()[:4])
    for worker in multiprocessing.active_children():
        with suppress(psutil.Error):
            own += sum(psutil.Process(worker.pid).cpu_times()[:2])
    return CpuTimes(busy, own)


class AdaptiveThreads:
    """Lowers the number of torch's threads while other programs use the cores, and raises it when they are free again.

    Within a `with` block the number is between 1 and what was set before it, and every unit of work is wrapped in
    `step`. Twice a second, between two steps, the number follows the cores that other programs leave free. A step that
    takes much longer than the shortest one lowers it at once. If the load cannot be read, only slow steps decide,
    and a higher number is tried again after a wait that doubles as long as it fails.

    A number that the user has set (`OMP_NUM_THREADS`, `threads` of a job) is the upper limit. Nothing is changed on
    devices other than the CPU, nor with `HIPPO_ADAPT_THREADS=f`. Batches stay the same; results differ by rounding, as
    sums are split among another number of threads.

    Args:
        device: Where the network computes.
        fixed: Leave the number of threads as it is, for bit-identical results.
        report: Gets a line for each change.
        read: Reads the CPU times.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        device: torch.device,
        fixed: bool = False,
        report: Callable[[str], object] = log.info,
        read: Callable[[], CpuTimes | None] = read_cpu_times,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        off = os.environ.get(VARIABLE, "").lower() in ("f", "false", "0")
        self._wanted = device.type == "cpu" and not fixed and not off
        self._active = False
        self._report, self._read, self._clock = report, read, clock
        self._cores = len(usable_cpus())
        self._most = self._current = 1
        self._least: dict[tuple[Hashable, int], float] = {}
        self._wait_s = FIRST_WAIT_S
        self._raised_at = self._lowered_at = -math.inf
        self._looked_at = clock()
        self._times = read() if self._wanted else None

    def __enter__(self) -> AdaptiveThreads:
        """Take the present number of threads as the upper limit."""
        import torch

        self._most = self._current = torch.get_num_threads()
        self._active = self._wanted and self._most > 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Restore the number of threads."""
        self._set(self._most)
        self._active = False

    @property
    def current(self) -> int:
        """Number of threads, also for work in another thread, for which torch counts on its own."""
        import torch

        return self._current if self._active else torch.get_num_threads()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Compute with the number of threads that was set before the block."""
        lowered = self._current
        self._set(self._most)
        try:
            yield
        finally:
            self._set(lowered)

    @contextmanager
    def step(self, kind: Hashable, amount: float = 1.0) -> Iterator[None]:
        """Wrap a unit of work.

        Args:
            kind: Steps of one kind are compared with each other: the same computation by the same network.
            amount: Size of the step, such as its number of samples; seconds are compared per unit.
        """
        if not self._active:
            yield
            return
        began = self._clock()
        if began - self._looked_at >= LOOK_EVERY_S:
            self._follow(self._others(), began)
        began = self._clock()
        yield
        self._judge((kind, self._current), (self._clock() - began) / amount)

    def _others(self) -> float | None:
        """Return the cores that other programs have used since the last measurement; None if unknown."""
        before, self._times = self._times, self._read()
        began, self._looked_at = self._looked_at, self._clock()
        elapsed = self._looked_at - began
        if before is None or self._times is None or elapsed <= 0:
            return None
        busy, own = self._times.busy_s - before.busy_s, self._times.own_s - before.own_s
        if busy <= 0 < own:  # the counters do not change, as in some sandboxes
            return None
        return max(0.0, busy - own) / elapsed

    def _follow(self, others: float | None, now: float) -> None:
        """Take as many threads as cores are free."""
        if others is None:
            free = self._most
        elif self._free(others, LOWER_MARGIN) < self._current:
            self._lower(self._free(others, LOWER_MARGIN), f"other programs use {others:.1f} of {self._cores} cores")
            return
        else:
            free = self._free(others, RAISE_MARGIN)
        if free > self._current and now - self._lowered_at >= self._wait_s:
            self._raised_at = now
            self._change(free, "trying again" if others is None else f"{self._cores - others:.1f} cores are free")

    def _judge(self, key: tuple[Hashable, int], seconds: float) -> None:
        """Lower the number of threads after a step that took far too long."""
        least = self._least.get(key, math.inf)
        self._least[key] = min(least, seconds)
        too_soon = self._clock() - self._looked_at < SHORTEST_LOOK_S
        if self._current == 1 or seconds <= SLOW * least or too_soon:
            return
        others = self._others()
        reason = f"a step took {seconds / least:.1f} times as long as the shortest one"
        if others is None and seconds > SLOW_BLIND * least:
            self._lower(self._current // 2, reason)
        elif others is not None and others > SOME_LOAD:
            self._lower(min(self._current - 1, self._free(others, LOWER_MARGIN)), reason)

    def _free(self, others: float, margin: float) -> int:
        return min(self._most, max(1, math.floor(self._cores - others + margin)))

    def _lower(self, threads: int, reason: str) -> None:
        now = self._clock()
        too_early = now - self._raised_at < 10 * self._wait_s
        self._wait_s = min(LONGEST_WAIT_S, 2 * self._wait_s) if too_early else FIRST_WAIT_S
        self._lowered_at = now
        self._change(threads, reason)

    def _change(self, threads: int, reason: str) -> None:
        self._report(f"CPU threads: {self._current} -> {threads}, as {reason}")
        self._set(threads)

    def _set(self, threads: int) -> None:
        if self._active and threads != self._current:
            import torch

            torch.set_num_threads(threads)
            self._current = threads
