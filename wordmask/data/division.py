"""How a stream of tokens is divided into sequences: lines, blocks, or packs of them, each of one corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordmask.config.arguments import DataArguments
from wordmask.data.findings import LongLines
from wordmask.data.packing import Packs, pack
from wordmask.utils.arrays import starts_of


@dataclass(frozen=True)
class Division:
    """How a stream of tokens is divided into sequences.

    Attributes:
        starts, stops: (documents,) where each document starts and stops in the stream.
        packs: which documents share a sequence; `None` if each document is a sequence.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    packs: Packs | None = None

    def __len__(self) -> int:
        return len(self.starts) if self.packs is None else len(self.packs)

    def lengths(self, special_count: int) -> NDArray[np.int64]:
        """(sequences,) The number of tokens of each sequence, with so many special tokens around each document."""
        lengths, packs = self.stops - self.starts + special_count, self.packs
        # Documents of 3, 4, 5 tokens in packs with bounds 0 2 3 make sequences of 7 and 5.
        return lengths if packs is None else np.add.reduceat(lengths[packs.documents], packs.bounds[:-1])

    def documents(self, indices: Sequence[int]) -> list[list[tuple[int, int]]]:
        """Where each document of some sequences starts and stops."""
        packs = self.packs
        if packs is None:  # all at once, since loaders wait for this
            chosen = np.array(indices, np.int64)
            starts_and_stops = zip(self.starts[chosen].tolist(), self.stops[chosen].tolist(), strict=True)
            return [[span] for span in starts_and_stops]
        chosen_documents = [packs[index] for index in indices]
        bounds = ((self.starts[some].tolist(), self.stops[some].tolist()) for some in chosen_documents)
        return [list(zip(*both, strict=True)) for both in bounds]


def divide(
    lengths: NDArray[np.int64],
    separated: bool,
    special_count: int,
    length: int,
    arguments: DataArguments,
    packed: bool,
    limit: int | None = None,
) -> Division:
    """Divide the texts of a stream into sequences.

    Args:
        lengths: (texts,) the number of tokens of each text.
        separated: whether each text ends with a separator. The last separator is left out.
        special_count: the number of special tokens around a document.
        length: the largest number of tokens of a sequence, with special tokens.
        arguments: how sequences are made.
        packed: whether documents share sequences.
        limit: the largest number of documents; all if `None`.
    """
    room, total = length - special_count, int(lengths.sum()) - separated
    starts, stops = _lines(lengths, room, arguments) if arguments.line_by_line else _blocks(total, room)
    starts, stops = starts[:limit], stops[:limit]
    return Division(starts, stops, pack(stops - starts + special_count, length) if packed else None)


def _lines(
    lengths: NDArray[np.int64], room: int, arguments: DataArguments
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(documents,) Where lines start and stop. Empty lines are left out, long lines are truncated or split."""
    stops = np.cumsum(lengths)
    starts = stops - lengths
    if arguments.long_lines == "split":
        # Lines of 5 and 2 tokens, with room for 2, make 3 and 1 pieces. The numbers of the pieces in their lines are
        # 0 1 2 and 0, so they start at 0 2 4 and 5.
        piece_counts = -(-lengths // room)
        piece = np.arange(piece_counts.sum()) - np.repeat(starts_of(piece_counts), piece_counts)
        starts, stops = np.repeat(starts, piece_counts) + piece * room, np.repeat(stops, piece_counts)
    stops = np.minimum(stops, starts + room)
    return starts[stops > starts], stops[stops > starts]


def _blocks(total: int, room: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(documents,) Where the blocks of joined text start and stop: 5 tokens with room for 2 are 0-2, 2-4, 4-5."""
    starts = np.arange(0, total, room)
    return starts, np.minimum(starts + room, total)


def long_lines(lengths: NDArray[np.int64], room: int, arguments: DataArguments) -> LongLines | None:
    """The lines that are longer than a sequence has room for; `None` if texts are joined."""
    if not arguments.line_by_line:
        return None
    beyond = np.maximum(lengths - room, 0)
    is_cut = arguments.long_lines == "truncate"
    action, lost = ("cut", int(beyond.sum())) if is_cut else ("split", 0)
    return LongLines(int(np.count_nonzero(beyond)), room, lost, action)


def joined(divisions: Sequence[Division], offsets: Sequence[int]) -> Division:
    """The sequences of several corpora, one corpus after the other.

    Args:
        divisions: the sequences of each corpus.
        offsets: where the tokens of each corpus begin in the stream.
    """
    if len(divisions) == 1:
        return divisions[0]
    starts, stops = (
        np.concatenate([getattr(one, name) + offset for one, offset in zip(divisions, offsets, strict=True)])
        for name in ("starts", "stops")
    )
    packs = [one.packs for one in divisions if one.packs is not None]
    if not packs:
        return Division(starts, stops)
    # Packs of 3 and 2 documents, with bounds 0 2 3 and 0 2, have the bounds 0 2 3 5 together.
    first = starts_of(np.array([len(one.documents) for one in packs]))
    documents = np.concatenate([one.documents + number for one, number in zip(packs, first, strict=True)])
    bounds = [one.bounds[1:] + number for one, number in zip(packs, first, strict=True)]
    return Division(starts, stops, Packs(documents, np.concatenate([[0], *bounds])))
