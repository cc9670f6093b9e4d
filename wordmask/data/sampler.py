"""Which sequences each process sees in each batch, with their masking rates: in steps of so many sequences."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.plan import EVALUATION, Draw, Layout, Piece, Plan, Progress, Stage, examples_in
from wordmask.utils.arrays import Integers
from wordmask.utils.batches import divided


class Batches(Plan):
    """The batches of one process, in steps of so many sequences.

    A step takes the next sequences of the order. So 1 × 16, 4 × 4 and two processes × 8 see the same sequences in
    every step. Every sequence comes exactly once in an epoch. At the end of an epoch, there may not be enough
    sequences for all batches. Then an empty batch gets one sequence with rate 0, which has no label and so no weight.
    With `fill` or `drop_last`, all batches are filled with such sequences.

    The sequences of a step depend only on the number of the step in the whole training. A resumed training begins in
    the middle of an epoch. If it continues with another step size, the rest of that epoch is what was not shown yet.

    Args:
        stages: the only stage of the training; `StagedBatches` has several.
        rates: the masking rate over the training.
        steps: the number of steps of the whole training; `None` if `epochs` gives its length.
        epochs: the number of epochs of the whole training, which may be a fraction.
        fill: whether all batches must have the same size.
        drop_last: whether to leave out sequences that do not fill a step.
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
        done: Progress | None = None,
    ):
        self.stages, self.layout, self.rates, self.drop_last = stages, stages[-1].layout, rates, drop_last
        self.fill, self.epoch = fill or drop_last, 0
        self._orders: dict[tuple[Any, ...], Integers] = {}  # the last one, also for the copies that `after` makes
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
        """Find where to continue, see `Plan`; and whether steps have never changed their size (`constant`)."""
        size, pieces = self.layout.step_size, done.pieces
        last = pieces[-1] if pieces else Piece(size, 0, 0)
        same_size = last.carried is None and last.size == size
        self.first_epoch, self.skipped = done.epoch, last.steps if same_size else 0
        self.shown = pieces[:-1] if same_size else pieces
        dropped = self.drop_last and self.stages[-1].sequence_count - done.examples < last.size
        if done.step and (dropped or self.skipped >= self._first_steps):  # that epoch is complete
            self.first_epoch, self.skipped, self.shown = done.epoch + 1, 0, ()
        self.base = done.step - self.skipped
        was_constant = done.constant and not self.shown and self.base == self.first_epoch * self.steps_in_epoch
        self.constant = was_constant and all(piece.size == size and piece.carried is None for piece in pieces)

    @property
    def _first_steps(self) -> int:
        """The number of steps of this size in the first epoch."""
        return self.stages[-1].steps(self.drop_last, examples_in(self.shown))

    def _steps_for(self, epochs: float) -> int:
        """The number of steps of the whole training, with those that are done, for so many epochs."""
        if self.constant:
            return math.ceil(epochs * self.steps_in_epoch)
        count, shown = self.stages[-1].sequence_count, examples_in(self.shown)
        wanted = min(epochs - self.first_epoch, 1.0) * count - shown  # sequences of the first epoch
        first_steps = math.ceil(round(self._first_steps * max(wanted, 0.0) / max(count - shown, 1), 6))
        later_epochs = max(epochs - self.first_epoch - 1, 0.0)
        return self.base + max(first_steps, self.skipped) + math.ceil(round(later_epochs * self.steps_in_epoch, 6))

    @property
    def planned_epochs(self) -> int:
        if self.planned_steps <= self.base:  # all are done; of the first epoch some, or none
            return self.first_epoch + bool(self.shown)
        later_steps = self.planned_steps - self.base - self._first_steps
        return self.first_epoch + 1 + max(0, math.ceil(later_steps / max(self.steps_in_epoch, 1)))

    def steps_left(self, epoch: int) -> int:
        return self._first_steps - self.skipped if epoch == self.first_epoch else self.steps_in_epoch

    def progress(self, step: int) -> Progress:
        steps, shown, epoch = step - self.base, self.shown, self.first_epoch
        if steps > self._first_steps:  # an epoch that is just completed counts as the epoch in progress
            # With 4 steps in an epoch, 4 steps after the first epoch are 4 of epoch 1, and 5 steps are 1 of epoch 2.
            steps, shown = steps - self._first_steps - 1, ()
            epoch, steps = epoch + 1 + steps // self.steps_in_epoch, steps % self.steps_in_epoch + 1
        if steps:
            size = self.layout.step_size
            examples = min(steps * size, self.stages[-1].used(self.drop_last, examples_in(shown)))
            shown = (*shown, Piece(size, steps, examples))
        return Progress(step, epoch, shown, self.constant)

    def epochs_at(self, step: int) -> float:
        done, stage = self.progress(step), self.stages[-1]
        shown = examples_in(self.shown) if done.epoch == self.first_epoch else 0
        return done.epoch + done.examples / max(1, shown + stage.used(self.drop_last, shown))

    def __iter__(self) -> Iterator[list[Draw]]:
        start = self.skipped if self.epoch == self.first_epoch else 0
        steps = range(start, start + self.steps_left(self.epoch))
        for (number, stage_epoch), located in groupby(map(self._locate, steps), key=itemgetter(0)):
            stage, order = self.stages[number], self._order(number, stage_epoch)
            for _, step in located:
                draws = self._draws(number, stage_epoch, order, step)
                for batch in range(stage.layout.accumulation):
                    yield _batch(stage.layout, draws, batch, self.fill)

    def _locate(self, step: int) -> tuple[tuple[int, int], int]:
        """The stage of a step of this epoch, the epoch of that stage, and the number of the step in that epoch."""
        return (0, self.epoch), step

    def _order(self, number: int, epoch: int) -> Integers:
        """(sequences,) The sequences of an epoch of a stage, without those that steps of other sizes have shown."""
        stage, shown = self.stages[number], self.shown if epoch == self.first_epoch else ()
        key = number, epoch, shown
        if key not in self._orders:
            self._orders.clear()  # first, since two may take much memory
            self._orders[key] = stage.remaining(epoch, shown)
        return self._orders[key][: stage.used(self.drop_last, examples_in(shown))]

    def _draws(self, number: int, epoch: int, order: Integers, step: int) -> list[Draw]:
        """The sequences of a step, with the epoch and the rate of each mask. A whole epoch would take much memory."""
        stage, used = self.stages[number], len(order)
        size = stage.layout.step_size
        places = np.arange(step * size, min((step + 1) * size, used))
        if self.constant:
            share = np.minimum((epoch * used + places) / self.planned_sequences[number], 1.0)
            begin, end = self.share_bounds[number : number + 2]
            share = begin + share * (end - begin)
        else:  # by steps, because an epoch with smaller steps takes a larger share of the training
            steps, later_epochs = self.base, epoch - self.first_epoch
            if later_epochs:
                steps += self._first_steps + (later_epochs - 1) * self.steps_in_epoch
            share = np.minimum((steps + places / size) / self.planned_steps, 1.0)
        indices, epochs = stage.located(order[places], epoch)
        rates = self.rates.at(share, epochs, indices)
        return list(map(Draw, indices.tolist(), epochs.tolist(), rates.tolist()))


