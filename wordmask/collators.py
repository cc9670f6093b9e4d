"""From rows to a masked batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.masking import Replacement, Strategy, choose, hash64, replace, word_starts
from wordmask.vocabulary import Vocabulary


class Example(NamedTuple):
    """A row of tokens, and what its mask depends on.

    Attributes:
        lines: the lines of the row, in most cases one; each (length,), every token's id times two, plus one where it
            continues the word of the token before it; without the special tokens around a line, which the collator
            adds.
        identity: what tells this row from others: its index, or its place in a stream.
        epoch: the epoch in which it is seen.
        rate: the share of its tokens to mask.
        length: the most tokens that a row can have, special ones included.
    """

    lines: Sequence[NDArray[np.integer]]
    identity: int
    epoch: int
    rate: float
    length: int


class MaskingCollator:
    """Pad a batch of rows and mask it.

    With `[CLS]` 101, `[SEP]` 102, `[MASK]` 103 and a word of two tokens, 7 ##8, whole word masking that chooses this
    word gives:

        lines       [[7*2, 8*2+1, 9*2]]
        input_ids   [101, 103, 103, 9, 102]
        labels      [-100, 7, 8, -100, -100]

    The result also holds `attention_mask`; with `packed`, the number of each token's line in its row as `lines`, from
    1, padding 0; with `words`, the number of each token's word in the batch.

    Args:
        vocabulary: see `Vocabulary`.
        strategy: what is masked as one.
        seed: the seed of all masks.
        mask_prob, random_prob: the shares of chosen tokens that become the mask token and a random one.
        fixed: whether every batch is as long as a row can be, and not as its longest row.
        multiple_of: other batches are padded to a multiple of this.
        packed: whether to return `lines`.
        words: whether to return `words`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        strategy: Strategy,
        seed: int,
        mask_prob: float = 0.8,
        random_prob: float = 0.1,
        fixed: bool = False,
        multiple_of: int = 1,
        packed: bool = False,
        words: bool = False,
    ):
        self.vocabulary, self.strategy, self.seeded = vocabulary, strategy, hash64(seed)
        self.affixes = [np.array(affix, np.int64) << 1 for affix in (vocabulary.prefix, vocabulary.suffix)]
        self.replacement = Replacement(vocabulary.mask_token_id, vocabulary.random_ids, mask_prob, random_prob)
        self.fixed, self.multiple_of, self.packed, self.words = fixed, multiple_of, packed, words

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        lines_of_rows, identities, epochs, rates, lengths = zip(*examples, strict=True)
        tokens, filled, lines = self._lay_out(lines_of_rows, lengths[0])
        input_ids, continues = tokens >> 1, (tokens & 1).astype(bool)
        maskable = self.vocabulary.maskable[input_ids] & filled
        keys = hash64(np.array(epochs), np.array(identities, np.uint64), state=self.seeded)
        chosen = choose(maskable, continues, np.array(rates), keys, self.strategy)
        masked, labels = replace(input_ids, chosen, keys, self.replacement)
        batch: dict[str, NDArray] = {"input_ids": masked, "attention_mask": filled.astype(np.int64), "labels": labels}
        if self.packed:
            batch["lines"] = lines
        if self.words:
            batch["words"] = np.cumsum(word_starts(maskable, continues)).reshape(filled.shape)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _lay_out(
        self, rows: Sequence[Sequence[NDArray[np.integer]]], longest: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """The tokens with special ones and padding, where there is none, and the lines' numbers: (batch, length)."""
        prefix, suffix = self.affixes
        counts, lines = list(map(len, rows)), list(chain.from_iterable(rows))
        pieces = [piece for line in lines for piece in (prefix, line, suffix)]
        sizes = np.array(list(map(len, lines))) + (len(prefix) + len(suffix))
        lengths = sizes if len(lines) == len(rows) else np.add.reduceat(sizes, np.cumsum([0, *counts[:-1]]))
        width = longest if self.fixed else min(longest, -(-int(lengths.max()) // self.multiple_of) * self.multiple_of)
        filled = np.arange(width) < lengths[:, None]
        tokens = np.full(filled.shape, self.vocabulary.pad_token_id << 1, np.int64)
        flat = np.concatenate(pieces)
        flat[np.cumsum(sizes) - sizes] &= ~1  # a line begins a word, whatever it was cut from
        tokens[filled] = flat
        numbers = np.zeros(filled.shape if self.packed else 0, np.int64)
        if self.packed:
            numbers[filled] = np.repeat(np.concatenate([np.arange(1, count + 1) for count in counts]), sizes)
        return tokens, filled, numbers
