"""Fuzzing: a short, fixed form in the ordinary run; `HIPPO_FUZZ_SECONDS=1800 scripts/test -m fuzz` for a long one."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import Fuzz, bounded
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

SECONDS = float(os.environ.get("HIPPO_FUZZ_SECONDS", "0"))
"""How long all fuzz tests together may take; 0: a few fixed examples of each."""
MOST_MEMORY = 3 * 2**30
"""Address space, in bytes, that the examples may take beyond what the process has when the tests begin."""


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """Let an allocation of many gigabytes fail: a header's claim has to be refused before."""
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + MOST_MEMORY
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    """Return `fuzz(check, strategy, examples)`, which calls the check with examples of the strategy."""
    tests = sum(1 for item in request.session.items if item.get_closest_marker("fuzz"))

    def run(check: Callable[[Any], object], strategy: SearchStrategy[Any], examples: int = 30) -> None:
        def once(value: Any) -> None:
            with bounded():
                check(value)

        common: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}
        if not SECONDS:
            settings(max_examples=examples, derandomize=True, database=None, **common)(given(strategy)(once))()
            return
        end = time.monotonic() + SECONDS / tests
        while time.monotonic() < end:
            wrapped = seed(secrets.randbits(64))(given(strategy)(once))
            settings(max_examples=200, **common)(wrapped)()

    return run
