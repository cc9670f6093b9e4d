"""Packing: several lines in one row, so that next to nothing of it is padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordmask.data.sampler import shuffled


@dataclass(frozen=True)
class Packs:
    """Which lines lie in which row.

    Attributes:
        lines: every line once, row by row.
        edges: (rows + 1,) where each row begins in `lines`, and where the last one ends.
    """

    documents: NDArray[np.int64]
    edges: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        return self.documents[self.edges[row] : self.edges[row + 1]]


def pack(lengths: NDArray[np.int64], capacity: int, seed: int = 0) -> Packs:
    """Put lines into as few rows as best-fit packing needs, the longest first.

    The work is done on the histogram of lengths, as by Krell et al. (arXiv 2107.02027), so that its cost does not grow
    with the number of lines; which of the lines of one length goes where is then a matter of chance.

    Args:
        lengths: (lines,) the tokens of each line, none above `capacity`.
        capacity: the most tokens in a row.
        seed: what chance depends on.

    Raises:
        ValueError: where a line is longer than a row.
    """
    if len(lengths) and lengths.max() > capacity:
        raise ValueError(f"a line of {lengths.max()} tokens does not fit into a row of {capacity}")
    kinds = _kinds_of_row(np.bincount(lengths, minlength=capacity + 1), capacity)
    # Two rows of lengths (3, 1, 1) are the kind ((3, 1), (1, 2)), 2: their slots are 3 1 1 3 1 1, three to a row.
    slots = [np.tile(np.repeat(*np.array(kind, np.int64).T), rows) for kind, rows in kinds]
    counts = [np.full(rows, sum(copies for _, copies in kind)) for kind, rows in kinds]
    order = shuffled(seed, 0, len(lengths))
    # The k-th shortest line goes to the k-th shortest slot, which has its length; slots 3 1 1 in order are 1, 2, 0.
    # Lines of one length come in a random order: a stable sort keeps that of the shuffle.
    by_length = order[np.argsort(lengths[order], kind="stable")]
    lines = np.empty(len(lengths), np.int64)
    lines[np.argsort(np.concatenate([*slots, np.zeros(0, np.int64)]), kind="stable")] = by_length
    return Packs(lines, np.cumsum(np.concatenate([[0], *counts])))


Kind = tuple[tuple[int, int], ...]  # the lengths of the lines in a row, each with how many there are


def _kinds_of_row(histogram: NDArray[np.int64], capacity: int) -> list[tuple[Kind, int]]:
    """The kinds of row that hold a histogram of lengths, each with the number of such rows.

    Longer lengths come first, each into the rows where the least space remains that still suffices, as often as it
    fits there, and what is left over into new rows.
    """
    by_space: list[list[tuple[Kind, int]]] = [[] for _ in range(capacity + 1)]
    for length in range(capacity, 0, -1):
        left = int(histogram[length])
        for space in range(length, capacity + 1):
            waiting, by_space[space] = by_space[space], []
            for kind, rows in waiting:
                for copies in (space // length, left % (space // length)):
                    fitting = min(rows, left // copies) if copies else 0
                    if fitting:
                        by_space[space - copies * length].append(((*kind, (length, copies)), fitting))
                        rows, left = rows - fitting, left - fitting * copies
                if rows:
                    by_space[space].append((kind, rows))
        most = capacity // length
        for copies, rows in ((most, left // most), (left % most, 1)):
            if copies and rows:
                by_space[capacity - copies * length].append((((length, copies),), rows))
    return [found for waiting in by_space for found in waiting]
