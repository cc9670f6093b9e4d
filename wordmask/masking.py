"""Choosing what to mask and replacing it: pure functions of arrays, compiled, linear in batch × length.

A mask is a function of a 64-bit key for each row (made from the seed, the epoch and the example) and of positions,
through a counter-based generator: there is no state to save, so a resume, another number of workers or of processes
changes nothing.

Choosing happens on *units*: tokens, words, or runs of words, never longer than `MAX_UNIT` tokens. A row's units are
put in order of their length, at random within a length, and sampled systematically: the unit of rank r is taken where
floor((r + 1)p + u) > floor(rp + u), with one uniform number u a row. Every unit, and so every word, is taken with
probability exactly p whatever its length, and because the order is by length the tokens taken stay within one unit
of the budget np: the share is exact where BERT's rule starves long words (35, 19, 13 and 0 % for words of 1 to 4
tokens on 20-token lines) and "until the budget is passed" overshoots (18 % for 15 %).

Of the units of one length only those that are taken are ever drawn, by the first steps of a Fisher-Yates shuffle.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordmask.utils.jit import compiled

IGNORED = -100  # the label of a position that is not predicted
MAX_UNIT = 10  # tokens; a row has at most ceil(np) + MAX_UNIT - 1 labels

# One stream of random numbers for each purpose, so that no two draws share a number.
_ORDER, _RUN, _REPLACE = (np.uint64(purpose << 32) for purpose in range(3))
# Numba makes a float of an unsigned and a signed number, hence the types of all constants.
_GOLDEN, _ONE, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(1), np.uint64(32)


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
_STEPS = {strategy: np.cumsum(RUN_LENGTHS.get(strategy, np.zeros(1)))[:-1] for strategy in Strategy}


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


@compiled
def _mix(state: Any) -> Any:
    """The mixing function of splitmix64 (Steele, Lea and Flood, 2014), of a number or of an array."""
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


@compiled
def _draw(key: np.uint64, purpose: np.uint64, place: int) -> np.uint64:
    """64 random bits for a key and a place: splitmix64, seeded by the key, at a place in the purpose's stream."""
    return _mix(key + (purpose + np.uint64(place) + _ONE) * _GOLDEN)


@compiled
def uniform(bits: Any) -> Any:
    """Numbers in [0, 1) from 64 random bits, of a number or of an array."""
    return (bits >> np.uint64(11)) * 2.0**-53


@compiled
def _below(most: int, bits: np.uint64) -> np.int64:
    """A whole number from 0 to `most` - 1, for `most` up to 2^32, from the upper half of 64 random bits."""
    return np.int64(((bits >> _HALF) * np.uint64(most)) >> _HALF)