def _batch(layout: Layout, draws: list[Draw], number: int, fill: bool) -> list[Draw]:
    """A batch of this process in a step, see `Batches`, given the draws of the step and the number of the batch.

    With batches of 2, two processes and two accumulated batches, the first process gets the draws 0 1 and 4 5, the
    second process gets 2 3 and 6 7.
    """
    start = (number * layout.processes + layout.process) * layout.batch_size
    batch = draws[start : start + layout.batch_size]
    missing = layout.batch_size - len(batch) if fill else int(not batch)
    return batch + [draws[0]._replace(rate=0.0)] * missing


class StagedBatches(Batches):
    """The batches of one process in a training of several stages, such as a length schedule.

    For the Trainer, an epoch is the steps that the last stage needs to show each of its sequences. It may have several
    stages and several epochs of a stage, each with its own order. Steps never change their size, so the number of the
    steps that are done says all.

    Args:
        stages: the stages of the training, in order.
        others: see `Batches`.
    """

    def _begin(self, done: Progress) -> None:
        self.first_epoch, self.skipped = divmod(done.step, max(self.steps_in_epoch, 1))
        self.shown, self.base, self.constant = (), done.step - self.skipped, True

    def progress(self, step: int) -> Progress:
        return replace(super().progress(step), pieces=())

    def epochs_at(self, step: int) -> float:
        return step / self.steps_in_epoch

    def _locate(self, step: int) -> tuple[tuple[int, int], int]:
        """See `Batches`. With the step bounds 0 9 20, step 11 of the whole training is step 2 of the second stage.

        If that stage shows its sequences in 2 steps, this is step 0 of its epoch 1.
        """
        step += self.epoch * self.steps_in_epoch
        number = min(bisect.bisect_right(self.step_bounds, step), len(self.stages)) - 1
        epoch, step = divmod(step - self.step_bounds[number], self.stages[number].steps(self.drop_last))
        return (number, epoch), step


class EvaluationBatches(Sampler[list[Draw]]):
    """The batches of one process that show all sequences once, each with the same mask every time.

    Args:
        order: (sequences,) the sequences in this order.
        layout: how a step is divided; it has one batch of each process.
        rate: the masking rate.
        fill: whether all batches must have the same size, see `Batches`.
    """

    def __init__(self, order: Integers, layout: Layout, rate: float, fill: bool):
        self.order, self.layout, self.rate, self.fill = order, layout, rate, fill

    def __len__(self) -> int:
        return -(-len(self.order) // self.layout.step_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in divided(self.order, self.layout.step_size):
            yield _batch(self.layout, [Draw(index, EVALUATION, self.rate) for index in step.tolist()], 0, self.fill)
