"""Puts the figures of `benchmark_head` into the form of the other benchmarks."""

from __future__ import annotations

from typing import Any

from benchmarks.document import Result

PLAIN = "plain"
"""The reference: the head that makes the embedding of each pixel."""


def head_result(found: dict[str, Any]) -> Result:
    """Return a result whose reference is the plain form.

    Args:
        found: What `benchmarks.head.benchmark_head` returns.
    """
    names = [PLAIN, *(key for key in found if key not in (PLAIN, "settings", "ratios"))]
    sides = {
        name: {"seconds": list(found[name]["all_seconds"]), "peak_mib": [float(found[name]["peak_mib"])]}
        for name in names
    }
    return Result("head", dict(found["settings"]), sides, {"ratios": found["ratios"]})
