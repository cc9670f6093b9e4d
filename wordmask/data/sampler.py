"""The order of an epoch, as a pure function of the seed and the epoch, and what each process sees of it.

Epoch and masking rate travel with each index, from the sampler through the dataset to the collator, since a dataset's
own `set_epoch` reaches neither persistent workers nor a second process.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
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
    """A masking rate that goes in a straight line from `first` to `last` over the whole training."""

    first: float
    last: float

    def at(self, progress: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rate of rows that come when these shares of the training are over."""
        return self.first + (self.last - self.first) * progress


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


@dataclass(frozen=True)
class Stage:
    """A stretch of training on rows of its own, which are passed through again and again until it is over.

    Attributes:
        rows: the number of rows.
        order: from the epoch to the rows' order; the epochs of a stage count from 0.
        layout: how a step is laid out.
        share: the share of the run's steps.
        first: the index of the stage's first row in the dataset.
    """

    rows: int
    order: Callable[[int], NDArray[np.int64]]
    layout: Layout
    share: float = 1.0
    first: int = 0

    def steps(self, drop_last: bool = False) -> int:
        """The steps of one epoch, the last of which may have fewer rows."""
        return -(-self.used(drop_last) // self.layout.step)

    def used(self, drop_last: bool) -> int:
        """The rows that an epoch sees: with `drop_last`, no more than fill a batch on every process."""
        everywhere = self.layout.batch_size * self.layout.processes
        return self.rows // everywhere * everywhere if drop_last else self.rows

    def rows_in(self, steps: int, drop_last: bool) -> int:
        """The rows that so many steps see."""
        epochs, rest = divmod(steps, max(1, self.steps(drop_last)))
        return epochs * self.used(drop_last) + rest * self.layout.step


class Batches(Sampler[list[Draw]]):
    """One process's batches of one epoch.

    A step's rows stand together in the order, so that 1 × 16, 4 × 4 and two processes × 8 see the same rows in every
    step, whatever lies on which process. Every row comes exactly once an epoch. Where the last rows do not go round, a
    batch without any gets one with rate 0, which has no label and so no weight; with `fill`, or without the rows that
    fill no batch, every batch is filled up so.

    An epoch has as many steps as the last stage needs to see each of its rows; what comes at a step depends on the
    number of that step in the whole training alone.

    Args:
        stages: what is trained on, one after the other.
        rates: the masking rate over training.
        steps: the steps of the whole training; or else
        epochs: its epochs, maybe a broken number.
        fill: whether all batches must have the same size.
        drop_last: whether the rows that do not fill a batch on every process are left out.
        epoch: the epoch until `set_epoch` says otherwise.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        rates: RateSchedule,
        steps: int | None = None,
        epochs: float = 1.0,
        fill: bool = False,
        drop_last: bool = False,
        epoch: int = 0,
    ):
        self.stages, self.rates, self.drop_last, self.epoch = stages, rates, drop_last, epoch
        self.fill = fill or drop_last
        self.steps_in_epoch = stages[-1].steps(drop_last)
        whole = sum(stage.share for stage in stages)
        self.edges = list(accumulate((stage.share / whole for stage in stages), initial=0.0))
        last = steps or math.ceil(epochs * self.steps_in_epoch)
        self.ends = [round(edge * last) for edge in self.edges[1:]]
        own = np.diff(self.ends, prepend=0).tolist()
        self.planned = [stage.rows_in(steps, drop_last) for stage, steps in zip(stages, own, strict=True)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; the Trainer calls this."""
        if self.epoch != EVALUATION:
            self.epoch = epoch

    def __len__(self) -> int:
        return self.steps_in_epoch * self.stages[-1].layout.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        known: tuple[int, int] | None = None
        for number in range(self.steps_in_epoch):
            step = number if self.epoch == EVALUATION else self.epoch * self.steps_in_epoch + number
            place = min(bisect.bisect_right(self.ends, step), len(self.stages) - 1)
            stage = self.stages[place]
            own = step - (self.ends[place - 1] if place else 0)
            epoch, own = divmod(own, stage.steps(self.drop_last))
            if known != (place, epoch):
                known, order = (place, epoch), stage.order(epoch)[: stage.used(self.drop_last)]
                rates = self._rates(place, epoch)
            start, stop = own * stage.layout.step, (own + 1) * stage.layout.step
            epoch = EVALUATION if self.epoch == EVALUATION else epoch
            rows = zip((stage.first + order[start:stop]).tolist(), rates[start:stop].tolist(), strict=True)
            yield from self._step(stage.layout, [Draw(row, epoch, rate) for row, rate in rows])

    def _rates(self, place: int, epoch: int) -> NDArray[np.float64]:
        """The rates of the rows of an epoch of a stage, in their order."""
        used = self.stages[place].used(self.drop_last)
        share = np.minimum((epoch * used + np.arange(used)) / self.planned[place], 1.0)
        return self.rates.at(self.edges[place] + share * (self.edges[place + 1] - self.edges[place]))

    def _step(self, layout: Layout, draws: list[Draw]) -> Iterator[list[Draw]]:
        """This process's batches of a step that has these rows on all processes."""
        for batch in range(layout.accumulation):
            start = (batch * layout.processes + layout.process) * layout.batch_size
            part = draws[start : start + layout.batch_size]
            missing = layout.batch_size - len(part) if self.fill else int(not part)
            yield part + [draws[0]._replace(rate=0.0)] * missing
