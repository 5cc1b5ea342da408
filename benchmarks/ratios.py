"""The order in which sides take turns, and the ratios of their figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hippo_nnunet.progress import tracked


def turns(sides: Sequence[str], repeats: int) -> Iterator[tuple[str, int]]:
    """Return (side, repeat) so that a slow drift of the machine affects every side equally: A B, B A, A B and so on.

    Source: the ABBA design of crossover experiments; with an even number of repeats a linear drift cancels.
    """
    order = [(side, repeat) for repeat in range(repeats) for side in (sides if repeat % 2 == 0 else sides[::-1])]
    return tracked(order, "measuring", bar=False)


@dataclass(frozen=True)
class Ratio:
    """What one side takes relative to another: 0.5 is half the time, or half the memory.

    Attributes:
        median: Ratio of the medians.
        lowest: Lowest ratio of two figures of the same repeat.
        highest: Highest such ratio.
    """

    median: float
    lowest: float
    highest: float


def ratio(side: Sequence[float], reference: Sequence[float]) -> Ratio | None:
    """Compare two sides' figures.

    Args:
        side: One figure for each repeat.
        reference: The same measure of the reference, in the same order and unit.

    Returns:
        None if there is nothing to compare: no figures, or a reference of 0.
    """
    if not side or not reference or min(reference) <= 0:
        return None
    paired = [a / b for a, b in zip(side, reference, strict=False)]
    return Ratio(statistics.median(side) / statistics.median(reference), min(paired), max(paired))
