"""Work that runs ahead in threads while the caller computes, never further than a budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    work: Callable[[T], R], items: Iterable[T], pool: Executor, weight: Callable[[T], int], budget: int
) -> Iterator[R]:
    """``map(work, items)`` in the order of ``items``, with several of them in the hands of ``pool`` at a time.

    As many are handed over as weigh at most ``budget`` together, and always one, however heavy. ``items`` is advanced
    in the caller's thread, so a generator that computes its next item does it while ``pool`` works on the earlier ones.

    Raises:
        Exception: whatever ``work`` raised, at the place of its item.
    """
    waiting: deque[tuple[Future[R], int]] = deque()
    load = 0
    for item in items:
        own = weight(item)
        while waiting and (load + own > budget or waiting[0][0].done()):
            future, freed = waiting.popleft()
            load -= freed
            yield future.result()
        waiting.append((pool.submit(work, item), own))
        load += own
    while waiting:
        yield waiting.popleft()[0].result()
