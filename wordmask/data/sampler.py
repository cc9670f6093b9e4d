"""Which sequences each process sees in each batch, with their masking rates, and where a resumed training continues.

The epoch and the masking rate go with each index, from the sampler through the dataset to the collator. If a dataset
had a method `set_epoch`, a call of it would not reach persistent workers.
"""

from __future__ import annotations

import bisect
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.order import as_is

EVALUATION = 2**32 - 1  # the epoch of evaluation: its masks are the same every time


class Draw(NamedTuple):
    """A sequence to load, and what its mask depends on: the epoch, and the share to mask (0 masks nothing)."""

    index: int  # type: ignore[assignment]  # instead of the method index() of a tuple
    epoch: int
    rate: float


@dataclass(frozen=True)
class Layout:
    """How a step is divided: batch size of a process, accumulated batches, processes, number of this process."""

    batch_size: int
    accumulation: int = 1
    processes: int = 1
    process: int = 0

    @property
    def step_size(self) -> int:
        """The number of sequences in an optimizer step."""
        return self.batch_size * self.accumulation * self.processes


class Piece(NamedTuple):
    """What an epoch has shown in steps of one size: the size, the number of steps, and the number of examples.

    The last step may have fewer examples than the others. The size counts examples, or tokens if `carried` is a
    number: the tokens from the epoch before that the first of these steps has.
    """

    size: int
    steps: int
    examples: int
    carried: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes:
        step: the number of optimizer steps that are done.
        epoch: the epoch in progress, or the epoch that was just completed, from 0.
        pieces: what that epoch has shown, a piece for each step size, in order. Empty for a length schedule.
        constant: whether the step size has never changed.
    """

    step: int = 0
    epoch: int = 0
    pieces: tuple[Piece, ...] = ()
    constant: bool = True

    @property
    def examples(self) -> int:
        """The number of examples that the epoch has shown."""
        return _examples(self.pieces)


@dataclass(frozen=True)
class Stage:
    """A part of the training with its own sequences, in one or more epochs.

    Attributes:
        sequence_count: the number of its sequences.
        order: gives the order of the sequences in an epoch. The epochs of a stage count from 0.
        layout: how a step is divided.
        share: the share of the run's steps.
        offset: the index of the stage's first sequence in the dataset.
        arrange: puts sequences, in the order of the epoch, into steps of a size: (sequences, size, epoch).
        arrange_tokens: the same for steps of so many tokens: (sequences, tokens, epoch, carried).
        mixed: whether all of these give visits instead of sequences, see `wordmask.data.order.mixed`.
    """

    sequence_count: int
    order: Callable[[int], NDArray[np.int64]]
    layout: Layout
    share: float = 1.0
    offset: int = 0
    arrange: Callable[[NDArray[np.int64], int, int], NDArray[np.int64]] = as_is
    arrange_tokens: Callable[[NDArray[np.int64], int, int, int], NDArray[np.int64]] = as_is
    mixed: bool = False

    def steps(self, drop_last: bool = False, shown: int = 0) -> int:
        """The number of steps in the rest of an epoch, after the sequences `shown`. The last step may be smaller."""
        return -(-self.used(drop_last, shown) // self.layout.step_size)

    def used(self, drop_last: bool, shown: int = 0) -> int:
        """How many sequences are in the rest of an epoch. With `drop_last`, they fill all batches."""
        of_all, remaining = self.layout.batch_size * self.layout.processes, max(self.sequence_count - shown, 0)
        return remaining // of_all * of_all if drop_last else remaining

    def seen_in(self, steps: int, drop_last: bool) -> int:
        """How many sequences so many steps show."""
        epochs, more_steps = divmod(steps, max(1, self.steps(drop_last)))
        return epochs * self.used(drop_last) + more_steps * self.layout.step_size

    def located(self, order: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(sequences,) The indices in the dataset of what an order of an epoch has, and the epochs for their masks."""
        if self.mixed:
            epochs, indices = np.divmod(order, self.sequence_count)
            return indices + self.offset, epochs
        return order + self.offset, np.broadcast_to(np.int64(epoch), order.shape)

    def remaining(self, epoch: int, shown: Sequence[Piece], next_piece: Piece | None = None) -> NDArray[np.int64]:
        """The sequences of an epoch that these pieces have not shown, in the order of the next piece's steps.

        With sequences 0 to 9 in this order, and 4 of them shown in steps of 2, steps of 3 are 4 5 6, 7 8 9. Without a
        next piece, they are the steps of this stage.
        """
        order = self.order(epoch)
        for piece in (*shown, next_piece or Piece(self.layout.step_size, 0, 0)):
            if piece.carried is None:
                order = self.arrange(order, piece.size, epoch)[piece.examples :]
            else:
                order = self.arrange_tokens(order, piece.size, epoch, piece.carried)[piece.examples :]
        return order


