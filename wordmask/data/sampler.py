"""Which sequences each process sees in each batch, with their masking rates, and where a resumed training continues.

Epoch and masking rate travel with each index, from the sampler through the dataset to the collator. A dataset's own
`set_epoch` would not reach persistent workers, nor a second process.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from wordmask.data.order import as_is

EVALUATION = 2**32 - 1  # the epoch of evaluation: its masks are the same every time


class Draw(NamedTuple):
    """A sequence to fetch, and what else its mask depends on: the epoch, and the share to mask (0 masks nothing)."""

    index: int  # type: ignore[assignment]  # a tuple's own index() is not wanted here
    epoch: int
    rate: float


@dataclass(frozen=True)
class RateSchedule:
    """A masking rate that goes in a straight line from `first` to `last` over the whole training."""

    first: float
    last: float

    def at(self, progress: NDArray[np.float64]) -> NDArray[np.float64]:
        """(sequences,) The rate of sequences that come when these shares of the training are over."""
        return self.first + (self.last - self.first) * progress


@dataclass(frozen=True)
class Layout:
    """How a step is dealt out: batch size per process, batches accumulated, processes, and the number of this one."""

    batch_size: int
    accumulation: int = 1
    processes: int = 1
    process: int = 0

    @property
    def step(self) -> int:
        """The sequences of one optimizer step."""
        return self.batch_size * self.accumulation * self.processes


class Piece(NamedTuple):
    """What an epoch has shown in steps of one size: the size, the number of steps, and the number of examples.

    The last step may have fewer examples than the others.
    """

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
        constant: whether the step size has never changed.
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
        return _examples(self.pieces)


@dataclass(frozen=True)
class Stage:
    """A stretch of training on sequences of its own, which are seen again and again until it is over.

    Attributes:
        sequences: the number of its sequences.
        order: from the epoch to the order of the sequences. The epochs of a stage count from 0.
        layout: how a step is dealt out.
        share: the share of the run's steps.
        offset: the index of the stage's first sequence in the dataset.
        arrange: puts sequences, in the order of the epoch, into steps of a size: (sequences, size, epoch).
    """

    sequences: int
    order: Callable[[int], NDArray[np.int64]]
    layout: Layout
    share: float = 1.0
    offset: int = 0
    arrange: Callable[[NDArray[np.int64], int, int], NDArray[np.int64]] = as_is

    def steps(self, drop_last: bool = False, shown: int = 0) -> int:
        """The steps of one epoch, after the sequences `shown`. The last step may have fewer sequences."""
        return -(-self.used(drop_last, shown) // self.layout.step)

    def used(self, drop_last: bool, shown: int = 0) -> int:
        """The sequences that an epoch sees after those `shown`. With `drop_last` they fill all batches."""
        everywhere, remaining = self.layout.batch_size * self.layout.processes, max(self.sequences - shown, 0)
        return remaining // everywhere * everywhere if drop_last else remaining

    def seen_in(self, steps: int, drop_last: bool) -> int:
        """The sequences that so many steps see."""
        epochs, rest = divmod(steps, max(1, self.steps(drop_last)))
        return epochs * self.used(drop_last) + rest * self.layout.step

    def remaining(self, epoch: int, shown: Sequence[Piece]) -> NDArray[np.int64]:
        """The sequences of an epoch that pieces have not shown, in the order of this stage's steps.

        With sequences 0 to 9 in this order, and 4 of them shown in steps of 2, steps of 3 are 4 5 6, 7 8 9.
        """
        order = self.order(epoch)
        for piece in shown:
            order = self.arrange(order, piece.size, epoch)[piece.examples :]
        return self.arrange(order, self.layout.step, epoch)


class Batches(Sampler[list[Draw]]):
    """One process's batches of one epoch.

    A step takes the next sequences of the order, so that 1 × 16, 4 × 4 and two processes × 8 see the same sequences in
    every step. Every sequence comes exactly once in an epoch. At the end there may be too few for all batches: an
    empty batch gets one sequence with rate 0, which has no label and so no weight. With `fill` or `drop_last` every
    batch is filled up like this.

    An epoch has as many steps as the last stage needs to see each of its sequences. What comes at a step depends only
    on the number of that step in the whole training. A training that is resumed begins in the middle of an epoch. If
    it goes on with another step size (with one stage only), the rest of that epoch is what was not shown yet.

    Args:
        stages: the stages of the training, in order.
        rates: the masking rate over the training.
        steps: the steps of the whole training; `None` if `epochs` says how long it is.
        epochs: the epochs of the whole training; need not be whole.
        fill: whether all batches must have the same size.
        drop_last: whether sequences that do not fill a batch on every process are left out.
        epoch: the epoch, until `set_epoch` changes it.
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
        planned_steps = np.diff(self.ends, prepend=0).tolist()  # ends 9, 10 are stages of 9 steps and 1 step
        self.planned = [stage.seen_in(count, drop_last) for stage, count in zip(stages, planned_steps, strict=True)]

    def _begin(self, done: Progress) -> None:
        """Find where to go on.

        Sets the epoch (`first_epoch`), what steps of other sizes have shown of it (`shown`), the number of its first
        step of this size in the whole training (`base`), and how many of these are done (`skipped`).
        """
        stage, steps = self.stages[-1], max(self.steps_in_epoch, 1)
        size, pieces = stage.layout.step, done.pieces
        if len(self.stages) > 1:
            self.first_epoch, skipped, pieces = done.step // steps, done.step % steps, ()
        else:
            last = pieces[-1] if pieces else Piece(size, 0, 0)
            same = last.size == size and last.examples == size * last.steps
            self.first_epoch, skipped, pieces = done.epoch, last.steps * same, pieces[:-1] if same else pieces
        if skipped >= stage.steps(self.drop_last, _examples(pieces)) and done.step:
            self.first_epoch, skipped, pieces = self.first_epoch + 1, 0, ()  # that epoch was completed
        self.shown, self.base, self.skipped = tuple(pieces), done.step - skipped, skipped
        kept = done.constant and not self.shown and self.base == self.first_epoch * self.steps_in_epoch
        self.constant = kept and (len(self.stages) > 1 or all(piece.size == size for piece in done.pieces))

    @property
    def _first_steps(self) -> int:
        """The steps of this size in the first epoch."""
        return self.stages[-1].steps(self.drop_last, _examples(self.shown))

    def _steps_for(self, epochs: float) -> int:
        """The steps of the whole training, those done included, for so many epochs."""
        if self.constant:
            return math.ceil(epochs * self.steps_in_epoch)
        sequences, shown = self.stages[-1].sequences, _examples(self.shown)
        wanted = min(epochs - self.first_epoch, 1.0) * sequences - shown  # of the first epoch
        first_steps = math.ceil(round(self._first_steps * max(wanted, 0.0) / max(sequences - shown, 1), 6))
        more = max(epochs - self.first_epoch - 1, 0.0)
        return self.base + max(first_steps, self.skipped) + math.ceil(round(more * self.steps_in_epoch, 6))

    @property
    def planned_epochs(self) -> int:
        """The epochs of the whole training. An epoch that is only begun counts."""
        later = self.planned_steps - self.base - self._first_steps
        return self.first_epoch + 1 + max(0, math.ceil(later / max(self.steps_in_epoch, 1)))

    @property
    def steps_before(self) -> int:
        """The steps of the first epoch that are done."""
        return self.skipped + sum(piece.steps for piece in self.shown)

    def steps_left(self, epoch: int) -> int:
        """The steps of an epoch that are still to be done."""
        return self._first_steps - self.skipped if epoch == self.first_epoch else self.steps_in_epoch

    def progress(self, step: int) -> Progress:
        """How far the training has come after `step` steps of the whole; not for steps before this run began."""
        stage, steps, shown, epoch = self.stages[-1], step - self.base, self.shown, self.first_epoch
        if steps > self._first_steps:  # an epoch that is just completed counts as the one in progress
            # With 4 steps in an epoch, 4 steps behind the first epoch are 4 of epoch 1, and 5 steps are 1 of epoch 2.
            steps, shown = steps - self._first_steps - 1, ()
            epoch, steps = epoch + 1 + steps // self.steps_in_epoch, steps % self.steps_in_epoch + 1
        if len(self.stages) > 1:
            pieces = self._pieces_of_stages(step - steps, step)
        else:
            examples = min(steps * stage.layout.step, stage.used(self.drop_last, _examples(shown)))
            pieces = (*shown, *[Piece(stage.layout.step, steps, examples)] * (steps > 0))
        return Progress(step, epoch, pieces, self.constant)

    def _pieces_of_stages(self, start: int, stop: int) -> tuple[Piece, ...]:
        """What the steps from `start` to `stop` have shown, a piece for each stage."""
        pieces = []
        for stage, begin, end in zip(self.stages, [0, *self.ends], self.ends, strict=False):
            # With stages that end at 9 and 20, steps 5 to 12 are 5 to 9 of the first stage, and 0 to 3 of the second.
            earlier, later = max(start, begin) - begin, min(stop, end) - begin
            if earlier < later:
                examples = stage.seen_in(later, self.drop_last) - stage.seen_in(earlier, self.drop_last)
                pieces.append(Piece(stage.layout.step, later - earlier, examples))
        return tuple(pieces)

    def epochs_at(self, step: int) -> float:
        """The epochs done after `step` steps of the whole, with the part of the one in progress."""
        done, stage = self.progress(step), self.stages[-1]
        if len(self.stages) > 1:
            return done.epoch + done.steps / self.steps_in_epoch
        shown = _examples(self.shown) if done.epoch == self.first_epoch else 0
        return done.epoch + done.examples / max(1, shown + stage.used(self.drop_last, shown))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; the Trainer calls this."""
        if self.epoch != EVALUATION:
            self.epoch = epoch

    def __len__(self) -> int:
        return self.steps_left(self.epoch) * self.stages[-1].layout.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        start = self.skipped if self.epoch == self.first_epoch else 0
        steps = range(start, start + self.steps_left(self.epoch))
        # A length schedule passes through stages, and through epochs of a stage. Each has an order of its own.
        for (number, epoch), located in groupby(map(self._locate, steps), key=itemgetter(0)):
            stage, (order, rates) = self.stages[number], self._order(number, epoch)
            seen_in = EVALUATION if self.epoch == EVALUATION else epoch
            for _, step in located:
                taken = slice(step * stage.layout.step, (step + 1) * stage.layout.step)
                indices, shares = (stage.offset + order[taken]).tolist(), rates[taken].tolist()
                draws = [Draw(index, seen_in, rate) for index, rate in zip(indices, shares, strict=True)]
                yield from self._deal(stage.layout, draws)

    def _locate(self, step: int) -> tuple[tuple[int, int], int]:
        """From a step of this epoch to the stage, the epoch of that stage, and the step in that epoch."""
        if self.epoch == EVALUATION:
            return (0, 0), step
        if len(self.stages) == 1:
            return (0, self.epoch), step
        # With stages that end at 9 and 20, step 11 of the whole is step 2 of the second stage.
        step += self.epoch * self.steps_in_epoch
        number = min(bisect.bisect_right(self.ends, step), len(self.stages) - 1)
        epoch, step = divmod(step - [0, *self.ends][number], self.stages[number].steps(self.drop_last))
        return (number, epoch), step

    def _order(self, number: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(sequences,) The sequences of an epoch of a stage that come in steps of this size, and their rates."""
        stage = self.stages[number]
        shown = self.shown if epoch == self.first_epoch else ()
        used = stage.used(self.drop_last, _examples(shown))
        if self.constant:
            share = np.minimum((epoch * used + np.arange(used)) / self.planned[number], 1.0)
            share = self.edges[number] + share * (self.edges[number + 1] - self.edges[number])
        else:  # by steps: an epoch of smaller steps has taken more of the training
            later = epoch - self.first_epoch
            steps = self.base + bool(later) * (self._first_steps + (later - 1) * self.steps_in_epoch)
            share = np.minimum((steps + np.arange(used) / stage.layout.step) / self.planned_steps, 1.0)
        return stage.remaining(epoch, shown)[:used], self.rates.at(share)

    def _deal(self, layout: Layout, draws: list[Draw]) -> Iterator[list[Draw]]:
        """This process's batches of a step.

        With batches of 2, two processes and two batches accumulated, the draws 0 to 7 are dealt as 0 1 and 4 5 to the
        first process, 2 3 and 6 7 to the second.
        """
        for number in range(layout.accumulation):
            start = (number * layout.processes + layout.process) * layout.batch_size
            batch = draws[start : start + layout.batch_size]
            missing = layout.batch_size - len(batch) if self.fill else int(not batch)
            yield batch + [draws[0]._replace(rate=0.0)] * missing


def _examples(pieces: Sequence[Piece]) -> int:
    return sum(piece.examples for piece in pieces)
