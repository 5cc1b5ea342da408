"""How much memory this process may still take."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from hippo_nnunet.errors import DependencyError


def free_memory(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return how much memory this process may still take, in bytes.

    Args:
        groups: Where Linux shows control groups, which containers and batch systems use.
        own: Where it shows this process's groups.

    Returns:
        The machine's available memory, or what the tightest group or `ulimit -v` leaves; page cache counts as free.
    """
    free = min(psutil.virtual_memory().available, _address_space())
    for group, limit, used, cache in _memory_groups(groups, own):
        try:
            allowed = int((group / limit).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            free = min(free, allowed - int((group / used).read_text()) + int(stat.get(cache, 0)))
        except (OSError, ValueError):  # no such group or file here, or "max": no limit
            continue
    return max(int(free), 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory could not be allocated.

    torch and ITK raise RuntimeError for it, and a library for which there is no room an ImportError.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    if isinstance(error, ImportError):
        return text.endswith("failed to map segment from shared object")
    words = ("allocate memory", "out of memory", "failed to allocate", "bad_alloc", "not enough memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in text for word in words))


def memory_error(what: str) -> DependencyError:
    """Return an error that says how much memory is free.

    Args:
        what: What did not fit, such as a file.
    """
    return DependencyError(
        f"{what}: not enough memory, {free_memory() / 2**30:.1f} GiB are free: close other programs, raise the limit "
        "(ulimit -v, the container's or the batch job's), or use a machine with more memory"
    )


def _address_space() -> float:
    """Return what `ulimit -v` leaves this process, in bytes."""
    if sys.platform == "win32":
        return math.inf
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit - psutil.Process().memory_info().vms


def _memory_groups(groups: Path, own: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Yield this process's groups and their parents, each with its files' names: limit, use, kind of page cache."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = groups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = groups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:depth]), *names
