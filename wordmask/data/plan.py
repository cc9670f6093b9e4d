"""The plan of a training: what it is made of, and what the Trainer reads of it.

The epoch and the masking rate go with each index, from the plan through the dataset to the collator. If a dataset had
a method `set_epoch`, a call of it would not reach persistent workers.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from torch.utils.data import Sampler

from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.order import EpochOrder
from wordmask.utils.arrays import IntArray, Integers

EVALUATION = 2**32 - 1  # the epoch of evaluation: its masks are the same every time


class Draw(NamedTuple):
    """A sequence to load, and what its mask depends on: the epoch, and the share to mask (0 masks nothing)."""

    index: int  # type: ignore[assignment]  # instead of the method index() of a tuple
    epoch: int
    rate: float


@dataclass(frozen=True)
class StepSize:
    """What makes the size of an optimizer step.

    Attributes:
        batch_size: sequences in a batch of one process.
        accumulation: batches of a process in a step.
        processes: processes that train together.
    """

    batch_size: int
    accumulation: int = 1
    processes: int = 1

    @property
    def step_size(self) -> int:
        """The number of sequences in a step: batches of 4, 3 of them in a step, and 2 processes make 24."""
        return self.batch_size * self.accumulation * self.processes


@dataclass(frozen=True)
class Layout(StepSize):
    """How a step is divided, and which part of it is for the process with this number."""

    process: int = 0


class Piece(NamedTuple):
    """What an epoch has shown in steps of one size: the size, the number of steps, and the number of examples.

    The last step may have fewer examples than the others. The size counts examples, or tokens if `carried` is a
    number: the tokens from the epoch before that the first of these steps has.
    """

    size: int
    steps: int
    examples: int
    carried: int | None = None


def examples_in(pieces: Sequence[Piece]) -> int:
    """The number of examples that these pieces have shown."""
    return sum(piece.examples for piece in pieces)


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
        return examples_in(self.pieces)


@dataclass(frozen=True)
class Stage:
    """A part of the training with its own sequences, in one or more epochs.

    Attributes:
        sequence_count: the number of its sequences.
        order: of its sequences in an epoch, and in steps.
        layout: how a step is divided.
        share: the share of the run's steps.
        offset: the index of the stage's first sequence in the dataset.
    """

    sequence_count: int
    order: EpochOrder
    layout: Layout
    share: float = 1.0
    offset: int = 0

    def steps(self, drop_last: bool = False, shown: int = 0) -> int:
        """The number of steps in the rest of an epoch, after the sequences `shown`. The last step may be smaller."""
        return -(-self.used(drop_last, shown) // self.layout.step_size)

    def used(self, drop_last: bool, shown: int = 0) -> int:
        """How many sequences are in the rest of an epoch. With `drop_last`, they fill all steps."""
        size, remaining = self.layout.step_size, max(self.sequence_count - shown, 0)
        return remaining // size * size if drop_last else remaining

    def seen_in(self, steps: int, drop_last: bool) -> int:
        """How many sequences so many steps show."""
        epochs, more_steps = divmod(steps, max(1, self.steps(drop_last)))
        return epochs * self.used(drop_last) + more_steps * self.layout.step_size

    def located(self, order: Integers, epoch: int) -> tuple[IntArray, IntArray]:
        """(sequences,) The indices in the dataset of what an order of an epoch has, and the epochs for their masks."""
        order = order.astype(np.int64)
        if self.order.is_mixed:
            epochs, indices = np.divmod(order, self.sequence_count)
            return indices + self.offset, epochs
        return order + self.offset, np.broadcast_to(np.int64(epoch), order.shape)

    def remaining(self, epoch: int, shown: Sequence[Piece], next_piece: Piece | None = None) -> Integers:
        """The sequences of an epoch that these pieces have not shown, in the order of the next piece's steps.

        With sequences 0 to 9 in this order, and 4 of them shown in steps of 2, steps of 3 are 4 5 6, 7 8 9. Without a
        next piece, they are the steps of this stage.
        """
        order = self.order.of_epoch(epoch)
        for piece in (*shown, next_piece or Piece(self.layout.step_size, 0, 0)):
            order = self.order.in_steps(order, piece.size, epoch, piece.carried)[piece.examples :]
        return order


class Plan(Sampler[list[Draw]], ABC):
    """The steps of a training from where it continues, and the batches of one process in each epoch.

    Steps count from the beginning of the whole training. The Trainer calls `set_epoch` for each epoch from
    `first_epoch` on, and iterates over its batches. Of the first epoch, these are what is left.

    Attributes:
        stages: the stages of the training, in order.
        step_bounds: where each stage begins and the last one ends: stages of 9 steps and of 1 step have 0 9 10.
        layout: how a step of the last stage is divided.
        rates: the masking rate over the training.
        drop_last: whether to leave out sequences that do not fill a step.
        steps_in_epoch: the number of steps of a whole epoch.
        planned_steps: the number of steps of the whole training, with those that are done.
        epoch: the epoch of the next iteration.
        first_epoch: the epoch in which it continues.
        shown: what steps of other sizes have shown of that epoch.
        skipped: how many steps of this size came after them, and are done.
        base: the number of steps of the whole training before those.
    """

    stages: Sequence[Stage]
    step_bounds: Sequence[int]
    layout: Layout
    rates: RateSchedule
    drop_last: bool
    steps_in_epoch: int
    planned_steps: int
    epoch: int
    first_epoch: int
    shown: tuple[Piece, ...]
    skipped: int
    base: int

    @abstractmethod
    def _begin(self, done: Progress) -> None:
        """Find where to continue: set `first_epoch`, `shown`, `skipped` and `base`."""

    @property
    @abstractmethod
    def planned_epochs(self) -> int:
        """The number of epochs of the whole training. The last one may be incomplete."""

    @property
    def begins_within_epoch(self) -> bool:
        """Whether the first epoch was begun before, so that its loader has drawn random numbers already."""
        return bool(self.skipped or self.shown)

    @abstractmethod
    def steps_left(self, epoch: int) -> int:
        """The number of steps of an epoch that are not done yet."""

    @abstractmethod
    def progress(self, step: int) -> Progress:
        """How far the training has come after `step` steps of the whole training; not for steps before this run."""

    @abstractmethod
    def epochs_at(self, step: int) -> float:
        """The number of epochs that are done after `step` steps of the whole training, as a fraction."""

    def after(self, step: int) -> Self:
        """The same plan, from a later step of the whole training on."""
        later = copy.copy(self)
        later._begin(self.progress(step))
        return later

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; the Trainer calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps_left(self.epoch) * self.layout.accumulation
