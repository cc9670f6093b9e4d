"""Batches of texts that are worked on together: large enough to be fast, small enough for the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

BATCH = 1000  # texts
CHARACTERS = 2**22  # a batch ends after so many; at most one long text comes on top


def batches(items: Iterable[Any], size: int = BATCH, *, weight: Callable[[Any], int] = len) -> Iterator[list[Any]]:
    """Lists of `size` items. The last one may be shorter, and so may those that reach `CHARACTERS`.

    Args:
        items: texts, or anything else.
        size: the most items in a list.
        weight: gives an item's number of characters.
    """
    batch, total = [], 0
    for item in items:
        batch.append(item)
        total += weight(item)
        if len(batch) == size or total >= CHARACTERS:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