class Batches(Sampler[list[Draw]]):
    """The batches of one process in one epoch.

    A step takes the next sequences of the order. So 1 × 16, 4 × 4 and two processes × 8 see the same sequences in
    every step. Every sequence comes exactly once in an epoch. At the end of an epoch, there may not be enough
    sequences for all batches. Then an empty batch gets one sequence with rate 0, which has no label and so no weight.
    With `fill` or `drop_last`, all batches are filled with such sequences.

    An epoch has as many steps as the last stage needs to show each of its sequences. The sequences of a step depend
    only on the number of the step in the whole training. A resumed training begins in the middle of an epoch. If it
    continues with another step size (only with one stage), the rest of that epoch is what was not shown yet.

    Args:
        stages: the stages of the training, in order.
        rates: the masking rate over the training.
        steps: the number of steps of the whole training; `None` if `epochs` gives its length.
        epochs: the number of epochs of the whole training, which may be a fraction.
        fill: whether all batches must have the same size.
        drop_last: whether to leave out sequences that do not fill a batch on every process.
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
        # Where each stage begins and the last one ends: as shares of the training, and as steps. Stages of 9 steps and
        # of 1 step have the step bounds 0 9 10.
        share_sum = sum(stage.share for stage in stages)
        self.share_bounds = list(accumulate((stage.share / share_sum for stage in stages), initial=0.0))
        self.step_bounds = [round(bound * self.planned_steps) for bound in self.share_bounds]
        step_counts = np.diff(self.step_bounds).tolist()
        self.planned_sequences = [
            stage.seen_in(count, drop_last) for stage, count in zip(stages, step_counts, strict=True)
        ]

    def _begin(self, done: Progress) -> None:
        """Find where to continue.

        Sets the epoch (`first_epoch`), what steps of other sizes have shown of it (`shown`), the number of its first
        step of this size in the whole training (`base`), and how many of these steps are done (`skipped`).
        """
        stage, steps = self.stages[-1], max(self.steps_in_epoch, 1)
        size, pieces = stage.layout.step_size, done.pieces
        if len(self.stages) > 1:
            self.first_epoch, skipped, pieces = done.step // steps, done.step % steps, ()
        else:
            last = pieces[-1] if pieces else Piece(size, 0, 0)
            same_size = last.carried is None and last.size == size and last.examples == size * last.steps
            self.first_epoch, skipped = done.epoch, last.steps * same_size
            pieces = pieces[:-1] if same_size else pieces
        if skipped >= stage.steps(self.drop_last, _examples(pieces)) and done.step:
            self.first_epoch, skipped, pieces = self.first_epoch + 1, 0, ()  # that epoch is complete
        self.shown, self.base, self.skipped = tuple(pieces), done.step - skipped, skipped
        was_constant = done.constant and not self.shown and self.base == self.first_epoch * self.steps_in_epoch
        self.constant = was_constant and (
            len(self.stages) > 1 or all(piece.size == size and piece.carried is None for piece in done.pieces)
        )

    @property
    def _first_steps(self) -> int:
        """The number of steps of this size in the first epoch."""
        return self.stages[-1].steps(self.drop_last, _examples(self.shown))

    def _steps_for(self, epochs: float) -> int:
        """The number of steps of the whole training, with those that are done, for so many epochs."""
        if self.constant:
            return math.ceil(epochs * self.steps_in_epoch)
        count, shown = self.stages[-1].sequence_count, _examples(self.shown)
        wanted = min(epochs - self.first_epoch, 1.0) * count - shown  # sequences of the first epoch
        first_steps = math.ceil(round(self._first_steps * max(wanted, 0.0) / max(count - shown, 1), 6))
        later_epochs = max(epochs - self.first_epoch - 1, 0.0)
        return self.base + max(first_steps, self.skipped) + math.ceil(round(later_epochs * self.steps_in_epoch, 6))

    @property
    def planned_epochs(self) -> int:
        """The number of epochs of the whole training. The last one may be incomplete."""
        later_steps = self.planned_steps - self.base - self._first_steps
        return self.first_epoch + 1 + max(0, math.ceil(later_steps / max(self.steps_in_epoch, 1)))

    @property
    def begins_within_epoch(self) -> bool:
        """Whether the first epoch was begun before, so that its loader has drawn random numbers already."""
        return bool(self.skipped or self.shown)

    def after(self, step: int) -> Batches:
        """The same plan, from a later step of the whole training on."""
        later = copy.copy(self)
        later._begin(self.progress(step))
        return later

    def steps_left(self, epoch: int) -> int:
        """The number of steps of an epoch that are not done yet."""
        return self._first_steps - self.skipped if epoch == self.first_epoch else self.steps_in_epoch

    def progress(self, step: int) -> Progress:
        """How far the training has come after `step` steps of the whole training; not for steps before this run."""
        stage, steps, shown, epoch = self.stages[-1], step - self.base, self.shown, self.first_epoch
        if steps > self._first_steps:  # an epoch that is just completed counts as the epoch in progress
            # With 4 steps in an epoch, 4 steps after the first epoch are 4 of epoch 1, and 5 steps are 1 of epoch 2.
            steps, shown = steps - self._first_steps - 1, ()
            epoch, steps = epoch + 1 + steps // self.steps_in_epoch, steps % self.steps_in_epoch + 1
        if steps and len(self.stages) == 1:
            size = stage.layout.step_size
            examples = min(steps * size, stage.used(self.drop_last, _examples(shown)))
            shown = (*shown, Piece(size, steps, examples))
        return Progress(step, epoch, shown, self.constant)

    def epochs_at(self, step: int) -> float:
        """The number of epochs that are done after `step` steps of the whole training, as a fraction."""
        done, stage = self.progress(step), self.stages[-1]
        if len(self.stages) > 1:
            return step / self.steps_in_epoch
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
        # An epoch of a length schedule may have several stages and several epochs of a stage, each with its own order.
        for (number, stage_epoch), located in groupby(map(self._locate, steps), key=itemgetter(0)):
            stage, columns = self.stages[number], self._order(number, stage_epoch)
            size = stage.layout.step_size
            for _, step in located:
                of_step = (column[step * size : (step + 1) * size].tolist() for column in columns)
                yield from self._deal(stage.layout, list(map(Draw, *of_step)))

    def _locate(self, step: int) -> tuple[tuple[int, int], int]:
        """The stage of a step of this epoch, the epoch of that stage, and the number of the step in that epoch."""
        if self.epoch == EVALUATION:
            return (0, 0), step
        if len(self.stages) == 1:
            return (0, self.epoch), step
        # With the step bounds 0 9 20, step 11 of the whole training is step 2 of the second stage.
        step += self.epoch * self.steps_in_epoch
        number = min(bisect.bisect_right(self.step_bounds, step), len(self.stages)) - 1
        epoch, step = divmod(step - self.step_bounds[number], self.stages[number].steps(self.drop_last))
        return (number, epoch), step

    def _order(self, number: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """(sequences,) The sequences of an epoch of a stage, without those that steps of other sizes have shown; and
        the epochs and rates that their masks depend on."""
        stage = self.stages[number]
        shown = self.shown if epoch == self.first_epoch else ()
        used = stage.used(self.drop_last, _examples(shown))
        if self.constant:
            share = np.minimum((epoch * used + np.arange(used)) / self.planned_sequences[number], 1.0)
            begin, end = self.share_bounds[number : number + 2]
            share = begin + share * (end - begin)
        else:  # by steps, because an epoch with smaller steps takes a larger share of the training
            later_epochs = epoch - self.first_epoch
            steps = self.base + bool(later_epochs) * (self._first_steps + (later_epochs - 1) * self.steps_in_epoch)
            share = np.minimum((steps + np.arange(used) / stage.layout.step_size) / self.planned_steps, 1.0)
        order = stage.remaining(epoch, shown)[:used]
        indices, epochs = stage.located(order, EVALUATION if self.epoch == EVALUATION else epoch)
        return indices, epochs, self.rates.at(share, epochs, indices)

    def _deal(self, layout: Layout, draws: list[Draw]) -> Iterator[list[Draw]]:
        """The batches of this process in a step.

        With batches of 2, two processes and two accumulated batches, the first process gets the draws 0 1 and 4 5, the
        second process gets 2 3 and 6 7.
        """
        for number in range(layout.accumulation):
            start = (number * layout.processes + layout.process) * layout.batch_size
            batch = draws[start : start + layout.batch_size]
            missing = layout.batch_size - len(batch) if self.fill else int(not batch)
            yield batch + [draws[0]._replace(rate=0.0)] * missing


def _examples(pieces: Sequence[Piece]) -> int:
    return sum(piece.examples for piece in pieces)
