"""Choose which tokens to mask, then replace them.

This module knows nothing about words or text. It sees one bit for each token, `continues`: whether the token continues
the word of the token before it. What a word is, tokenization/words.py decides: go there to mask other units, such as
syllables, or certain words together, such as frequent n-grams. A `Strategy` joins words without knowing which they
are: add one here to join other numbers of them.

All are pure, compiled functions of arrays. Their time grows in proportion to batch × length.

A mask is a function of a 64-bit key for each sequence (made from the seed, the epoch and the example) and of
positions, through a counter-based generator. There is no state to save, so a resume, another number of workers or of
processes changes nothing.

We choose *units*: tokens, words, or n-grams of words, never longer than `MAX_UNIT` tokens. The units of a sequence are
sorted by length, in random order within a length. The unit of rank r is chosen where
floor((r + 1)p + u) > floor(rp + u), with one uniform number u for each sequence (systematic sampling). So every unit,
and every word, is chosen with probability exactly p, whatever its length, except in sequences of fewer than 1/p units:
if none is chosen there, one is, each with the same chance. Because the order is by length, the number of chosen tokens
stays within one unit of the budget np. BERT's rule skips a unit that overshoots the budget: it masks words of 1 to 4
tokens on 20-token lines at 35, 19, 13 and 0 %.

Of the units of one length, only the chosen ones are drawn, by the first steps of a Fisher-Yates shuffle.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wordmask.utils.arrays import BoolArray, IntArray
from wordmask.utils.jit import compiled

FloatArray: TypeAlias = NDArray[np.float64]
Keys: TypeAlias = NDArray[np.uint64]  # random bits

IGNORED = -100  # the label of a position that is not predicted
MAX_UNIT = 10  # tokens; a sequence of n tokens has at most ceil(np) + MAX_UNIT - 1 labels

# Each purpose has its own stream of random numbers, so no two draws share a number.
_ORDER, _NGRAM, _REPLACE = (np.uint64(purpose << 32) for purpose in range(3))
RATE, _STRATEGY = np.uint64(3 << 32), np.uint64(4 << 32)  # for `drawn`
# Numba turns the sum of an unsigned and a signed integer into a float, so every constant is unsigned.
_GOLDEN, _ONE, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(1), np.uint64(32)


class Strategy(StrEnum):
    """What is masked as one unit: a token, a word, or an n-gram of words."""

    TOKEN = "token"
    WHOLE_WORD = "whole_word"
    NGRAM = "ngram"
    SPAN = "span"


@dataclass(frozen=True)
class Mix:
    """Strategies, of which each sequence draws one, by the key of its mask.

    Attributes:
        shares: the share of the sequences that each strategy has. They add up to 1.
    """

    shares: dict[Strategy, float]

    def drawn(self, keys: Keys) -> IntArray:
        """(batch,) The number of the strategy that each sequence draws."""
        bounds = np.cumsum([*self.shares.values()])[:-1]  # without the last one, which is 1
        return np.searchsorted(bounds, drawn(keys, _STRATEGY), side="right")


_GEOMETRIC = 0.2 * 0.8 ** np.arange(10)
# The probabilities of n-grams of 1, 2, 3, … words.
NGRAM_LENGTHS = {
    Strategy.NGRAM: np.array([0.4, 0.3, 0.2, 0.1]),  # MacBERT (arXiv 2004.13922)
    Strategy.SPAN: _GEOMETRIC / _GEOMETRIC.sum(),  # SpanBERT (arXiv 1907.10529)
}
# The cumulative probabilities without the last one, which is 1: NGRAM has 0.4, 0.7, 0.9. A uniform number of 0.75 is
# greater than two of them, so it gives an n-gram of 3 words. TOKEN and WHOLE_WORD have none.
_CUMULATIVE = {strategy: np.cumsum(NGRAM_LENGTHS.get(strategy, np.zeros(1)))[:-1] for strategy in Strategy}


@compiled
def _mix(state: Any) -> Any:
    """The mixing function of splitmix64 (Steele, Lea and Flood, 2014), for a number or an array."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def hash64(*parts: int | NDArray) -> Keys:
    """A 64-bit hash of integers, element by element, with numpy's broadcasting."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _mix((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return state


@compiled
def _draw(key: np.uint64, purpose: np.uint64, counter: int) -> np.uint64:
    """64 random bits: number `counter` in a purpose's stream of splitmix64, which the key seeds."""
    return _mix(key + (purpose + np.uint64(counter) + _ONE) * _GOLDEN)


@compiled
def uniform(bits: Any) -> Any:
    """Numbers in [0, 1) from 64 random bits, for a number or an array."""
    return (bits >> np.uint64(11)) * 2.0**-53


def drawn(keys: Keys, purpose: np.uint64) -> FloatArray:
    """(batch,) A number in [0, 1) for each sequence, from the key of its mask. `RATE` is a purpose."""
    return uniform(_mix((keys ^ purpose) + _GOLDEN))


