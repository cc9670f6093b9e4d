"""How a stream of tokens is divided into sequences: lines, blocks, or packs of them, each of one corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wordmask.config.data_arguments import DataArguments
from wordmask.data.findings import LongLines
from wordmask.data.packing import Packs, pack
from wordmask.utils.arrays import starts_of


@dataclass(frozen=True)
class Division:
    """How a stream of tokens is divided into sequences.

    Attributes:
        starts: (documents,) where each document starts in the stream.
        sizes: (documents,) its number of tokens.
        packs: which documents share a sequence; `None` if each document is a sequence.
    """

    starts: NDArray[np.int64]
    sizes: NDArray[np.int32]
    packs: Packs | None = None

    def __len__(self) -> int:
        return len(self.starts) if self.packs is None else len(self.packs)

    def lengths(self, special_count: int) -> NDArray[np.int32]:
        """(sequences,) The number of tokens of each sequence, with so many special tokens around each document."""
        lengths, packs = self.sizes + np.int32(special_count), self.packs
        # Documents of 3, 4, 5 tokens in packs with bounds 0 2 3 make sequences of 7 and 5.
        return lengths if packs is None else np.add.reduceat(lengths[packs.documents], packs.bounds[:-1])

    def documents(self, indices: Sequence[int]) -> list[list[tuple[int, int]]]:
        """Where each document of some sequences starts and stops."""
        packs = self.packs
        if packs is None:  # all at once, since loaders wait for this
            return [[span] for span in self._spans(np.array(indices, np.int64))]
        return [list(self._spans(packs[index])) for index in indices]

    def _spans(self, documents: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
        starts = self.starts[documents]
        return zip(starts.tolist(), (starts + self.sizes[documents]).tolist(), strict=True)


def divide(
    lengths: NDArray[np.int32],
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
    starts, sizes = _lines(lengths, room, arguments) if arguments.line_by_line else _blocks(total, room)
    division = Division(starts[:limit], sizes[:limit])
    return replace(division, packs=pack(division.lengths(special_count), length)) if packed else division


def _lines(
    lengths: NDArray[np.int32], room: int, arguments: DataArguments
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(documents,) Where lines start, and their sizes. Empty lines are left out, long lines are truncated or split."""
    starts = starts_of(lengths)
    if arguments.long_lines == "split" and lengths.max(initial=0) > room:
        # Lines of 5 and 2 tokens, with room for 2, make 3 and 1 pieces. The numbers of the pieces in their lines are
        # 0 1 2 and 0, so they begin after 0 2 4 and 0 tokens of these lines.
        piece_counts = -(-lengths // room)
        before = (np.arange(piece_counts.sum()) - np.repeat(starts_of(piece_counts), piece_counts)) * room
        starts, lengths = np.repeat(starts, piece_counts) + before, np.repeat(lengths, piece_counts) - before
    sizes = np.minimum(lengths, room).astype(np.int32)
    has_tokens = sizes > 0
    return (starts, sizes) if has_tokens.all() else (starts[has_tokens], sizes[has_tokens])


def _blocks(total: int, room: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(documents,) Where the blocks of joined text start, and their sizes: 5 tokens with room for 2 are 2, 2 and 1."""
    starts = np.arange(0, total, room)
    return starts, np.minimum(total - starts, room).astype(np.int32)


def long_lines(lengths: NDArray[np.int32], room: int, arguments: DataArguments) -> LongLines | None:
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
    starts = np.concatenate([one.starts + offset for one, offset in zip(divisions, offsets, strict=True)])
    sizes = np.concatenate([one.sizes for one in divisions])
    packs = [one.packs for one in divisions if one.packs is not None]
    if not packs:
        return Division(starts, sizes)
    # Packs of 3 and 2 documents, with bounds 0 2 3 and 0 2, have the bounds 0 2 3 5 together.
    first = starts_of(np.array([len(one.documents) for one in packs]))
    documents = np.concatenate([one.documents + number for one, number in zip(packs, first, strict=True)])
    bounds = [one.bounds[1:] + number for one, number in zip(packs, first, strict=True)]
    return Division(starts, sizes, Packs(documents, np.concatenate([[0], *bounds])))
