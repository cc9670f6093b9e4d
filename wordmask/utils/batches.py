"""How many texts are worked on together: so many that this is fast, and so few that they fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

BATCH = 1000  # texts
CHARACTERS = 2**22  # after which a batch ends, so that one long text is the most that it has beside these


def batches(items: Iterable[Any], size: int = BATCH, *, weight: Callable[[Any], int] = len) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter, as are those that reach `CHARACTERS` before.

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
