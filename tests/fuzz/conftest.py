"""Fuzzing: a short, fixed form in the ordinary run; `HIPPO_FUZZ_SECONDS=1800 scripts/test -m fuzz` for a long one.

With `HIPPO_FUZZ_ENGINE=atheris` (`pip install atheris`) the long one is guided by the branches that examples reach.
"""

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
EXAMPLES = "fuzzed examples"
"""Name of the tests' property that counts them."""
GUIDED = os.environ.get("HIPPO_FUZZ_ENGINE", "hypothesis") == "atheris"
MOST_MEMORY = 3 * 2**30
"""Address space, in bytes, that the examples may take beyond what the process has when the tests begin."""

if GUIDED:
    import atheris

    assert SECONDS, "atheris needs HIPPO_FUZZ_SECONDS"
    atheris.instrument_imports(include=["hippo_nnunet"]).__enter__()  # the tests' modules import it after this one


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
def fuzz(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzz]:
    """Give `fuzz(check, strategy, examples)`, which calls the check with examples of the strategy."""
    tests = sum(1 for item in request.session.items if item.get_closest_marker("fuzz"))
    played = 0

    def run(check: Callable[[Any], object], strategy: SearchStrategy[Any], examples: int = 30) -> None:
        def once(value: Any) -> None:
            nonlocal played
            played += 1
            with bounded():
                check(value)

        common: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}
        if not SECONDS:
            settings(max_examples=examples, derandomize=True, database=None, **common)(given(strategy)(once))()
            return
        if GUIDED:
            _guided(
                settings(database=None, **common)(given(strategy)(once)),
                int(SECONDS / tests),
                tmp_path_factory.mktemp("atheris"),
            )
            return
        end = time.monotonic() + SECONDS / tests
        while time.monotonic() < end:
            wrapped = seed(secrets.randbits(64))(given(strategy)(once))
            settings(max_examples=200, **common)(wrapped)()

    yield run
    request.node.user_properties.append((EXAMPLES, played))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many examples a long fuzzing has tried, except by atheris, which counts its own."""
    ended = [r for reports in terminalreporter.stats.values() for r in reports if getattr(r, "when", "") == "teardown"]
    played = sum(number for report in ended for name, number in report.user_properties if name == EXAMPLES)
    if SECONDS and not GUIDED:
        terminalreporter.write_line(f"fuzzing: {played} examples in {len(ended)} tests")


def _guided(test: Any, seconds: int, folder: Path) -> None:
    """Let atheris choose the bytes that the examples are drawn from; in a child, because it ends its process."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for size in range(10, 1000, 10):  # it would begin with nothing, which is too little to draw an example from
        (corpus / str(size)).write_bytes(secrets.token_bytes(size))
    options = {"max_total_time": max(seconds, 1), "artifact_prefix": f"{folder}/", "rss_limit_mb": 0, "len_control": 0}
    child = os.fork()
    if not child:
        words = ["fuzz", str(corpus), *(f"-{name}={value}" for name, value in options.items())]
        atheris.Setup(words, lambda content: test.hypothesis.fuzz_one_input(content) and None)
        atheris.Fuzz()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"a fault: see above; its bytes lie in {folder}"
