"""Pipelining: work done ahead in one thread, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MOST_AHEAD = 8
"""Most cases preprocessed ahead of the networks, and most predicted cases that wait to be written."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_background(work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Map items in a background thread, while the consumer of the results does other work.

    Two of these around a computation overlap it with reading and with writing.

    Args:
        work: Called in the thread, for one item at a time.
        items: Consumed in the caller's thread.
        ahead: Most items in progress, at least 1; bounds the memory.

    Yields:
        The results, in the items' order.

    Raises:
        Exception: What `work` raised, at that item's position; later items may have been processed.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
