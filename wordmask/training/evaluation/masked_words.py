"""The masked words of an evaluation: how often each was masked, and how often the model was right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import pad_across_processes

from wordmask.masking import MAX_UNIT, hash64
from wordmask.utils.arrays import BoolArray, IntArray, places_of

LIMIT = 2**16  # different words that a process counts; those that come later, which are rare, are left out
NO_TOKEN = -1


class MaskedWords(NamedTuple):
    """Masked words, each with all its tokens. A word of more than `MAX_UNIT` tokens is not among them.

    Attributes:
        tokens: (words, `MAX_UNIT`) the tokens of each word, `NO_TOKEN` behind its end.
        masked: (words,) how often it was masked.
        right: (words,) how often all its masked tokens were predicted right.
    """

    tokens: IntArray
    masked: IntArray
    right: IntArray

    @classmethod
    def none(cls) -> MaskedWords:
        """No word."""
        return cls(np.zeros((0, MAX_UNIT), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def of_batch(cls, tokens: IntArray, words: IntArray, masked: BoolArray, right: BoolArray) -> MaskedWords:
        """The masked words of a batch, each as often as it was masked.

        With the tokens 7 8 9 in the words 1 1 2, of which 7 and 8 are masked and only 7 is right, one word is masked,
        7 8, and it is wrong.

        Args:
            tokens: (positions,) the tokens before masking, without special ones and padding.
            words: (positions,) the number of each token's word, in ascending order.
            masked: (positions,) whether a token is masked.
            right: (positions,) whether it is predicted right.
        """
        if not masked.any():
            return cls.none()
        starts = np.flatnonzero(np.diff(words, prepend=words[0] - 1))
        sizes = np.diff(np.append(starts, len(words)))
        kept = np.logical_or.reduceat(masked, starts) & (sizes <= MAX_UNIT)
        wrong = np.logical_or.reduceat(masked & ~right, starts)[kept]
        starts, sizes = starts[kept], sizes[kept]
        table = np.full((len(starts), MAX_UNIT), NO_TOKEN)
        # Sizes 2, 1 fill the columns 0 1 of the first word and 0 of the second one.
        table[np.arange(MAX_UNIT) < sizes[:, None]] = tokens[places_of(starts, sizes)]
        return cls(table, np.ones(len(starts), np.int64), (~wrong).astype(np.int64))

    def summed(self, limit: int) -> MaskedWords:
        """Each different word once, with its sums, in the order of their first occurrences; the first `limit` ones."""
        keys = hash64(*self.tokens.T)
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        masked, right = (
            np.bincount(group, counts, len(first)).astype(np.int64) for counts in (self.masked, self.right)
        )
        order = np.argsort(first)[:limit]
        return MaskedWords(self.tokens[first[order]], masked[order], right[order])


class WordCounts:
    """Sums over the masked words of an evaluation, batch by batch, in bounded memory."""

    def __init__(self) -> None:
        self._batches: list[MaskedWords] = []
        self._size = 0

    def add(self, words: MaskedWords) -> None:
        """Add the words of a batch. Batches are summed when there are as many words as the sums may have."""
        self._batches.append(words)
        self._size += len(words.tokens)
        if self._size >= 2 * LIMIT:
            self._sum()

    def _sum(self) -> MaskedWords:
        columns = map(np.concatenate, zip(MaskedWords.none(), *self._batches, strict=True))
        self._batches = [MaskedWords(*columns).summed(LIMIT)]
        self._size = len(self._batches[0].tokens)
        return self._batches[0]

    def over_all(self, accelerator: Accelerator) -> MaskedWords:
        """The sums over all processes, in the order of the first occurrences on the first process, then the second.

        Every process gets them, and every process must call this.
        """
        words = self._sum()
        if accelerator.num_processes == 1:
            return words
        table = np.column_stack([words.tokens, words.masked, words.right])
        if not len(table):
            table = np.full((1, MAX_UNIT + 2), NO_TOKEN)
        own = torch.from_numpy(table).to(accelerator.device)
        rows = accelerator.gather(pad_across_processes(own, pad_index=NO_TOKEN)).cpu().numpy()
        rows = rows[rows[:, 0] != NO_TOKEN]
        return MaskedWords(rows[:, :MAX_UNIT], rows[:, -2], rows[:, -1]).summed(len(rows))
