"""The collator of the training scripts: from the sequences of sequences.py to a masked batch.

It knows of each token only whether it continues the word of the token before it. tokenization/words.py decides words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.masking import IGNORED, MAX_UNIT, Keys, Mix, Strategy, choose, hash64, replace, word_starts
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.utils.arrays import starts_of
from wordmask.utils.errors import InputError
from wordmask.utils.jit import compiled

BOUNDS = 64  # of documents; a flat batch of one shape has a multiple of it


class Example(NamedTuple):
    """A sequence, and what its mask depends on.

    Attributes:
        documents: the documents of the sequence, one or more. Each is (length,): the id of each token times two, plus
            one if the token continues the word of the token before it. The collator adds special tokens.
        identity: the number of the sequence: its index, or its place in a stream.
        epoch: the epoch in which it is seen.
        rate: the share of its tokens to mask.
        length: the largest number of tokens of a sequence, with special tokens.
    """

    documents: Sequence[NDArray[np.integer]]
    identity: int
    epoch: int
    rate: float
    length: int


@dataclass(eq=False)
class Masker:
    """What all collators do: choose tokens of a batch, and replace them.

    Attributes:
        vocabulary: see `Vocabulary`.
        strategy: what is masked as one unit; of a mix, each sequence draws its own.
        seed: the seed of all masks.
        mask_replace_prob, random_replace_prob: which shares of chosen tokens become the mask token, and a random one.
        pad_to_multiple_of: the length of a batch is a multiple of this.
        word_ids: whether to return `word_ids`.
    """

    vocabulary: Vocabulary
    strategy: Strategy | Mix
    seed: int
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int = 1
    word_ids: bool = False

    def keys_of(self, epochs: Sequence[int], identities: Sequence[int]) -> Keys:
        """(examples,) What all random numbers of examples in epochs follow from, beside the seed."""
        return hash64(self.seed, np.array(epochs), np.array(identities, np.uint64))

    def _mask(
        self,
        input_ids: NDArray[np.int64],
        continues: NDArray[np.bool_],
        maskable: NDArray[np.bool_],
        rates: NDArray[np.float64],
        keys: NDArray[np.uint64],
    ) -> dict[str, NDArray[Any]]:
        """The masked `input_ids`, the `labels` and, if they are wanted, the `word_ids`; see `choose` and `replace`."""
        chosen = choose(maskable, continues, rates, keys, self.strategy)
        mask_id, random_ids = self.vocabulary.mask_token_id, self.vocabulary.random_ids
        shares = self.mask_replace_prob, self.random_replace_prob
        masked, labels = replace(input_ids, chosen, keys, mask_id, random_ids, shares)
        batch: dict[str, NDArray[Any]] = {"input_ids": masked, "labels": labels}
        if self.word_ids:
            # The running sum of starts numbers the words: starts 1 1 0 1 give 1 2 2 3.
            batch["word_ids"] = np.cumsum(word_starts(maskable, continues)).reshape(masked.shape)
        return batch


@dataclass(eq=False)
class MaskingCollator(Masker):
    """Pads a batch of sequences and masks it.

    With `[CLS]` 101, `[SEP]` 102, `[MASK]` 103 and a word of the two tokens 7 ##8, whole word masking that chooses
    this word gives:

        documents   [[7*2, 8*2+1, 9*2]]
        input_ids   [101, 103, 103, 9, 102]
        labels      [-100, 7, 8, -100, -100]

    All tensors are (batch, length). The result also has `attention_mask`. With `packed` it has `sequence_ids`: the
    number of each token's document in its sequence, from 1; padding has 0. With `word_ids` it has `word_ids`: the
    number of each token's word in the batch. With `positions` it has `positions`, (labels,): the flat positions of
    the labels, and `is_padded`, whether the batch has padding. With `highest_rate` other positions follow, up to the
    largest number of labels that is possible.

    Attributes:
        fixed: whether every batch has the length of the longest possible sequence, not of its own longest one.
        packed: whether to return `sequence_ids`.
        flat: whether to return a flat batch, see `flatten`.
        positions: whether to return `positions` and `is_padded`. On a GPU, a step would otherwise wait for them.
        highest_rate: the highest masking rate of the training, for `positions` of a fixed number.
    """

    fixed: bool = False
    packed: bool = False
    flat: bool = False
    positions: bool = False
    highest_rate: float | None = None

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        sequences, identities, epochs, rates, longest = zip(*examples, strict=True)
        documents = list(chain.from_iterable(sequences))
        sizes, counts = np.array(list(map(len, documents))), np.array(list(map(len, sequences)))
        vocabulary = self.vocabulary
        prefix, suffix = np.array(vocabulary.prefix, np.int64), np.array(vocabulary.suffix, np.int64)
        # The length of a sequence is the sum over its documents: lengths 5, 3, 4 and counts 2, 1 give 8, 4.
        lengths = sizes + len(prefix) + len(suffix)
        if len(documents) > len(sequences):
            lengths = np.add.reduceat(lengths, starts_of(counts))
        length = longest[0] if self.fixed else min(longest[0], round_up(int(lengths.max()), self.pad_to_multiple_of))
        padding = np.full((len(sequences), length), vocabulary.pad_token_id, np.int64)
        input_ids, continues, maskable, sequence_ids = lay_out(
            np.concatenate(documents), sizes, counts, prefix, suffix, vocabulary.maskable, padding
        )
        batch = self._mask(input_ids, continues, maskable, np.array(rates), self.keys_of(epochs, identities))
        batch["attention_mask"] = (sequence_ids > 0).astype(np.int64)
        others: dict[str, Any] = {}
        if self.positions and not (self.flat or self.packed):
            others["is_padded"] = self.fixed or not batch["attention_mask"].all()
        if self.flat:
            tokens = None if self.fixed else round_up(int(lengths.sum()), self.pad_to_multiple_of)
            batch, others = flatten(batch, sizes + len(prefix) + len(suffix), length, tokens)
        elif self.packed:
            batch["sequence_ids"] = sequence_ids
        if self.highest_rate is not None:
            batch["positions"] = self._as_many_positions(batch["labels"], len(sequences), length, self.highest_rate)
        elif self.positions:
            batch["positions"] = positions_of(batch["labels"])
        return {name: torch.from_numpy(array) for name, array in batch.items()} | others

    @staticmethod
    def _as_many_positions(labels: NDArray[np.int64], sequences: int, length: int, rate: float) -> NDArray[np.int64]:
        """As many positions as so many sequences may have labels at this rate, those of the labels first."""
        most = sequences * min(length, math.ceil(rate * length) + MAX_UNIT - 1)
        # A stable sort of "has no label" puts labelled positions first: labels -100 7 -100 9 give 1 3 0 2.
        return np.argsort(labels.ravel() == IGNORED, kind="stable")[:most]


@dataclass(frozen=True)
class WithPositions:
    """Adds `positions` and `is_padded` to what another collator returns, see `MaskingCollator`.

    Attributes:
        collator: returns `labels` and `attention_mask`, tensors (batch, length), and maybe more.
        longest: the most tokens that the model has positions for; `None` without a limit.

    Raises:
        InputError: for a longer text, which a GPU would end with an error that names no reason.
    """

    collator: Callable[[Any], Mapping[str, Any]]
    longest: int | None = None

    def __call__(self, examples: Any) -> dict[str, Any]:
        batch = dict(self.collator(examples))
        mask = batch["attention_mask"].numpy()
        if self.longest is not None and (length := mask.sum(1).max()) > self.longest:
            raise InputError(
                f"input_ids: a text of {length} tokens, and the model has positions for {self.longest}; tokenize with "
                f"truncation=True, max_length={self.longest}"
            )
        batch["positions"] = torch.from_numpy(positions_of(batch["labels"].numpy()))
        return batch | {"is_padded": not mask.all()}


def positions_of(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The flat positions to predict at; the first one of a batch without labels, since a model needs one."""
    labelled = labels.ravel() != IGNORED
    return np.flatnonzero(labelled) if labelled.any() else np.zeros(1, np.int64)


