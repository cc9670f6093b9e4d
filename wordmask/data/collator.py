"""From rows to a masked batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.masking import IGNORED, MAX_UNIT, Replacement, Strategy, choose, hash64, replace, word_starts
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.utils.jit import compiled


class Example(NamedTuple):
    """A row of tokens, and what its mask depends on.

    Attributes:
        lines: the lines of the row, one or more; each (length,), every token's id times two, plus one where it
            continues the word of the token before it; without the special tokens around a line, which the collator
            adds.
        identity: what tells this row from others: its index, or its place in a stream.
        epoch: the epoch in which it is seen.
        rate: the share of its tokens to mask.
        length: the most tokens that a row can have, special ones included.
    """

    documents: Sequence[NDArray[np.integer]]
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
    1, padding 0; with `words`, the number of each token's word in the batch; with
    `highest_rate`, the flat `positions` of the labels, filled up with others to as many as there can be at most.

    Args:
        vocabulary: see `Vocabulary`.
        strategy: what is masked as one.
        seed: the seed of all masks.
        mask_prob, random_prob: the shares of chosen tokens that become the mask token and a random one.
        fixed: whether every batch is as long as a row can be, and not as its longest row.
        multiple_of: other batches are padded to a multiple of this.
        packed: whether to return `lines`.
        words: whether to return `words`.
        highest_rate: the highest masking rate of the training, to return `positions`.
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
        word_ids: bool = False,
        highest_rate: float | None = None,
    ):
        self.vocabulary, self.strategy, self.seeded = vocabulary, strategy, hash64(seed)
        self.affixes = [np.array(affix, np.int64) for affix in (vocabulary.prefix, vocabulary.suffix)]
        self.replacement = Replacement(vocabulary.mask_token_id, vocabulary.random_ids, mask_prob, random_prob)
        self.fixed, self.multiple_of, self.packed, self.word_ids = fixed, multiple_of, packed, word_ids
        self.highest_rate = highest_rate

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        lines_of_rows, identities, epochs, rates, lengths = zip(*examples, strict=True)
        keys = hash64(np.array(epochs), np.array(identities, np.uint64), state=self.seeded)
        input_ids, continues, maskable, lines = self._lay_out(lines_of_rows, lengths[0])
        chosen = choose(maskable, continues, np.array(rates), keys, self.strategy)
        masked, labels = replace(input_ids, chosen, keys, self.replacement)
        batch: dict[str, NDArray] = {
            "input_ids": masked,
            "attention_mask": (lines > 0).astype(np.int64),
            "labels": labels,
        }
        if self.packed:
            batch["sequence_ids"] = lines
        if self.word_ids:
            batch["word_ids"] = np.cumsum(word_starts(maskable, continues)).reshape(masked.shape)
        if self.highest_rate is not None:
            size, width = masked.shape
            most = size * min(width, math.ceil(self.highest_rate * width) + MAX_UNIT - 1)
            # A stable sort of "has no label" puts labelled positions first: labels -100 7 -100 9 give 1 3 0 2.
            batch["positions"] = np.argsort(labels.ravel() == IGNORED, kind="stable")[:most]
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _lay_out(
        self, rows: Sequence[Sequence[NDArray[np.integer]]], longest: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
        """See `_lay_out`; the width is that of the longest row, or fixed."""
        lines = list(chain.from_iterable(rows))
        counts, sizes = np.array(list(map(len, rows))), np.array(list(map(len, lines)))
        prefix, suffix = self.affixes
        whole = sizes + (len(prefix) + len(suffix))
        # The length of a row is the sum over its lines: counts 2, 1 and lengths 5, 3, 4 give 8, 4.
        lengths = whole if len(lines) == len(rows) else np.add.reduceat(whole, np.cumsum(counts) - counts)
        width = longest if self.fixed else min(longest, -(-int(lengths.max()) // self.multiple_of) * self.multiple_of)
        vocabulary = self.vocabulary
        ids = np.full((len(rows), width), vocabulary.pad_token_id, np.int64)
        return _lay_out(np.concatenate(lines), sizes, counts, prefix, suffix, vocabulary.maskable, ids)


@compiled
def _lay_out(
    tokens: NDArray[np.integer],
    sizes: NDArray[np.int64],
    counts: NDArray[np.int64],
    prefix: NDArray[np.int64],
    suffix: NDArray[np.int64],
    maskable_ids: NDArray[np.bool_],
    ids: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Write lines and the special tokens around them into rows of padding.

    Args:
        tokens: the lines, one behind the other, as `Example` has them.
        sizes: (lines,) their lengths.
        counts: (batch,) the lines of each row.
        prefix, suffix: the special tokens around a line.
        maskable_ids: (ids,) whether a token may be masked.
        ids: (batch, length), padding.

    Returns:
        Four arrays (batch, length): `ids`, whether a token continues the word of the one before it, whether it may be
        masked, and the number of its line in the row, from 1, padding 0.
    """
    continues, maskable = np.zeros(ids.shape, np.bool_), np.zeros(ids.shape, np.bool_)
    numbers = np.zeros(ids.shape, np.int64)
    line = token = 0
    for row in range(len(counts)):
        start = 0
        for number in range(1, counts[row] + 1):
            first = start + len(prefix)
            end = first + sizes[line]
            ids[row, start:first] = prefix
            for place in range(first, end):
                code = np.int64(tokens[token])
                ids[row, place] = code >> 1
                # code 17 is id 8, which continues a word; code 16 is id 8, which begins one
                continues[row, place] = code & 1 and place > first  # a line begins a word, whatever it was cut from
                token += 1
            ids[row, end : end + len(suffix)] = suffix
            for place in range(start, end + len(suffix)):
                maskable[row, place] = maskable_ids[ids[row, place]]
                numbers[row, place] = number
            start = end + len(suffix)
            line += 1
    return ids, continues, maskable, numbers