@compiled
def _below(most: int, bits: np.uint64) -> np.int64:
    """An integer from 0 to `most` - 1, for `most` up to 2^32, from the upper half of 64 random bits."""
    return np.int64(((bits >> _HALF) * np.uint64(most)) >> _HALF)


def word_starts(maskable: BoolArray, continues: BoolArray) -> BoolArray:
    """Where a word begins: a maskable token that does not continue a maskable one. All arrays (batch, length)."""
    joined = continues.copy()
    joined[:, 0] = False
    joined[:, 1:] &= maskable[:, :-1]
    return maskable & ~joined


@compiled
def _units(maskable: BoolArray, continues: BoolArray, starts: IntArray, lengths: IntArray) -> int:
    """Find the words of a sequence. A word of more than `MAX_UNIT` tokens is several units.

    With the tokens [CLS] un ##believ ##able , yes [SEP]:

        maskable   0 1 1 1 1 1 0
        continues  0 0 1 1 0 0 0
        starts     1 4 5            the first position of each unit
        lengths    3 1 1            its tokens

    Args:
        maskable, continues: (length,), see `choose`.
        starts, lengths: (length,), filled here.

    Returns:
        The number of units.
    """
    units, joins = 0, False
    for position in range(len(maskable)):
        if maskable[position]:
            if joins and continues[position] and lengths[units - 1] < MAX_UNIT:
                lengths[units - 1] += 1
            else:
                starts[units], lengths[units] = position, 1
                units += 1
        joins = maskable[position]
    return units


@compiled
def _ngrams(
    starts: IntArray, lengths: IntArray, units: int, longest: int, key: np.uint64, cumulative: FloatArray
) -> int:
    """Join the words of a sequence to n-grams of random numbers of words, in place; return the number of n-grams.

    An n-gram ends early, at a word, where it would pass `longest` tokens or reach a special token. Then the length of
    the next one is drawn. Each n-gram is later chosen with a probability that does not depend on its length. So the
    chosen ones have the lengths that were drawn, as far as they fit, and every word in them has that same probability.

    Args:
        starts, lengths, units: the words, see `_units`.
        longest: the most tokens of an n-gram.
        key: the random key of the sequence.
        cumulative: the cumulative probabilities of the numbers of words, see `_CUMULATIVE`.
    """
    ngrams = missing = 0  # missing: words that the last n-gram still wants
    for unit in range(units):
        last = ngrams - 1
        touches = missing > 0 and starts[last] + lengths[last] == starts[unit]
        if touches and lengths[last] + lengths[unit] <= longest:
            lengths[last] += lengths[unit]
            missing -= 1
        else:
            missing = np.searchsorted(cumulative, uniform(_draw(key, _NGRAM, ngrams)), side="right")
            starts[ngrams], lengths[ngrams] = starts[unit], lengths[unit]
            ngrams += 1
    return ngrams


@compiled
def _sample(lengths: IntArray, units: int, rate: float, key: np.uint64, order: IntArray) -> int:
    """Write the chosen units to the front of `order`; return how many there are.

    With the lengths 2 1 1 3 1, `order` is first sorted by length: 1 2 4 | 0 | 3, and `ends` is 0 3 4 5 5 …: units of
    length 1 stand before index 3, those of length 2 before index 4. At a rate of 0.4 and u = 0.5, the sums r·0.4 + u
    for r = 0 … 5 are 0.5 0.9 1.3 1.7 2.1 2.5. They pass a whole number at ranks 1 and 3. So one unit of length 1 is
    chosen (of 1 2 4, each as likely), and the one of length 2.
    """
    ends = np.cumsum(np.bincount(lengths[:units], minlength=MAX_UNIT + 1))
    free = np.concatenate((ends[:1], ends[:-1]))  # the next free index for each length: a counting sort
    for unit in range(units):
        order[free[lengths[unit]]] = unit
        free[lengths[unit]] += 1

    phase = uniform(key)  # u: the key is random bits already, and every other draw mixes them again
    chosen = 0
    for length in range(1, MAX_UNIT + 1):
        begin, end = ends[length - 1], ends[length]
        wanted = min(end, int(end * rate + phase)) - chosen  # units of this length
        for rank in range(begin, begin + wanted):
            picked = rank + _below(end - rank, _draw(key, _ORDER, rank))
            order[rank], order[picked] = order[picked], order[rank]
            order[chosen] = order[rank]  # chosen <= rank, so no unit of a longer length is overwritten
            chosen += 1
    if chosen == 0 and units and rate > 0:
        # The sequence is too short for its rate: we choose one unit all the same, each as likely. Nothing was chosen
        # because units * rate + phase < 1. Of all phases, uniform in [0, 1), those below 1 - units * rate remain. They
        # are uniform there, so phase / (1 - units * rate) is uniform in [0, 1).
        order[0] = min(units - 1, int(phase / (1 - units * rate) * units))
        chosen = 1
    return chosen


