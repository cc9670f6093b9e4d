"""The order of an epoch, as a pure function of the seed and the epoch, and what each process sees of it.

Epoch and masking rate travel with each index, from the sampler through the dataset to the collator, since a dataset's
own `set_epoch` reaches neither persistent workers nor a second process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

EVALUATION = 2**32 - 1  # the epoch of evaluation: its masks are the same every time


class Draw(NamedTuple):
    """A row to fetch, and what its mask depends on besides: the epoch, and the share to mask (0 masks nothing)."""

    index: int  # type: ignore[assignment]  # a tuple's own index() is not wanted here
    epoch: int
    rate: float


@dataclass(frozen=True)
class RateSchedule:
    """A masking rate that goes in a straight line from `first` to `last` over `rows` rows of training."""

    first: float
    last: float
    rows: int = 1

    def at(self, position: NDArray[np.int64]) -> NDArray[np.float64]:
        """The rate of the rows at these places in the order of the whole training."""
        return self.first + (self.last - self.first) * np.minimum(position / self.rows, 1.0)


@dataclass(frozen=True)
class Layout:
    """How a step's rows are laid out: batch size per process, batches accumulated, processes, and which this is."""

    batch_size: int
    accumulation: int = 1
    processes: int = 1
    process: int = 0

    @property
    def step(self) -> int:
        """Rows in one optimizer step."""
        return self.batch_size * self.accumulation * self.processes


def shuffled(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """The rows in random order."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)


def grouped(lengths: NDArray[np.int64], step: int, seed: int, epoch: int, steps: int = 50) -> NDArray[np.int64]:
    """The rows in random order, but with those of like length in the same step, so that little is padding.

    The shuffled rows are sorted by length, `steps` steps at a time, and the full steps are shuffled again; the rows
    that make no full step come last.

    Args:
        lengths: (rows,) the length of each row.
        step: the rows of one optimizer step.
        seed, epoch: what the order depends on.
        steps: how many steps are sorted together.
    """
    order = shuffled(seed, epoch, len(lengths))
    stretch = np.arange(len(order)) // (step * steps)
    order = order[np.lexsort((lengths[order], stretch))]
    full = len(order) // step
    groups = order[: full * step].reshape(full, step)
    return np.concatenate([groups[shuffled(seed, epoch, full)].ravel(), order[full * step :]])


class EpochBatches(Sampler[list[Draw]]):
    """One process's batches of one epoch.

    A step's rows stand together in the order, so that 1 × 16, 4 × 4 and two processes × 8 see the same rows in every
    step, whatever lies on which process. Every row comes exactly once. Where the last rows do not go round, a process
    without any gets one with rate 0, which has no label and so no weight; with `fill`, every batch is filled up so.

    Args:
        rows: the number of rows.
        order: from the epoch to the rows' order.
        layout: how a step is laid out.
        rates: the masking rate over training.
        fill: whether all batches must have the same size.
        drop_last: whether the rows that do not fill a batch on every process are left out.
        epoch: the epoch until `set_epoch` says otherwise.
    """

    def __init__(
        self,
        rows: int,
        order: Callable[[int], NDArray[np.int64]],
        layout: Layout,
        rates: RateSchedule,
        fill: bool = False,
        drop_last: bool = False,
        epoch: int = 0,
    ):
        self.rows, self.order, self.layout, self.rates = rows, order, layout, rates
        self.fill, self.drop_last, self.epoch = fill, drop_last, epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; the Trainer calls this."""
        if self.epoch != EVALUATION:
            self.epoch = epoch

    @property
    def _everywhere(self) -> int:
        """Rows in one batch of every process."""
        return self.layout.batch_size * self.layout.processes

    def __len__(self) -> int:
        return self.rows // self._everywhere if self.drop_last else -(-self.rows // self._everywhere)

    def __iter__(self) -> Iterator[list[Draw]]:
        order = self.order(self.epoch)
        passed = 0 if self.epoch == EVALUATION else self.epoch * self.rows
        rates = self.rates.at(passed + np.arange(self.rows))
        for batch in range(len(self)):
            start = batch * self._everywhere + self.layout.process * self.layout.batch_size
            places = range(min(start, self.rows), min(start + self.layout.batch_size, self.rows))
            draws = [Draw(int(order[place]), self.epoch, float(rates[place])) for place in places]
            missing = self.layout.batch_size - len(draws) if self.fill else int(not draws)
            yield draws + [Draw(int(order[0]), self.epoch, 0.0)] * missing
