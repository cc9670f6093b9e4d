"""The orders of an epoch, random, grouped by length, or mixed by weights; `EpochOrder` chooses one.

To add an order, write a function here, let `EpochOrder` choose it, and add its name to `SAMPLING` in
config/added_arguments.py. After a resume with other steps, an arrangement gets only the sequences that are left, and
returns exactly these. It depends on seed, epoch and step size alone, so that all processes agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordmask.utils.arrays import Integers, index_type, starts_of
from wordmask.utils.jit import compiled


def shuffled(seed: int, epoch: int, count: int) -> Integers:
    """(count,) The numbers below `count` in random order."""
    numbers = np.arange(count, dtype=index_type(count))
    np.random.Generator(np.random.Philox(key=[seed, epoch])).shuffle(numbers)
    return numbers


def ranks(lengths: Integers, corpora: Integers) -> NDArray[np.float64]:
    """(sequences,) Where each sequence stands among those of its own corpus, from 0, the shortest, to 1.

    In order of these ranks, sequences of similar length follow each other, and each part of them has the shares of the
    corpora that all have: lengths 5 9 7 of corpus 0 and 30 20 of corpus 1 have the ranks 1/6 5/6 3/6 and 3/4 1/4, so
    their order is 5 20 7 30 9.

    Args:
        lengths, corpora: (sequences,) of each sequence.
    """
    by_length = np.lexsort((lengths, corpora))
    starts = np.append(0, np.flatnonzero(np.diff(corpora[by_length])) + 1)  # where the corpus changes
    sizes = np.diff(np.append(starts, len(lengths)))
    found = np.empty(len(lengths))
    found[by_length] = (np.arange(len(lengths)) - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)
    return found


def _sorted_in_stretches(
    order: Integers, bounds: Integers, lengths: Integers, corpora: Integers | None, in_turn: bool = False
) -> Integers:
    """The same sequences, sorted by length within each stretch: one after the other, which takes the least memory.

    Args:
        order: (sequences,) the sequences, or visits.
        bounds: where each stretch begins, and where the last one ends.
        lengths, corpora: see `grouped`.
        in_turn: sort up and down in turn.
    """
    result = np.empty_like(order)
    for number, (start, stop) in enumerate(pairwise(bounds.tolist())):
        stretch = order[start:stop]
        sequences = stretch % len(lengths)
        own: NDArray[Any] = lengths[sequences]
        own = own if corpora is None else ranks(own, corpora[sequences])
        result[start:stop] = stretch[np.argsort(-own if in_turn and number % 2 else own, kind="stable")]
    return result


def grouped(
    order: Integers,
    lengths: Integers,
    step: int,
    shuffle: Callable[[int], Integers],
    steps: int = 50,
    corpora: Integers | None = None,
) -> Integers:
    """Sequences in random order, but with similar lengths in one step, so that little is padding.

    The shuffled sequences are sorted by length, `steps` steps at a time. Then the full steps are shuffled. Sequences
    that make no full step come last. Of several corpora, each step keeps its shares: see `ranks`.

    Args:
        order: (sequences,) the sequences, shuffled; or visits, see `mixed`.
        lengths: (all sequences,) the length of each sequence.
        step: the sequences of one optimizer step.
        shuffle: a random order of so many steps.
        steps: how many steps are sorted together.
        corpora: (all sequences,) the number of the corpus of each sequence, if corpora are mixed.
    """
    # With steps of 2, and 2 of them sorted together, 9 sequences are in the stretches 0-4, 4-8 and 8-9.
    bounds = np.append(np.arange(0, len(order), step * steps), len(order))
    order = _sorted_in_stretches(order, bounds, lengths, corpora)
    full = len(order) // step
    groups = order[: full * step].reshape(full, step)
    return np.concatenate([groups[shuffle(full)].ravel(), order[full * step :]])


def mixed(
    epoch: int, bounds: Sequence[int], quotas: Sequence[int], order_of_pass: Callable[[int, int, int], Integers]
) -> Integers:
    """(sum of quotas,) The visits of an epoch of several corpora, spread evenly over it.

    A visit is the index of a sequence, plus the number of all sequences times the number of its earlier visits. So two
    visits of a sequence have different masks. A corpus goes through all of its sequences before one comes again; the
    next epoch goes on where this one ends.

    With corpora of 4 and 1 sequences in file order, and quotas of 3 and 2, the first epoch has the sequences
    0 4 1 4 2, which are the visits 0 4 1 9 2. The second one has 3 4 0 4 1, which are the visits 3 14 5 19 6.

    Args:
        epoch: the number of the epoch.
        bounds: the index of the first sequence of each corpus, and the number of all sequences.
        quotas: how many sequences each corpus has in an epoch.
        order_of_pass: the order of a corpus of some size each time: (number of the corpus, number of the pass, size).
    """
    visits = []
    for number, (quota, (start, stop)) in enumerate(zip(quotas, pairwise(bounds), strict=True)):
        size, first, last = stop - start, epoch * quota, (epoch + 1) * quota
        passes = range(first // size, -(-last // size))
        running = [one * bounds[-1] + start + order_of_pass(number, one, size).astype(np.int64) for one in passes]
        visits.append(
            np.concatenate([np.zeros(0, np.int64), *running])[first - passes.start * size : last - passes.start * size]
        )
    places = np.concatenate([(np.arange(quota) + 0.5) / quota for quota in quotas])
    return np.concatenate(visits)[np.argsort(places, kind="stable")]


@compiled
def token_ends(lengths: Integers, tokens: int, carried: int) -> Integers:
    """(steps,) Where steps end that have at least so many tokens, each at the first sequence with which it has them.

    Lengths 3 4 2 2 5 1 and steps of 6 tokens end after 2 and 5 sequences; the last sequence is left for a later step.

    Args:
        lengths: (sequences,) the tokens of each.
        tokens: the least tokens of a step.
        carried: the tokens that the first step has already.
    """
    ends, found, in_step = np.empty(len(lengths), np.int64), 0, carried
    for index in range(len(lengths)):
        in_step += lengths[index]
        if in_step >= tokens:
            ends[found] = index + 1
            found, in_step = found + 1, 0
    return ends[:found].copy()


def grouped_by_tokens(
    order: Integers,
    lengths: Integers,
    tokens: int,
    carried: int,
    shuffle: Callable[[int], Integers],
    steps: int = 50,
    corpora: Integers | None = None,
) -> Integers:
    """What `grouped` does, for steps of at least so many tokens.

    The first sequences stay as they are: they complete the step that has the `carried` tokens. Those that make no full
    step come last.
    """
    head = int(token_ends(lengths[order % len(lengths)], tokens, carried)[:1].sum()) if carried else 0
    order, kept = order[head:], order[:head]
    # Stretches are sorted up and down in turn, so that a step at the border of two has similar lengths as well.
    begun = starts_of(lengths[order % len(lengths)])  # the tokens before each sequence
    in_stretches = np.arange(0, begun[-1] + 1 if len(begun) else 0, tokens * steps)
    stretches = np.append(np.searchsorted(begun, in_stretches), len(order))
    order = _sorted_in_stretches(order, stretches, lengths, corpora, in_turn=True)
    bounds = np.append(0, token_ends(lengths[order % len(lengths)], tokens, 0))
    chosen = shuffle(len(bounds) - 1)
    groups = [order[bounds[group] : bounds[group + 1]] for group in chosen.tolist()]
    return np.concatenate([kept, *groups, order[bounds[-1] :]])


class EpochOrder:
    """The order of sequences in an epoch, and in the steps of an epoch, by `--train_sampling_strategy`.

    Args:
        strategy: one of `SAMPLING`.
        seed: of all random orders.
        sequences: what is put in order.
        quotas: how many sequences each of several corpora has in an epoch; none if they are not mixed.

    Attributes:
        is_mixed: whether all methods give visits instead of sequences, see `mixed`.
    """

    def __init__(self, strategy: str, seed: int, sequences: Any, quotas: Sequence[int] = ()):
        self.strategy, self.seed, self.sequences, self.quotas = strategy, seed, sequences, quotas
        self.is_mixed = bool(quotas)

    def of_epoch(self, epoch: int) -> Integers:
        """(sequences,) The sequences in the order of an epoch. The epochs of a stage count from 0."""
        if self.quotas:
            return mixed(epoch, self.sequences.bounds, self.quotas, self._order_of_pass)
        return self._order_of_pass(0, epoch, len(self.sequences))

    def _order_of_pass(self, corpus: int, number: int, size: int) -> Integers:
        if self.strategy == "sequential":
            return np.arange(size, dtype=index_type(size))
        return shuffled(self.seed, corpus << 32 | number, size)

    def in_steps(self, order: Integers, size: int, epoch: int, carried: int | None = None) -> Integers:
        """(sequences,) The sequences of an epoch, or those that are left of it, in steps of this size.

        The size counts sequences, or tokens if `carried` is a number: those that the first step has already.
        """
        if self.strategy != "group_by_length":
            return order
        shuffle = partial(shuffled, self.seed, epoch)
        if carried is None:
            return grouped(order, self._lengths, size, shuffle, corpora=self._corpora)
        return grouped_by_tokens(order, self._lengths, size, carried, shuffle, corpora=self._corpora)

    @cached_property
    def _lengths(self) -> Integers:
        return self.sequences.lengths

    @cached_property
    def _corpora(self) -> Integers | None:
        """(sequences,) The number of the corpus of each sequence; `None` if they are not mixed."""
        return np.repeat(np.arange(len(self.quotas)), np.diff(self.sequences.bounds)) if self.quotas else None