def word_starts(maskable: NDArray[np.bool_], continues: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a word begins: a maskable token that does not continue a maskable one. All arrays (batch, length)."""
    # maskable   1 1 0 1 1    with the special token in the middle
    # continues  0 1 1 1 1
    # result     1 0 0 1 0    the fourth token continues nothing, for what is before it cannot be masked
    joined = continues.copy()
    joined[:, 0] = False
    joined[:, 1:] &= maskable[:, :-1]
    return maskable & ~joined


@compiled
def _units(
    maskable: NDArray[np.bool_], continues: NDArray[np.bool_], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> int:
    """Write down where each word of a row starts and how long it is, long ones in parts; return how many there are."""
    units, joins = 0, False
    for place in range(len(maskable)):
        if maskable[place]:
            if joins and continues[place] and lengths[units - 1] < MAX_UNIT:
                lengths[units - 1] += 1
            else:
                starts[units], lengths[units] = place, 1
                units += 1
        joins = maskable[place]
    return units


@compiled
def _runs(
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    units: int,
    longest: int,
    key: np.uint64,
    steps: NDArray[np.float64],
) -> int:
    """Join the words of a row to runs of random numbers of words, in place; return how many there are.

    A run is cut, at a word, where it would pass `longest` tokens or a special token, and the next one is drawn anew.
    One that is then taken with a probability that does not depend on it has the lengths drawn, as far as they fit, and
    every word in it has that same probability.
    """
    runs = left = 0
    for unit in range(units):
        last = runs - 1
        fits = left > 0 and starts[last] + lengths[last] == starts[unit] and lengths[last] + lengths[unit] <= longest
        if fits:
            lengths[last] += lengths[unit]
            left -= 1
        else:
            left = np.searchsorted(steps, uniform(_draw(key, _RUN, runs)), side="right")
            starts[runs], lengths[runs] = starts[unit], lengths[unit]
            runs += 1
    return runs


@compiled
def _sample(lengths: NDArray[np.int64], units: int, rate: float, key: np.uint64, order: NDArray[np.int64]) -> int:
    """Write the units taken to the front of `order`; return how many there are.

    With lengths 2, 1, 2, 1, 1, a rate of 0.4 and a phase of 0.5, `order` is first 1 3 4 | 0 2, short units before long
    ones. Of 3 units of length 1, int(3 * 0.4 + 0.5) = 1 is taken; of all 5 then, int(5 * 0.4 + 0.5) = 2.
    """
    # A counting sort: units of a length lie in `order` from the end of the next shorter length to their own end.
    ends = np.zeros(MAX_UNIT + 1, np.int64)
    for unit in range(units):
        ends[lengths[unit]] += 1
    ends = np.cumsum(ends)  # lengths 2, 1, 2, 1, 1: 0 units up to length 0, 3 up to 1, 5 up to 2
    nexts = np.concatenate((ends[:1], ends[:-1]))  # where the next unit of each length goes: 0, 0, 3
    for unit in range(units):
        order[nexts[lengths[unit]]] = unit
        nexts[lengths[unit]] += 1

    phase = uniform(key)  # random bits already, and every other draw mixes them again
    taken = 0
    for length in range(1, MAX_UNIT + 1):
        first, end = ends[length - 1], ends[length]
        before, wanted = taken, min(end, int(end * rate + phase))
        # Fisher-Yates, stopped after as many steps as units are wanted; `taken` never passes `rank`.
        for rank in range(first, first + wanted - before):
            other = rank + _below(end - rank, _draw(key, _ORDER, rank))
            order[rank], order[other] = order[other], order[rank]
            order[taken] = order[rank]
            taken += 1
    # A row too short for its rate gets one unit all the same, each as likely. None was taken because
    # int(units * rate + phase) is 0, so phase is uniform below 1 - units * rate, and divided by it uniform below 1:
    # with 2 units at a rate of 0.15, phase is below 0.7, the first unit for one below 0.35.
    if taken == 0 and units and rate > 0:
        order[0] = min(units - 1, int(phase / (1 - units * rate) * units))
        taken = 1
    return taken


@compiled
def _choose(
    maskable: NDArray[np.bool_],
    continues: NDArray[np.bool_],
    rates: NDArray[np.float64],
    keys: NDArray[np.uint64],
    steps: NDArray[np.float64],
) -> NDArray[np.int64]:
    """See `choose`; `steps` are the cumulative shares of runs of 1, 2, … words but the longest, none without runs."""
    batch, width = maskable.shape
    chosen, found = np.empty(batch * width, np.int64), 0
    starts, lengths, order = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.int64)
    for row in range(batch):
        units = _units(maskable[row], continues[row], starts, lengths)
        if len(steps):
            longest = min(max(int(rates[row] * lengths[:units].sum()), 1), MAX_UNIT)
            units = _runs(starts, lengths, units, longest, keys[row], steps)
        for unit in order[: _sample(lengths, units, rates[row], keys[row], order)]:
            for place in range(starts[unit], starts[unit] + lengths[unit]):
                chosen[found] = row * width + place
                found += 1
    return chosen[:found]


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
        The flat positions chosen, row after row, in no order within one: at least one unit in each row with something
        to mask and a rate above 0, and at most ceil(np) + MAX_UNIT - 1 in a row with n maskable tokens and rate p.
    """
    if strategy is Strategy.TOKEN:
        continues = np.zeros_like(maskable)
    in_rows = np.ascontiguousarray  # a transposed array would be compiled for once more
    return _choose(in_rows(maskable), in_rows(continues), in_rows(rates), keys, _STEPS[strategy])


@compiled
def _replace(
    input_ids: NDArray[np.int64],
    chosen: NDArray[np.int64],
    keys: NDArray[np.uint64],
    mask_token_id: int,
    random_ids: NDArray[np.int64],
    some_mask: np.uint64,
    some_random: np.uint64,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """See `replace`; `some_mask` and `some_random` are the thresholds of `Replacement`."""
    masked, labels = input_ids.copy(), np.full_like(input_ids, IGNORED)
    width = input_ids.shape[1]
    for position in chosen:
        row, place = position // width, position % width
        labels[row, place] = input_ids[row, place]
        # The upper half of the bits says what to do, the lower half which token.
        bits = _draw(keys[row], _REPLACE, place)
        action = bits >> _HALF
        if action < some_mask:
            masked[row, place] = mask_token_id
        elif action < some_random:
            masked[row, place] = random_ids[_below(len(random_ids), bits << _HALF)]
    return masked, labels


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
    how = (replacement.mask_token_id, replacement.random_ids, *replacement.thresholds)
    return _replace(np.ascontiguousarray(input_ids), chosen, keys, *how)
