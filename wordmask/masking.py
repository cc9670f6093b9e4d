"""Choosing what to mask and replacing it: pure functions of arrays, vectorised over the batch.

A mask is a function of a 64-bit key for each row (made from the seed, the epoch and the example) and of positions,
through a counter-based generator: there is no state to save, so a resume, another number of workers or of processes
changes nothing.

Choosing happens on *units*: tokens, words, or runs of words, never longer than `MAX_UNIT` tokens. A row's units are
put in order of their length, at random within a length, and sampled systematically: the unit of rank r is taken where
floor((r + 1)p + u) > floor(rp + u), with one uniform number u a row. Every unit, and so every word, is taken with
probability exactly p whatever its length, and because the order is by length the tokens taken stay within one unit
of the budget np: the share is exact where BERT's rule starves long words (35, 19, 13 and 0 % for words of 1 to 4
tokens on 20-token lines) and "until the budget is passed" overshoots (18 % for 15 %).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IGNORED = -100  # the label of a position that is not predicted
MAX_UNIT = 10  # tokens; a row has at most ceil(np) + MAX_UNIT - 1 labels

# A sort key in 32 bits: length, then chance, then position, which makes every key of a row unique, so that any sort
# gives the same order. Where chance has few bits left, ties go by position: that moves no word's probability, which is
# that of its row in any order.
_LENGTH_BITS, LONGEST_ROW = 4, 2**16
_NO_UNIT = np.uint32(2**32 - 1)
# One stream of random numbers for each purpose, so that no two draws share a number.
_ORDER, _RUN, _REPLACE = range(3)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Strategy(StrEnum):
    """What is masked as one: a token, a word, or a run of words."""

    TOKEN = "token"
    WHOLE_WORD = "whole_word"
    NGRAM = "ngram"
    SPAN = "span"


def _span_lengths(p: float = 0.2, longest: int = 10) -> NDArray[np.floating]:
    """Probabilities of runs of 1 to `longest` words, geometric, as in SpanBERT (arXiv 1907.10529)."""
    weights = p * (1 - p) ** np.arange(longest)
    return weights / weights.sum()


RUN_LENGTHS = {
    Strategy.NGRAM: np.array([0.4, 0.3, 0.2, 0.1]),  # MacBERT (arXiv 2004.13922)
    Strategy.SPAN: _span_lengths(),
}


@dataclass(frozen=True)
class Replacement:
    """What happens to a chosen token, with what probability; the rest is kept as it is (BERT: 80 / 10 / 10 %)."""

    mask_token_id: int
    random_ids: NDArray[np.int64]  # the tokens that may stand in for another: no special one
    mask_prob: float = 0.8
    random_prob: float = 0.1

    @cached_property
    def thresholds(self) -> tuple[np.uint64, np.uint64]:
        """Of 2^32 equal chances, below which a token becomes the mask token, and below which at most a random one."""
        shares = self.mask_prob, min(self.mask_prob + self.random_prob, 1.0)
        some_mask, some_random = (np.uint64(round(share * 2**32)) for share in shares)
        return some_mask, some_random


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The mixing function of splitmix64 (Steele, Lea and Flood, 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def hash64(*parts: int | NDArray, state: NDArray[np.uint64] | None = None) -> NDArray[np.uint64]:
    """A 64-bit hash of whole numbers, element by element, with numpy's broadcasting.

    Args:
        parts: the numbers.
        state: the hash of the numbers before them, if any.
    """
    state = np.zeros(1, np.uint64) if state is None else state
    for part in parts:
        state = _mix((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return state


def draw(keys: NDArray[np.uint64], purpose: int, positions: NDArray[np.int64] | int = 0) -> NDArray[np.uint64]:
    """64 random bits for each key and position: splitmix64, seeded by the key, at a place in the purpose's stream."""
    counter = np.atleast_1d(positions).astype(np.uint64) + np.uint64((purpose << 32) + 1)
    return _mix(keys + counter * _GOLDEN)


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) from 64 random bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _ranges(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 … c-1 for each count c, one after the other: [2, 3] gives [0, 1, 0, 1, 2]."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def word_starts(maskable: NDArray[np.bool_], continues: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a word begins: a maskable token that does not continue a maskable one. All arrays (batch, length)."""
    joined = continues.copy()
    joined[:, 0] = False
    joined[:, 1:] &= maskable[:, :-1]
    return maskable & ~joined


def _units(
    maskable: NDArray[np.bool_],
    continues: NDArray[np.bool_],
    rates: NDArray[np.float64],
    keys: NDArray[np.uint64],
    strategy: Strategy,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first flat position and the length of every unit of a batch, in order."""
    if strategy is Strategy.TOKEN:
        starts = np.flatnonzero(maskable)
        return starts, np.ones_like(starts)
    begins = word_starts(maskable, continues)
    starts = np.flatnonzero(begins)
    if not len(starts):
        return starts, starts
    ends = maskable.copy()  # a word's last token: what follows begins a word or is not maskable
    ends[:, :-1] &= begins[:, 1:] | ~maskable[:, 1:]
    lengths = np.flatnonzero(ends) - starts + 1
    if lengths.max() > MAX_UNIT:
        parts = -(-lengths // MAX_UNIT)
        part = _ranges(parts)
        starts = np.repeat(starts, parts) + MAX_UNIT * part
        lengths = np.minimum(np.repeat(lengths, parts) - MAX_UNIT * part, MAX_UNIT)
    if strategy is Strategy.WHOLE_WORD:
        return starts, lengths
    return _runs(starts, lengths, maskable.shape, rates, keys, RUN_LENGTHS[strategy])


def _runs(
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    shape: tuple[int, int],
    rates: NDArray[np.float64],
    keys: NDArray[np.uint64],
    probabilities: NDArray[np.floating],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tile each row's words with runs of random lengths; a run is cut, at a word, where it would pass the budget.

    A run that is then taken with a probability that does not depend on it has the length distribution of the tiles,
    and every word in it has that same probability.
    """
    batch, width = shape
    rows = starts // width
    words = np.bincount(rows, minlength=batch)
    first = (np.cumsum(words) - words)[rows]
    rank = np.arange(len(starts)) - first
    drawn = uniform(draw(keys[rows], _RUN, rank))
    run_lengths = 1 + np.searchsorted(np.cumsum(probabilities)[:-1], drawn, side="right")
    passed = np.cumsum(run_lengths) - run_lengths
    boundary = first + passed - passed[first]
    begins = np.zeros(len(starts), bool)
    begins[boundary[boundary < first + words[rows]]] = True
    begins[1:] |= starts[1:] != starts[:-1] + lengths[:-1]  # a special token lies between

    budget = rates * np.bincount(rows, weights=lengths, minlength=batch)
    longest = np.clip(np.floor(budget), 1, MAX_UNIT).astype(np.int64)[rows]
    offset = starts - starts[np.maximum.accumulate(np.where(begins, np.arange(len(starts)), 0))]
    # Words that lie whole within the same stretch of `longest` tokens stay together.
    stretch = offset // longest
    begins[1:] |= stretch[:-1] != (offset + lengths - 1)[1:] // longest[1:]
    return starts[begins], np.add.reduceat(lengths, np.flatnonzero(begins))


def choose(
    maskable: NDArray[np.bool_],
    continues: NDArray[np.bool_],
    rates: NDArray[np.float64],
    keys: NDArray[np.uint64],
    strategy: Strategy,
) -> NDArray[np.int64]:
    """Choose what to mask, each word with the probability of its row.

    Args:
        maskable: (batch, length), the tokens that may be masked.
        continues: (batch, length), whether a token continues the word of the token before it.
        rates: (batch,), the share of maskable tokens to choose; 0 chooses nothing.
        keys: (batch,), the rows' random keys, see `hash64`.
        strategy: what is masked as one.

    Returns:
        The flat positions chosen, in no order: at least one unit in each row with something to mask and a rate
        above 0, and at most ceil(np) + MAX_UNIT - 1 in a row with n maskable tokens and rate p.
    """
    batch, width = maskable.shape
    if width > LONGEST_ROW:
        raise ValueError(f"rows of {width} tokens are beyond {LONGEST_ROW}")
    starts, lengths = _units(maskable, continues, rates, keys, strategy)
    position_bits, length_shift = max(width - 1, 1).bit_length(), np.uint32(32 - _LENGTH_BITS)
    positions = np.arange(width)
    chance = draw(keys[:, None], _ORDER, positions) >> np.uint64(32 + _LENGTH_BITS + position_bits)
    by_chance = chance.astype(np.uint32) << np.uint32(position_bits) | positions.astype(np.uint32)
    order = np.full((batch, width), _NO_UNIT)
    order.ravel()[starts] = by_chance.ravel().take(starts) | lengths.astype(np.uint32) << length_shift
    units = np.count_nonzero(order != _NO_UNIT, axis=1)
    order.sort(axis=1)

    phase = uniform(keys)  # random bits already, and every other draw mixes them again
    taken = np.floor(units * rates + phase).astype(np.int64)
    row = np.repeat(np.arange(batch), taken)
    # The ranks r at which floor(rp + u) steps up to 1, 2, …
    rank = np.ceil((_ranges(taken) + 1 - phase[row]) / rates[row]).astype(np.int64) - 1

    if not taken.all() and len(missed := np.flatnonzero((rates > 0) & (units > 0) & (taken == 0))):
        # Rows too short for their rate: one unit all the same, each as likely.
        spread = phase[missed] / (1 - units[missed] * rates[missed])
        row = np.concatenate([row, missed])
        rank = np.concatenate([rank, (spread * units[missed]).astype(np.int64)])

    chosen = order[row, np.clip(rank, 0, units[row] - 1)]
    first = row * width + (chosen & np.uint32(2**position_bits - 1))
    lengths = (chosen >> length_shift).astype(np.int64)
    return np.repeat(first, lengths) + _ranges(lengths)


def replace(
    input_ids: NDArray[np.int64], chosen: NDArray[np.int64], keys: NDArray[np.uint64], replacement: Replacement
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Replace the chosen tokens and label them; the input is not changed.

    Args:
        input_ids: (batch, length).
        chosen: flat positions to predict.
        keys: (batch,), the rows' random keys.
        replacement: what stands in their place.

    Returns:
        The masked input ids and the labels, both (batch, length): the original token where one was chosen,
        `IGNORED` elsewhere.
    """
    width = input_ids.shape[1]
    masked, labels = input_ids.copy(order="C"), np.full(input_ids.shape, IGNORED, input_ids.dtype)
    original = masked.ravel()[chosen]
    labels.ravel()[chosen] = original
    rows = chosen // width
    bits = draw(keys[rows], _REPLACE, chosen - rows * width)
    # The upper half of the bits says what to do, the lower half which token.
    action = bits >> np.uint64(32)
    some_mask, some_random = replacement.thresholds
    new = np.where(action < some_mask, replacement.mask_token_id, original)
    at_random = np.flatnonzero((action >= some_mask) & (action < some_random))
    pick = ((bits[at_random] & np.uint64(2**32 - 1)) * np.uint64(len(replacement.random_ids))) >> np.uint64(32)
    new[at_random] = replacement.random_ids[pick.astype(np.int64)]
    masked.ravel()[chosen] = new
    return masked, labels
