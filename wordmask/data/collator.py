"""The collator of the training scripts: from the sequences of sequences.py to a masked batch."""

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
from wordmask.utils.arrays import starts_of
from wordmask.utils.jit import compiled


class Example(NamedTuple):
    """A sequence, and what its mask depends on.

    Attributes:
        documents: the documents of the sequence, one or more. Each is (length,): every token's id times two, plus one
            if it continues the word of the token before it. The collator adds the special tokens around documents.
        identity: what tells this sequence from others: its index, or its place in a stream.
        epoch: the epoch in which it is seen.
        rate: the share of its tokens to mask.
        length: the most tokens of a sequence, special ones included.
    """

    documents: Sequence[NDArray[np.integer]]
    identity: int
    epoch: int
    rate: float
    length: int


class MaskingCollator:
    """Pads a batch of sequences and masks it.

    With `[CLS]` 101, `[SEP]` 102, `[MASK]` 103 and a word of two tokens, 7 ##8, whole word masking that chooses this
    word gives:

        documents   [[7*2, 8*2+1, 9*2]]
        input_ids   [101, 103, 103, 9, 102]
        labels      [-100, 7, 8, -100, -100]

    All tensors are (batch, length). The result also holds `attention_mask`. With `packed` it holds `sequence_ids`: the
    number of each token's document in its sequence, from 1, padding 0. With `word_ids` it holds `word_ids`: the number
    of each token's word in the batch. With `highest_rate` it holds `positions`: the flat positions of the labels,
    filled up with others to the largest number that there can be, (most,).

    Args:
        vocabulary: see `Vocabulary`.
        strategy: what is masked as one.
        seed: the seed of all masks.
        mask_prob, random_prob: the shares of chosen tokens that become the mask token and a random one.
        fixed: whether every batch is as long as a sequence can be, and not as its longest sequence.
        multiple_of: other batches are padded to a multiple of this.
        packed: whether to return `sequence_ids`.
        word_ids: whether to return `word_ids`.
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
        documents, identities, epochs, rates, lengths = zip(*examples, strict=True)
        keys = hash64(np.array(epochs), np.array(identities, np.uint64), state=self.seeded)
        input_ids, continues, maskable, sequence_ids = self._lay_out(documents, lengths[0])
        chosen = choose(maskable, continues, np.array(rates), keys, self.strategy)
        masked, labels = replace(input_ids, chosen, keys, self.replacement)
        batch: dict[str, NDArray] = {
            "input_ids": masked,
            "attention_mask": (sequence_ids > 0).astype(np.int64),
            "labels": labels,
        }
        if self.packed:
            batch["sequence_ids"] = sequence_ids
        if self.word_ids:
            # The running sum of starts numbers the words: starts 1 1 0 1 give 1 2 2 3.
            batch["word_ids"] = np.cumsum(word_starts(maskable, continues)).reshape(masked.shape)
        if self.highest_rate is not None:
            size, width = masked.shape
            most = size * min(width, math.ceil(self.highest_rate * width) + MAX_UNIT - 1)
            # A stable sort of "has no label" puts labelled positions first: labels -100 7 -100 9 give 1 3 0 2.
            batch["positions"] = np.argsort(labels.ravel() == IGNORED, kind="stable")[:most]
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _lay_out(
        self, sequences: Sequence[Sequence[NDArray[np.integer]]], longest: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
        """See `lay_out`. The batch is as wide as its longest sequence, or of fixed width."""
        documents = list(chain.from_iterable(sequences))
        counts, sizes = np.array(list(map(len, sequences))), np.array(list(map(len, documents)))
        prefix, suffix = self.affixes
        whole = sizes + (len(prefix) + len(suffix))
        # The length of a sequence is the sum over its documents: counts 2, 1 and lengths 5, 3, 4 give 8, 4.
        one_each = len(documents) == len(sequences)
        lengths = whole if one_each else np.add.reduceat(whole, starts_of(counts))
        width = longest if self.fixed else min(longest, round_up(int(lengths.max()), self.multiple_of))
        vocabulary = self.vocabulary
        ids = np.full((len(sequences), width), vocabulary.pad_token_id, np.int64)
        return lay_out(np.concatenate(documents), sizes, counts, prefix, suffix, vocabulary.maskable, ids)


def round_up(number: int, multiple_of: int) -> int:
    """The least multiple that is not below a number."""
    return -(-number // multiple_of) * multiple_of


@compiled
def lay_out(
    tokens: NDArray[np.integer],
    sizes: NDArray[np.int64],
    counts: NDArray[np.int64],
    prefix: NDArray[np.int64],
    suffix: NDArray[np.int64],
    maskable_ids: NDArray[np.bool_],
    ids: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Write documents, with the special tokens around them, into a batch of padding.

    Args:
        tokens: (all tokens,) the documents, one behind the other, as `Example` has them.
        sizes: (documents,) their lengths.
        counts: (batch,) the documents of each sequence.
        prefix, suffix: the special tokens around a document.
        maskable_ids: (ids,) whether a token may be masked.
        ids: (batch, length), padding.

    Returns:
        Four arrays (batch, length): `ids`, whether a token continues the word of the one before it, whether it may be
        masked, and the number of its document in the sequence, from 1, padding 0.
    """
    continues, maskable = np.zeros(ids.shape, np.bool_), np.zeros(ids.shape, np.bool_)
    sequence_ids = np.zeros(ids.shape, np.int64)
    document = token = 0
    for sequence in range(len(counts)):
        start = 0
        for number in range(1, counts[sequence] + 1):
            begin = start + len(prefix)
            end = begin + sizes[document]
            ids[sequence, start:begin] = prefix
            for position in range(begin, end):
                code = np.int64(tokens[token])
                ids[sequence, position] = code >> 1
                # Code 17 is id 8, which continues a word; code 16 is id 8, which begins one. The first token of a
                # document begins a word, even where a long word was cut.
                continues[sequence, position] = code & 1 and position > begin
                token += 1
            ids[sequence, end : end + len(suffix)] = suffix
            for position in range(start, end + len(suffix)):
                maskable[sequence, position] = maskable_ids[ids[sequence, position]]
                sequence_ids[sequence, position] = number
            start = end + len(suffix)
            document += 1
    return ids, continues, maskable, sequence_ids
