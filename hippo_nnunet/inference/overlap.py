"""Work done ahead by one thread, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_background(work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Do a piece of work for each item in one thread of its own, while whoever asks for the results does another.

    Two of these around a computation overlap it with reading on the one side and writing on the other.

    Args:
        work: Called in the thread, for one item after the other.
        items: Taken in the caller's thread.
        ahead: Items that may be taken before the first one's result is, at least 1; what bounds the memory.

    Yields:
        The results, in the items' order.

    Raises:
        Exception: What `work` raised, at that item's place; items behind it may have been worked on.
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
