"""From rows to a masked batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.masking import Replacement, Strategy, choose, hash64, replace, word_starts
from wordmask.vocabulary import Vocabulary


class Example(NamedTuple):
    """A row of tokens, and what its mask depends on.

    Attributes:
        tokens: (length,) each token's id times two, plus one where it continues the word of the token before it;
            without the special tokens around a row, which the collator adds.
        identity: what tells this row from others: its index, or a digest when streaming.
        epoch: the epoch in which it is seen.
        rate: the share of its tokens to mask.
    """

    tokens: NDArray[np.integer]
    identity: int
    epoch: int
    rate: float


class MaskingCollator:
    """Pad a batch of rows and mask it.

    With `[CLS]` 101, `[SEP]` 102, `[MASK]` 103 and a word of two tokens, 7 ##8, whole word masking that chooses this
    word gives:

        tokens      [7*2, 8*2+1, 9*2]
        input_ids   [101, 103, 103, 9, 102]
        labels      [-100, 7, 8, -100, -100]

    The result also holds `attention_mask`; with `words`, the number of each token's word in the batch as well.

    Args:
        vocabulary: see `Vocabulary`.
        strategy: what is masked as one.
        seed: the seed of all masks.
        mask_prob, random_prob: the shares of chosen tokens that become the mask token and a random one.
        length: the length of every batch, in tokens; as long as the longest row where it is `None`.
        multiple_of: batches are padded to a multiple of this.
        words: whether to return `words`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        strategy: Strategy,
        seed: int,
        mask_prob: float = 0.8,
        random_prob: float = 0.1,
        length: int | None = None,
        multiple_of: int = 1,
        words: bool = False,
    ):
        self.vocabulary, self.strategy, self.seed = vocabulary, strategy, seed
        self.replacement = Replacement(vocabulary.mask_token_id, vocabulary.random_ids, mask_prob, random_prob)
        self.length, self.multiple_of, self.words = length, multiple_of, words

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        input_ids, continues, lengths = self._pad([example.tokens for example in examples])
        filled = np.arange(input_ids.shape[1]) < lengths[:, None]
        maskable = self.vocabulary.maskable[input_ids] & filled

        keys = hash64(
            self.seed,
            np.array([example.epoch for example in examples]),
            np.array([example.identity for example in examples], np.uint64),
        )
        rates = np.array([example.rate for example in examples])
        chosen = choose(maskable, continues, rates, keys, self.strategy)
        masked, labels = replace(input_ids, chosen, keys, self.replacement)
        batch: dict[str, NDArray] = {"input_ids": masked, "attention_mask": filled.astype(np.int64), "labels": labels}
        if self.words:
            batch["words"] = np.cumsum(word_starts(maskable, continues)).reshape(filled.shape)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _pad(
        self, rows: Sequence[NDArray[np.integer]]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """Ids and continuations, (batch, length), and the rows' lengths, with special tokens and padding."""
        vocabulary = self.vocabulary
        first, extra = len(vocabulary.prefix), len(vocabulary.prefix) + len(vocabulary.suffix)
        texts = np.array([len(row) for row in rows])
        lengths = texts + extra
        width = self.length or -(-int(lengths.max()) // self.multiple_of) * self.multiple_of
        tokens = np.full((len(rows), width), vocabulary.pad_token_id << 1, np.int64)
        places = np.arange(width - first)
        tokens[:, first:][places < texts[:, None]] = np.concatenate(rows)
        tokens[:, :first] = np.array(vocabulary.prefix, np.int64) << 1
        for offset, special in enumerate(vocabulary.suffix, first):
            tokens[np.arange(len(rows)), texts + offset] = special << 1
        return tokens >> 1, (tokens & 1).astype(bool), lengths
