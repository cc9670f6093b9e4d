"""Batches of texts that are worked on together: large enough to be fast, small enough for the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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


def rebatched(tables: Iterable[pa.Table], size: int = BATCH) -> Iterator[pa.Table]:
    """The same texts, in the column `text`, in tables of `size`.

    The last table may be shorter, and so may tables that reach `CHARACTERS` bytes. Tables of 3, 3 and 1 texts are
    tables of 2, 2, 2 and 1: the second one has the last text of the first table, and the first text of the second.
    """
    held: list[pa.Table] = []
    count = weight = 0
    for table in tables:
        begin = 0
        for row, length in enumerate(pc.binary_length(table["text"]).to_pylist(), 1):
            count, weight = count + 1, weight + (length or 0)
            if count == size or weight >= CHARACTERS:
                yield pa.concat_tables([*held, table.slice(begin, row - begin)])
                held, begin, count, weight = [], row, 0, 0
        if begin < len(table):
            held.append(table.slice(begin))
    if held:
        yield pa.concat_tables(held)


def divided(items: Any, size: int) -> list[Any]:
    """Slices of a sequence, or of an array, of `size` items, the last one shorter: `abcde` by 2 is `ab`, `cd`, `e`."""
    return [items[first : first + size] for first in range(0, len(items), size)]
