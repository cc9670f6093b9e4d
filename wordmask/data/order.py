"""The orders of an epoch, random or grouped by length; `MlmTrainer._order` chooses one.

To add an order, write a function here, and add its name to `SAMPLING` in config/added_arguments.py and to `_order`.
After a resume with other steps, an arrangement gets only the sequences that are left, and returns exactly these. It
depends on seed, epoch and step size alone, so that all processes agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordmask.utils.jit import compiled


def shuffled(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """(count,) The numbers below `count` in random order."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def grouped(
    order: NDArray[np.int64], lengths: NDArray[np.int64], step: int, seed: int, epoch: int, steps: int = 50
) -> NDArray[np.int64]:
    """Sequences in random order, but with similar lengths in one step, so that little is padding.

    The shuffled sequences are sorted by length, `steps` steps at a time. Then the full steps are shuffled. Sequences
    that make no full step come last.

    Args:
        order: (sequences,) the sequences, shuffled.
        lengths: (all sequences,) the length of each sequence.
        step: the sequences of one optimizer step.
        seed, epoch: what the order of the steps depends on.
        steps: how many steps are sorted together.
    """
    # With steps of 2, and 2 of them sorted together, 8 sequences are in stretches 0 0 0 0 1 1 1 1. lexsort sorts by
    # the stretch first, and by the length within it.
    stretch = np.arange(len(order)) // (step * steps)
    order = order[np.lexsort((lengths[order], stretch))]
    full = len(order) // step
    groups = order[: full * step].reshape(full, step)
    return np.concatenate([groups[shuffled(seed, epoch, full)].ravel(), order[full * step :]])


def as_is(order: NDArray[np.int64], *steps: int) -> NDArray[np.int64]:
    """An order that does not depend on the size of steps."""
    return order


@compiled
def token_ends(lengths: NDArray[np.int64], tokens: int, carried: int) -> NDArray[np.int64]:
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
    order: NDArray[np.int64],
    lengths: NDArray[np.int64],
    tokens: int,
    carried: int,
    seed: int,
    epoch: int,
    steps: int = 50,
) -> NDArray[np.int64]:
    """What `grouped` does, for steps of at least so many tokens.

    The first sequences stay as they are: they complete the step that has the `carried` tokens. Those that make no full
    step come last.
    """
    head = int(token_ends(lengths[order], tokens, carried)[:1].sum()) if carried else 0
    order, kept = order[head:], order[:head]
    # Stretches are sorted up and down in turn, so that a step at the border of two has similar lengths as well.
    stretch = (np.cumsum(lengths[order]) - lengths[order]) // (tokens * steps)
    order = order[np.lexsort((lengths[order] * (1 - 2 * (stretch % 2)), stretch))]
    bounds = np.append(0, token_ends(lengths[order], tokens, 0))
    chosen = shuffled(seed, epoch, len(bounds) - 1)
    groups = [order[bounds[group] : bounds[group + 1]] for group in chosen.tolist()]
    return np.concatenate([kept, *groups, order[bounds[-1] :]])