def flatten(
    batch: dict[str, NDArray[Any]], sizes: NDArray[np.int64], longest: int, tokens: int | None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Make one sequence of a batch: all its documents, then its padding, which makes documents of its own.

    Two sequences, one of documents of 3 and 2 tokens, one of a document of 4 with 1 of padding, give:

        position_ids    [[0, 1, 2, 0, 1, 0, 1, 2, 3, 0]]
        cu_seq_lens_q   [0, 3, 5, 9, 10]
        max_length_q    5

    The last two are the bounds of the documents (int32), and a number that none of them exceeds. Keys have the same.
    In batches of one shape, empty documents follow, [0, 3, 5, 9, 10, 10, ... 10], so that there are few numbers of
    bounds, 64, 128, 192 ... 512, 640, 768 ..., for a CUDA graph serves one only.

    Args:
        batch: arrays (batch, length), with `attention_mask`.
        sizes: (documents,) the tokens of each document, with special ones.
        longest: the most tokens that a document may have.
        tokens: how many to keep, with padding; `None` for all, which gives batches of one shape.

    Returns:
        The batch, of arrays (1, tokens), with `position_ids`, which begin at 0; and the bounds.
    """
    attended = batch["attention_mask"].ravel() > 0
    order = np.concatenate([np.flatnonzero(attended), np.flatnonzero(~attended)])[:tokens]
    padding = len(order) - int(sizes.sum())
    # 11 tokens of padding with a longest document of 5 are documents of 5, 5 and 1.
    rest = np.diff(np.append(np.arange(0, padding, longest), padding))
    sizes_and_padding = np.concatenate([sizes, rest])
    starts = starts_of(sizes_and_padding)
    flat = {name: array.ravel()[order][None] for name, array in batch.items()}
    flat["position_ids"] = (np.arange(len(order)) - np.repeat(starts, sizes_and_padding))[None]
    count = len(starts) + 1
    if tokens is None:  # up to a quarter more: 100 become 128, 600 become 640, 1400 become 1536
        count = round_up(count, max(BOUNDS, 1 << (count // 8).bit_length()))
    ends = [len(order)] * (count - len(starts))
    bounds = torch.from_numpy(np.append(starts, ends).astype(np.int32))
    most = longest if tokens is None else int(sizes_and_padding.max())
    return flat, {f"cu_seq_lens_{side}": bounds for side in "qk"} | {f"max_length_{side}": most for side in "qk"}


def round_up(number: int, multiple_of: int) -> int:
    """The smallest multiple of `multiple_of` that is at least `number`."""
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
    """Write documents and the special tokens around them into a batch of padding.

    Args:
        tokens: (all tokens,) the documents, one after the other, as `Example` has them.
        sizes: (documents,) the length of each document.
        counts: (batch,) the number of documents of each sequence.
        prefix, suffix: the special tokens before and after a document.
        maskable_ids: (ids,) whether a token may be masked.
        ids: (batch, length) padding.

    Returns:
        Four arrays (batch, length): `ids`; whether a token continues the word of the token before it; whether it may
        be masked; and the number of its document in the sequence, from 1. Padding has 0.
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
                # document always begins a word, even if a long word was cut there.
                continues[sequence, position] = code & 1 and position > begin
                token += 1
            ids[sequence, end : end + len(suffix)] = suffix
            for position in range(start, end + len(suffix)):
                maskable[sequence, position] = maskable_ids[ids[sequence, position]]
                sequence_ids[sequence, position] = number
            start = end + len(suffix)
            document += 1
    return ids, continues, maskable, sequence_ids
