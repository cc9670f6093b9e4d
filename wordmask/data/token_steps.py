"""Steps of equal weight: `--tokens_per_step` cuts one running sequence of examples, over all epochs, by its tokens.

A step ends at the first sequence with which it has N tokens, so it has less than one sequence too many. It may begin
in one epoch and end in a later one. What is in a step depends on seed, text and N alone. Processes and accumulated
batches only divide it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np

from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.order import token_ends
from wordmask.data.plan import Draw, Layout, Piece, Plan, Progress, Stage, examples_in
from wordmask.utils.arrays import Integers
from wordmask.utils.errors import InputError


class Cut(NamedTuple):
    """An epoch cut into steps.

    Attributes:
        order: (sequences,) the sequences that are left of the epoch, in order.
        ends: (steps,) where in `order` each step that ends in this epoch ends. A last step may end in a later epoch.
    """

    order: Integers
    ends: Integers


class TokenCuts:
    """The epochs of a training, cut into steps. The last ones are kept, and of all others their counts.

    Args:
        stage: the order of the sequences.
        lengths: (sequences,) the tokens of each.
        tokens: that a step has at least.

    Raises:
        InputError: if a sequence has more tokens than a step.
    """

    def __init__(self, stage: Stage, lengths: Integers, tokens: int):
        longest = int(lengths.max(initial=0))
        if tokens < longest:
            raise InputError(
                f"--tokens_per_step: {tokens} is less than the longest sequence, of {longest} tokens; give {longest} "
                "or more, for example some thousands"
            )
        self.stage, self.lengths, self.tokens = stage, lengths, tokens
        self._last: dict[tuple, Cut] = {}
        self._counts: dict[tuple, tuple[int, int]] = {}

    def tokens_of(self, order: Integers) -> Integers:
        """(sequences,) The tokens of what an order has: sequences, or visits of them."""
        return self.lengths[order % max(len(self.lengths), 1)]

    def of(self, epoch: int, shown: tuple[Piece, ...], carried: int) -> Cut:
        """Cut what is left of an epoch.

        Args:
            epoch: its number.
            shown: what steps of other sizes have shown of it.
            carried: the tokens from the epoch before that its first step has.
        """
        key = epoch, shown, carried
        if key not in self._last:
            order = self.stage.remaining(epoch, shown, Piece(self.tokens, 0, 0, carried))
            while len(self._last) > 1:  # an epoch, and the next one, in which its last step may end
                del self._last[next(iter(self._last))]
            self._last[key] = Cut(order, token_ends(self.tokens_of(order), self.tokens, carried))
        return self._last[key]

    def counts(self, epoch: int, shown: tuple[Piece, ...], carried: int, used: int) -> tuple[int, int]:
        """How many steps end in the first `used` sequences of an epoch, and the tokens after the last of them."""
        key = epoch, shown, carried, used
        if key not in self._counts:
            order, ends = self.of(epoch, shown, carried)
            steps = int(np.searchsorted(ends, used, "right"))
            start, before = (int(ends[steps - 1]), 0) if steps else (0, carried)
            self._counts[key] = steps, before + int(self.tokens_of(order[start:used]).sum())
        return self._counts[key]


class _Epoch(NamedTuple):
    """An epoch of the text.

    Attributes:
        number: of the epoch.
        carried: the tokens of a step that began before it.
        used: how many of its sequences the training shows: all but in the last epoch.
        ended: the steps of the whole training that have ended before it.
        steps: those that end in it.
        tokens_left: the tokens of a step that begins in this epoch or before, and ends after it.
    """

    number: int
    carried: int
    used: int
    ended: int
    steps: int
    tokens_left: int

    @property
    def begun(self) -> int:
        """The steps of the whole training that have begun by the end of this epoch."""
        return self.ended + self.steps + bool(self.tokens_left)


class TokenBatches(Plan):
    """The batches of one process, in steps of at least so many tokens.

    For the Trainer, an epoch is the steps that begin in an epoch of the text. An epoch in which none begins, since
    a step is longer than the text, is left out there.

    Args:
        cuts: the sequences, and the tokens of a step.
        layout: how a step is divided. Its batch size does not count.
        rates, steps, epochs, done: see `wordmask.data.sampler.Batches`.
    """

    def __init__(
        self,
        cuts: TokenCuts,
        layout: Layout,
        rates: RateSchedule,
        steps: int | None = None,
        epochs: float = 1.0,
        done: Progress | None = None,
    ):
        self.cuts, self.layout, self.stages, self.rates, self.drop_last = cuts, layout, [cuts.stage], rates, False
        self.steps_in_epoch = max(1, round(int(cuts.lengths.sum()) / cuts.tokens))
        self._begin(done or Progress())
        self._plan(steps, epochs)
        self.step_bounds = [0, self.planned_steps]
        self._lay_out()

    def _begin(self, done: Progress) -> None:
        """Find where to continue, see `Plan`; `carried` are the tokens from before the first epoch."""
        count, pieces, tokens = self.cuts.stage.sequence_count, done.pieces, self.cuts.tokens
        self.first_epoch, self.shown, self.carried, self.skipped = done.epoch, pieces, 0, 0
        last = pieces[-1] if pieces else Piece(tokens, 0, 0)
        if last.carried is not None and last.size == tokens:
            ends = self.cuts.of(done.epoch, pieces[:-1], last.carried).ends
            if last.steps <= len(ends) and last.examples == ends[last.steps - 1]:  # a training goes on as it began
                self.shown, self.carried, self.skipped = pieces[:-1], last.carried, last.steps
        if done.step and done.examples >= count:
            self.first_epoch, self.shown, self.carried, self.skipped = done.epoch + 1, (), 0, 0
        self.base = done.step - self.skipped

    def _plan(self, steps: int | None, epochs: float) -> None:
        """Find the steps that end in each epoch, up to the end of the training.

        With three sequences of 4 tokens, steps of 6 tokens and two epochs, steps end after 2, 4 and 6 sequences: one
        in the first epoch, and two in the second one, of which the first has 4 tokens from the epoch before.
        """
        count, carried, ended = self.cuts.stage.sequence_count, self.carried, self.base
        self.epochs: list[_Epoch] = []
        last = math.inf if steps else max(math.ceil(epochs) - 1, self.first_epoch)
        number = self.first_epoch
        while number <= last and (not steps or ended < steps) and count:
            shown = self._shown(number)
            used = count if number < last else math.ceil(round((epochs - number) * count, 6))
            used = max(min(used, count) - examples_in(shown), 0)
            own, left = self.cuts.counts(number, shown, carried, used)
            self.epochs.append(_Epoch(number, carried, used, ended, own, left))
            number, carried, ended = number + 1, left, ended + own
        self.planned_steps = steps or (self.epochs[-1].begun if self.epochs else self.base)

    def _shown(self, number: int) -> tuple[Piece, ...]:
        return self.shown if number == self.first_epoch else ()

    def _lay_out(self) -> None:
        """Find the steps that begin in each epoch, which are the epochs of the Trainer.

        In the example of `_plan`, steps 0 and 1 begin in the first epoch, and step 2 in the second one: the Trainer's
        epochs are (0, 0-1) and (1, 2). An epoch in which no step begins is none for the Trainer.
        """
        self.epoch, begun = self.first_epoch, self.base + self.skipped
        self.trainer_epochs: list[tuple[int, range]] = []  # a place in `epochs`, and the steps that begin there
        for place, epoch in enumerate(self.epochs):
            stop = min(epoch.begun, self.planned_steps)
            if epoch.number >= self.first_epoch and stop > begun:
                self.trainer_epochs.append((place, range(begun, stop)))
                begun = stop

    @property
    def planned_epochs(self) -> int:
        return self.first_epoch + len(self.trainer_epochs)

    @property
    def begins_within_epoch(self) -> bool:
        """See `Plan`. The first step that ends in an epoch may belong to the epoch before."""
        return bool(self.shown) or self.skipped > bool(self.carried)

    def steps_left(self, epoch: int) -> int:
        number = epoch - self.first_epoch
        return len(self.trainer_epochs[number][1]) if 0 <= number < len(self.trainer_epochs) else 0

    def __len__(self) -> int:
        return max(super().__len__(), 1)  # the Trainer refuses a length of 0, and no step may be left

    def after(self, step: int) -> Self:
        later = super().after(step)
        later._lay_out()
        return later

    def progress(self, step: int) -> Progress:
        if step <= self.base:
            return Progress(step, self.first_epoch, self.shown, False)
        epoch = next((epoch for epoch in self.epochs if step <= epoch.ended + epoch.steps), self.epochs[-1])
        shown, own = self._shown(epoch.number), step - epoch.ended
        ends = self.cuts.of(epoch.number, shown, epoch.carried).ends
        examples = int(ends[own - 1]) if own <= epoch.steps else epoch.used  # the last step of all has what is left
        pieces = (*shown, Piece(self.cuts.tokens, own, examples, epoch.carried))
        return Progress(step, epoch.number, pieces, False)

    def epochs_at(self, step: int) -> float:
        done = self.progress(step)
        return done.epoch + done.examples / max(1, self.cuts.stage.sequence_count)

    def __iter__(self) -> Iterator[list[Draw]]:
        number = self.epoch - self.first_epoch
        if not 0 <= number < len(self.trainer_epochs):
            return
        place, steps = self.trainer_epochs[number]
        of_epoch = self.epochs[place]
        for step in steps:
            indices, epochs = zip(*self._step(place, step - of_epoch.ended), strict=True)
            progress = np.full(len(indices), step / self.planned_steps)
            rates = self.rates.at(progress, np.array(epochs), np.array(indices)).tolist()
            yield from self._deal_tokens([Draw(*which) for which in zip(indices, epochs, rates, strict=True)])

    def _step(self, place: int, own: int) -> Iterator[tuple[int, int]]:
        """The sequences of the step that begins after `own` others of an epoch, each with its epoch."""
        for epoch in self.epochs[place:]:
            order, ends = self.cuts.of(epoch.number, self._shown(epoch.number), epoch.carried)
            start = int(ends[own - 1]) if own else 0
            if own < epoch.steps:
                yield from self._located(order[start : ends[own]], epoch.number)
                return
            yield from self._located(order[start : epoch.used], epoch.number)
            own = 0  # it goes on in the next epoch, where it is the first one to end

    def _located(self, order: Integers, epoch: int) -> Iterator[tuple[int, int]]:
        indices, epochs = self.cuts.stage.located(order, epoch)
        return zip(indices.tolist(), epochs.tolist(), strict=True)

    def largest(self, rate: float) -> list[list[Draw]]:
        """The batches of this process in a step of the longest sequences, at a masking rate."""
        order = np.argsort(-self.cuts.lengths, kind="stable")
        end = next(iter(token_ends(self.cuts.lengths[order], self.cuts.tokens, 0)), len(order))
        return list(self._deal_tokens([Draw(index, 0, rate) for index in order[:end].tolist()]))

    def _deal_tokens(self, draws: list[Draw]) -> Iterator[list[Draw]]:
        """The batches of this process in a step, all with about as many tokens.

        With two processes and two accumulated batches, lengths 4 4 4 4 4 are dealt as 0 1 2 2 3 by the middle of each
        sequence: the first process gets the batches 0 and 2.
        """
        layout = self.layout
        parts = layout.processes * layout.accumulation
        lengths = self.cuts.lengths[[draw.index for draw in draws]]
        ends = np.cumsum(lengths)
        parts_of = (2 * ends - lengths) * parts // (2 * ends[-1])
        for number in range(layout.accumulation):
            own = np.flatnonzero(parts_of == number * layout.processes + layout.process)
            yield [draws[place] for place in own.tolist()] or [draws[0]._replace(rate=0.0)]
