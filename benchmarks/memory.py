"""Peak memory of a process and everything that it starts."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

MIB = 2**20
_SHARE_OF_A_CORE = 0.05
_PSS_EVERY_S = 1.0


class PeakMemory:
    """Samples the memory of a process and its descendants from a thread, for as long as the block lasts.

    Args:
        pid: Root of the process tree.
        interval_s: Seconds between two samples; longer where a sample itself takes long, so that sampling never takes
            more than a twentieth of a core.
        descendants: Whether the processes that it starts count. Without them proportional memory is not sampled.

    Attributes:
        rss_mib: Highest sum of resident memory, in MiB. Pages that processes share count for each of them.
        pss_mib: Highest sum of proportional memory, in MiB: a page shared by n processes counts 1/n for each. Sampled
            once a second, as it is expensive; None on systems other than Linux, which do not report it.
        samples: Number of samples taken.
    """

    def __init__(self, pid: int, interval_s: float = 0.1, descendants: bool = True) -> None:
        self.rss_mib = 0.0
        self.pss_mib: float | None = None
        self.samples = 0
        self._pid = pid
        self._interval_s = interval_s
        self._descendants = descendants
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self._next_pss = 0.0

    def __enter__(self) -> PeakMemory:
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _sample_until_stopped(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            began = time.thread_time()
            self._sample(time.monotonic())
            pause = max(self._interval_s, (time.thread_time() - began) / _SHARE_OF_A_CORE)

    def _sample(self, now: float) -> None:
        try:
            root = psutil.Process(self._pid)
            processes = [root, *root.children(recursive=True)] if self._descendants else [root]
        except psutil.Error:  # it has ended
            return
        rss, pss = 0, 0
        with_pss = self._descendants and now >= self._next_pss
        for process in processes:
            with contextlib.suppress(psutil.Error):  # it has ended, or access is denied
                rss += process.memory_info().rss
                if with_pss:
                    pss += _pss(process.pid)
        self.samples += 1
        self.rss_mib = max(self.rss_mib, rss / MIB)
        if with_pss and pss:
            self.pss_mib = max(self.pss_mib or 0.0, pss / MIB)
            self._next_pss = now + _PSS_EVERY_S


def _pss(pid: int) -> int:
    """Return the proportional memory of a process in bytes; 0 if the system does not report it."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
