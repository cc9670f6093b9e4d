"""Packing: several documents in one sequence, so that there is almost no padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordmask.data.order import shuffled
from wordmask.utils.arrays import Integers


@dataclass(frozen=True)
class Packs:
    """Which documents share a sequence.

    Attributes:
        documents: (documents,) the number of every document, once, sequence by sequence.
        bounds: (sequences + 1,) where each sequence begins in `documents`, and where the last sequence ends.
    """

    documents: Integers
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> Integers:
        return self.documents[self.bounds[index] : self.bounds[index + 1]]


def pack(lengths: Integers, capacity: int) -> Packs:
    """Put documents into few sequences, by best-fit packing with the longest documents first.

    We pack the histogram of lengths, as Krell et al. (arXiv 2107.02027) do, so the cost does not grow with the number
    of documents. Documents of one length are distributed at random, always in the same way.

    Args:
        lengths: (documents,) the number of tokens of each document, at most `capacity`.
        capacity: the largest number of tokens of a sequence.

    Raises:
        ValueError: if a document is longer than a sequence.
    """
    if len(lengths) and lengths.max() > capacity:
        raise ValueError(f"a document of {lengths.max()} tokens does not fit into a sequence of {capacity}")
    shapes = _shapes(np.bincount(lengths, minlength=capacity + 1), capacity)
    # Two sequences of lengths 3 1 1 have the shape ((3, 1), (1, 2)). Their slots are 3 1 1 3 1 1, three in each.
    slots = [np.tile(np.repeat(*np.array(shape, np.int32).T), sequences) for shape, sequences in shapes]
    sizes = [np.full(sequences, sum(copies for _, copies in shape)) for shape, sequences in shapes]
    order = shuffled(0, 0, len(lengths))
    # The k-th shortest document goes to the k-th shortest slot, which has its length; slots 3 1 1 in order are 1 2 0.
    # Documents of one length come in a random order: a stable sort keeps that of the shuffle.
    by_length = order[np.argsort(lengths[order], kind="stable")]
    documents = np.empty_like(by_length)
    documents[np.argsort(np.concatenate([*slots, np.zeros(0, np.int32)]), kind="stable")] = by_length
    return Packs(documents, np.cumsum(np.concatenate([[0], *sizes])))


Shape = tuple[tuple[int, int], ...]  # the lengths of the documents in a sequence, each with how many there are


def _shapes(histogram: NDArray[np.int64], capacity: int) -> list[tuple[Shape, int]]:
    """The shapes of sequences that hold a histogram of lengths, each with the number of such sequences.

    Longer lengths come first. A length goes into the sequences with the least space that is enough, as often as it
    fits there. The rest goes into new sequences. With capacity 5 and lengths 3 3 2 1, the two 3s open two sequences, 2
    fills one of them, and 1 goes into the other: ((3, 1), (2, 1)) and ((3, 1), (1, 1)).
    """
    by_space: list[list[tuple[Shape, int]]] = [[] for _ in range(capacity + 1)]  # open sequences by the space left
    for length in range(capacity, 0, -1):
        remaining = int(histogram[length])
        for space in range(length, capacity + 1):
            open_shapes, by_space[space] = by_space[space], []
            for shape, sequences in open_shapes:
                # First as many copies as fit, then what remains after that.
                for copies in (space // length, remaining % (space // length)):
                    filled = min(sequences, remaining // copies) if copies else 0
                    if filled:
                        by_space[space - copies * length].append(((*shape, (length, copies)), filled))
                        sequences, remaining = sequences - filled, remaining - filled * copies
                if sequences:
                    by_space[space].append((shape, sequences))
        most = capacity // length
        for copies, sequences in ((most, remaining // most), (remaining % most, 1)):
            if copies and sequences:
                by_space[capacity - copies * length].append((((length, copies),), sequences))
    return [entry for entries in by_space for entry in entries]