@compiled
def _choose(
    maskable: BoolArray, continues: BoolArray, rates: FloatArray, keys: Keys, cumulative: FloatArray
) -> IntArray:
    """See `choose` and `_CUMULATIVE`."""
    batch, width = maskable.shape
    chosen, count = np.empty(batch * width, np.int64), 0
    starts, lengths, order = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.int64)
    for sequence in range(batch):
        rate, key = rates[sequence], keys[sequence]
        units = _units(maskable[sequence], continues[sequence], starts, lengths)
        if len(cumulative):
            budget = int(rate * lengths[:units].sum())
            units = _ngrams(starts, lengths, units, min(max(budget, 1), MAX_UNIT), key, cumulative)
        for unit in order[: _sample(lengths, units, rate, key, order)]:
            for position in range(starts[unit], starts[unit] + lengths[unit]):
                chosen[count] = sequence * width + position
                count += 1
    return chosen[:count]


def choose(
    maskable: BoolArray, continues: BoolArray, rates: FloatArray, keys: Keys, strategy: Strategy | Mix
) -> IntArray:
    """Choose what to mask. Each word is chosen with the probability of its sequence.

    Args:
        maskable: (batch, length), the tokens that may be masked.
        continues: (batch, length), whether a token continues the word of the token before it.
        rates: (batch,), the share of maskable tokens to choose; 0 chooses nothing.
        keys: (batch,), the random keys of the sequences, see `hash64`.
        strategy: what is masked as one unit; of a mix, each sequence draws its own.

    Returns:
        The flat positions that were chosen, in no order. A sequence with something to mask and a rate above 0 has at
        least one unit. One with n maskable tokens and rate p has at most ceil(np) + MAX_UNIT - 1 positions.
    """
    if isinstance(strategy, Mix):
        number, width = strategy.drawn(keys), maskable.shape[1]
        parts = []
        for place, one in enumerate(strategy.shares):
            own = np.flatnonzero(number == place)
            flat = choose(maskable[own], continues[own], rates[own], keys[own], one)
            parts.append(own[flat // width] * width + flat % width)  # sequence 1 of those that drew it may be 3 of all
        return np.concatenate(parts)
    if strategy is Strategy.TOKEN:
        continues = np.zeros_like(maskable)
    dense = np.ascontiguousarray  # numba would compile once more for another memory layout
    return _choose(dense(maskable), dense(continues), dense(rates), keys, _CUMULATIVE[strategy])


@compiled
def _replace(
    input_ids: IntArray, chosen: IntArray, keys: Keys, mask_token_id: int, random_ids: IntArray, bounds: Keys
) -> tuple[IntArray, IntArray]:
    """See `replace`. A random number of 32 bits below the first bound makes a token the mask token; from there to the
    second bound, a random token."""
    masked, labels = input_ids.copy(), np.full_like(input_ids, IGNORED)
    width, mask_below, random_below = input_ids.shape[1], bounds[0], bounds[1]
    for flat in chosen:
        sequence, position = flat // width, flat % width
        labels[sequence, position] = input_ids[sequence, position]
        # The upper half of the bits decides what happens, the lower half decides which token.
        bits = _draw(keys[sequence], _REPLACE, position)
        action = bits >> _HALF
        if action < mask_below:
            masked[sequence, position] = mask_token_id
        elif action < random_below:
            masked[sequence, position] = random_ids[_below(len(random_ids), bits << _HALF)]
    return masked, labels


def replace(
    input_ids: IntArray,
    chosen: IntArray,
    keys: Keys,
    mask_token_id: int,
    random_ids: IntArray,
    shares: tuple[float, float] = (0.8, 0.1),
) -> tuple[IntArray, IntArray]:
    """Replace the chosen tokens and label them. The input is not changed.

    Args:
        input_ids: (batch, length).
        chosen: flat positions to predict.
        keys: (batch,), the random keys of the sequences.
        mask_token_id: the mask token.
        random_ids: the tokens that may replace another one: no special ones.
        shares: which shares of chosen tokens become the mask token, and a random one. The rest is kept.

    Returns:
        The masked input ids and the labels, both (batch, length). A label is the original token where one was chosen,
        and `IGNORED` elsewhere.
    """
    bounds = np.round(np.minimum(np.cumsum(shares), 1.0) * 2**32).astype(np.uint64)
    return _replace(np.ascontiguousarray(input_ids), chosen, keys, mask_token_id, random_ids, bounds)


def original_ids(input_ids: IntArray, labels: IntArray) -> IntArray:
    """The tokens before masking: what `replace` was given."""
    return np.where(labels == IGNORED, input_ids, labels)
