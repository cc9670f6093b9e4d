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


def shuffled(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The rows in random order."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def grouped(
    order: NDArray[np.int64], lengths: NDArray[np.int64], step: int, seed: int, epoch: int, steps: int = 50
) -> NDArray[np.int64]:
    """Rows in random order, but with those of like length in the same step, so that little is padding.

    The shuffled rows are sorted by length, `steps` steps at a time, and the full steps are shuffled again; the rows
    that make no full step come last.

    Args:
        order: the rows, shuffled.
        lengths: (all rows,) the length of each row.
        step: the rows of one optimizer step.
        seed, epoch: what the order of the steps depends on.
        steps: how many steps are sorted together.
    """
    stretch = np.arange(len(order)) // (step * steps)
    order = order[np.lexsort((lengths[order], stretch))]
    full = len(order) // step
    groups = order[: full * step].reshape(full, step)
    return np.concatenate([groups[shuffled(seed, epoch, full)].ravel(), order[full * step :]])


class Piece(NamedTuple):
    """What an epoch has shown in steps of one size: so many steps of `size` examples, the last one maybe of fewer."""

    size: int
    steps: int
    examples: int


@dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes:
        step: the optimizer steps done.
        epoch: the epoch in progress, or the one that was just completed, counted from 0.
        pieces: what that epoch has shown, a piece for each step size, in order.
        constant: whether all steps so far belong to epochs of one step size, as if nothing had ever changed.
    """

    step: int = 0
    epoch: int = 0
    pieces: tuple[Piece, ...] = ()
    constant: bool = True

    @property
    def steps(self) -> int:
        """The steps done in the epoch."""
        return sum(piece.steps for piece in self.pieces)

    @property
    def examples(self) -> int:
        """The examples that the epoch has shown."""
        return sum(piece.examples for piece in self.pieces)


def as_is(order: NDArray[np.int64], step: int, epoch: int) -> NDArray[np.int64]:
    """An order that does not depend on the step size."""
    return order


@dataclass(frozen=True)
class Stage:
    """A stretch of training on rows of its own, which are passed through again and again until it is over.

    Attributes:
        sequences: their number.
        order: from the epoch to the rows' order; the epochs of a stage count from 0.
        layout: how a step is laid out.
        share: the share of the run's steps.
        first: the index of the stage's first row in the dataset.
        arrange: puts rows that stand in `order`, or those left of them, into steps of a size: (rows, size, epoch).
    """

    sequences: int
    order: Callable[[int], NDArray[np.int64]]
    layout: Layout
    share: float = 1.0
    first: int = 0
    arrange: Callable[[NDArray[np.int64], int, int], NDArray[np.int64]] = as_is

    def steps(self, drop_last: bool = False, shown: int = 0) -> int:
        """The steps of one epoch, or of what is left of it, the last of which may have fewer rows."""
        return -(-self.used(drop_last, shown) // self.layout.step)

    def used(self, drop_last: bool, shown: int = 0) -> int:
        """The rows that an epoch sees after those `shown`: with `drop_last`, only full batches on every process."""
        everywhere, left = self.layout.batch_size * self.layout.processes, max(self.sequences - shown, 0)
        return left // everywhere * everywhere if drop_last else left

    def rows_in(self, steps: int, drop_last: bool) -> int:
        """The rows that so many steps see."""
        epochs, rest = divmod(steps, max(1, self.steps(drop_last)))
        return epochs * self.used(drop_last) + rest * self.layout.step

    def left(self, epoch: int, shown: Sequence[Piece]) -> NDArray[np.int64]:
        """The rows of an epoch that pieces have not shown, in the order of this stage's steps.

        With rows 0 to 9 in this order and 4 of them shown in steps of 2, steps of 3 are 4 5 6, 7 8 9.
        """
        order = self.order(epoch)
        for piece in shown:
            order = self.arrange(order, piece.size, epoch)[piece.examples :]
        return self.arrange(order, self.layout.step, epoch)


class Batches(Sampler[list[Draw]]):
    """One process's batches of one epoch.

    A step's rows stand together in the order, so that 1 × 16, 4 × 4 and two processes × 8 see the same rows in every
    step, whatever lies on which process. Every row comes exactly once an epoch. Where the last rows do not go round, a
    batch without any gets one with rate 0, which has no label and so no weight; with `fill`, or without the rows that
    fill no batch, every batch is filled up so.

    An epoch has as many steps as the last stage needs to see each of its rows; what comes at a step depends on the
    number of that step in the whole training alone. A training that goes on begins in the middle of an epoch. Where it
    goes on with another step size (of one stage only), the rest of that epoch is what was not shown yet.

    Args:
        stages: what is trained on, one after the other.
        rates: the masking rate over training.
        steps: the steps of the whole training; or else
        epochs: its epochs, maybe a broken number.
        fill: whether all batches must have the same size.
        drop_last: whether the rows that do not fill a batch on every process are left out.
        epoch: the epoch until `set_epoch` says otherwise.
        done: what was done before.
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
        done: Progress | None = None,
    ):
        self.stages, self.rates, self.drop_last, self.epoch = stages, rates, drop_last, epoch
        self.fill = fill or drop_last
        self.steps_in_epoch = stages[-1].steps(drop_last)
        self._begin(done or Progress())
        self.planned_steps = steps or self._steps_for(epochs)
        whole = sum(stage.share for stage in stages)
        self.edges = list(accumulate((stage.share / whole for stage in stages), initial=0.0))
        self.ends = [round(edge * self.planned_steps) for edge in self.edges[1:]]
        own = np.diff(self.ends, prepend=0).tolist()
        self.planned = [stage.rows_in(steps, drop_last) for stage, steps in zip(stages, own, strict=True)]

    def _begin(self, done: Progress) -> None:
        """Find where to go on: the epoch, what steps of other sizes have shown of it, and the steps of this size."""
        stage, steps = self.stages[-1], max(self.steps_in_epoch, 1)
        size, pieces = stage.layout.step, done.pieces
        if len(self.stages) > 1:
            self.first_epoch, own, pieces = done.step // steps, done.step % steps, ()
        else:
            last = pieces[-1] if pieces else Piece(size, 0, 0)
            same = last.size == size and last.examples == size * last.steps
            self.first_epoch, own, pieces = done.epoch, last.steps * same, pieces[:-1] if same else pieces
        if own >= stage.steps(self.drop_last, sum(piece.examples for piece in pieces)) and done.step:
            self.first_epoch, own, pieces = self.first_epoch + 1, 0, ()  # that epoch was completed
        # Shown in steps of other sizes; the number of the first step of this size; how many of these were done.
        self.shown, self.base, self.own = tuple(pieces), done.step - own, own
        kept = done.constant and not self.shown and self.base == self.first_epoch * self.steps_in_epoch
        self.constant = kept and (len(self.stages) > 1 or all(piece.size == size for piece in done.pieces))

    @property
    def _first_steps(self) -> int:
        """The steps of this size in the first epoch."""
        return self.stages[-1].steps(self.drop_last, sum(piece.examples for piece in self.shown))

    def _steps_for(self, epochs: float) -> int:
        """The steps of the whole training, those done included, for so many epochs."""
        if self.constant:
            return math.ceil(epochs * self.steps_in_epoch)
        rows, shown = self.stages[-1].sequences, sum(piece.examples for piece in self.shown)
        wanted = min(epochs - self.first_epoch, 1.0) * rows - shown  # of the first epoch
        first = math.ceil(round(self._first_steps * max(wanted, 0.0) / max(rows - shown, 1), 6))
        more = max(epochs - self.first_epoch - 1, 0.0)
        return self.base + max(first, self.own) + math.ceil(round(more * self.steps_in_epoch, 6))

    @property
    def planned_epochs(self) -> int:
        """The epochs of the whole training, begun ones included."""
        later = self.planned_steps - self.base - self._first_steps
        return self.first_epoch + 1 + max(0, math.ceil(later / max(self.steps_in_epoch, 1)))

    @property
    def steps_before(self) -> int:
        """The steps of the first epoch that are done."""
        return self.own + sum(piece.steps for piece in self.shown)

    def steps_left(self, epoch: int) -> int:
        """The steps of an epoch that are still to be done, all of them where it is not the first one."""
        return self._first_steps - self.own if epoch == self.first_epoch else self.steps_in_epoch

    def progress(self, step: int) -> Progress:
        """How far the training has come after so many steps of the whole; not for steps before its beginning."""
        stage, own, shown, epoch = self.stages[-1], step - self.base, self.shown, self.first_epoch
        if own > self._first_steps:  # an epoch that is just completed counts as the one in progress
            own, shown = own - self._first_steps - 1, ()
            epoch, own = epoch + 1 + own // self.steps_in_epoch, own % self.steps_in_epoch + 1
        if len(self.stages) > 1:
            pieces = self._pieces_of_stages(step - own, step)
        else:
            seen = min(own * stage.layout.step, stage.used(self.drop_last, sum(piece.examples for piece in shown)))
            pieces = (*shown, *[Piece(stage.layout.step, own, seen)] * (own > 0))
        return Progress(step, epoch, pieces, self.constant)

    def _pieces_of_stages(self, start: int, stop: int) -> tuple[Piece, ...]:
        """What the steps from `start` to `stop` have shown, a piece for each stage."""
        pieces = []
        for stage, begin, end in zip(self.stages, [0, *self.ends], self.ends, strict=False):
            first, last = max(start, begin) - begin, min(stop, end) - begin
            if first < last:
                rows = stage.rows_in(last, self.drop_last) - stage.rows_in(first, self.drop_last)
                pieces.append(Piece(stage.layout.step, last - first, rows))
        return tuple(pieces)

    def epochs_at(self, step: int) -> float:
        """The epochs done after so many steps of the whole: of the one in progress, the examples seen of all."""
        done, stage = self.progress(step), self.stages[-1]
        if len(self.stages) > 1:
            return done.epoch + done.steps / self.steps_in_epoch
        shown = sum(piece.examples for piece in self.shown) if done.epoch == self.first_epoch else 0
        return done.epoch + done.examples / max(1, shown + stage.used(self.drop_last, shown))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; the Trainer calls this."""
        if self.epoch != EVALUATION:
            self.epoch = epoch

    def __len__(self) -> int:
        return self.steps_left(self.epoch) * self.stages[-1].layout.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        known: tuple[int, int] | None = None
        begin = self.own if self.epoch == self.first_epoch else 0
        for number in range(begin, begin + self.steps_left(self.epoch)):
            place, epoch, own = self._place(number)
            stage = self.stages[place]
            if known != (place, epoch):
                known, (order, rates) = (place, epoch), self._rows(place, epoch)
            start, stop = own * stage.layout.step, (own + 1) * stage.layout.step
            epoch = EVALUATION if self.epoch == EVALUATION else epoch
            rows = zip((stage.first + order[start:stop]).tolist(), rates[start:stop].tolist(), strict=True)
            yield from self._step(stage.layout, [Draw(row, epoch, rate) for row, rate in rows])

    def _place(self, number: int) -> tuple[int, int, int]:
        """The stage of a step of this epoch, the epoch of that stage, and the number of the step in it."""
        if self.epoch == EVALUATION:
            return 0, 0, number
        if len(self.stages) == 1:
            return 0, self.epoch, number
        step = self.epoch * self.steps_in_epoch + number
        place = min(bisect.bisect_right(self.ends, step), len(self.stages) - 1)
        own = step - (self.ends[place - 1] if place else 0)
        return place, *divmod(own, self.stages[place].steps(self.drop_last))

    def _rows(self, place: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The rows of an epoch of a stage that come in steps of this size, in their order, with their rates."""
        stage = self.stages[place]
        shown = self.shown if epoch == self.first_epoch else ()
        used = stage.used(self.drop_last, sum(piece.examples for piece in shown))
        if self.constant:
            share = np.minimum((epoch * used + np.arange(used)) / self.planned[place], 1.0)
            share = self.edges[place] + share * (self.edges[place + 1] - self.edges[place])
        else:  # step by step, since an epoch of smaller steps has taken more of the training
            later = epoch - self.first_epoch
            before = self.base + bool(later) * (self._first_steps + (later - 1) * self.steps_in_epoch)
            share = np.minimum((before + np.arange(used) / stage.layout.step) / self.planned_steps, 1.0)
        return stage.left(epoch, shown)[:used], self.rates.at(share)

    def _step(self, layout: Layout, draws: list[Draw]) -> Iterator[list[Draw]]:
        """This process's batches of a step that has these rows on all processes."""
        for batch in range(layout.accumulation):
            start = (batch * layout.processes + layout.process) * layout.batch_size
            part = draws[start : start + layout.batch_size]
            missing = layout.batch_size - len(part) if self.fill else int(not part)
            yield part + [draws[0]._replace(rate=0.0)] * missing
