"""Work on many tensors with all cores and bounded memory: groups, one group ahead, and a map over threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

__all__ = ["ahead", "grouped", "thread_map"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def grouped(items: Iterable[ItemT], size: Callable[[ItemT], int], limit: int) -> Iterator[list[ItemT]]:
    """Yield neighbouring items in groups; a group is complete when its sizes sum to ``limit`` or more.

    No reference to an item is kept once the caller has emptied its group.
    """
    group: list[ItemT] = []
    total = 0
    for item in items:
        group.append(item)
        total += size(item)
        del item
        if total >= limit:
            yield group
            group, total = [], 0
    if group:
        yield group


def ahead(items: Iterator[ItemT]) -> Iterator[ItemT]:
    """Yield the same items, each made in the background while the caller works on the one before it."""
    from concurrent.futures import ThreadPoolExecutor

    end = object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def thread_map(
    function: Callable[[ItemT], ResultT], items: Sequence[ItemT], size: Callable[[ItemT], int]
) -> list[ResultT]:
    """Apply a function to all items on all cores, the largest first (NumPy and hashlib release the GIL).

    Returns:
        The results in the order of the items.
    """
    workers = min(os.cpu_count() or 1, len(items))
    if workers <= 1:
        return [function(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # here, for `inspect` to start without it

    order = sorted(range(len(items)), key=lambda i: -size(items[i]))
    with ThreadPoolExecutor(workers) as pool:
        results = dict(zip(order, pool.map(function, [items[i] for i in order]), strict=True))
    return [results[i] for i in range(len(items))]
