"""The orders of an epoch, random or grouped by length; `MlmTrainer._order` chooses one.

To add an order, write a function here, and add its name to `SAMPLING` in config/added_arguments.py and to `_order`.
After a resume with other steps, an arrangement gets only the sequences that are left, and returns exactly these. It
depends on seed, epoch and step size alone, so that all processes agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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


def as_is(order: NDArray[np.int64], step: int, epoch: int) -> NDArray[np.int64]:
    """An order that does not depend on the step size."""
    return order
