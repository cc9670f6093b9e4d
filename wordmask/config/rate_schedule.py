"""The masking rate over a training, as `--mlm_probability` says it: constant, in lines, in steps, or drawn."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wordmask.config.number_checks import check_shares
from wordmask.masking import RATE, FloatArray, Keys, drawn, hash64
from wordmask.utils.errors import InputError
from wordmask.utils.quantities import percent

_Integers: TypeAlias = int | NDArray[np.int64]
_FLAG = "--mlm_probability"
_FORMS = "0.15, 0.30:0.15 (a line), 0.30@0.7,0.15@0.3 (steps) or 0.1..0.9 (drawn for each sequence)"


class Phase(NamedTuple):
    """A part of the training.

    Attributes:
        share: its share of the training.
        first, last: its rates at its begin and its end, with a straight line between them.
        draws: whether each sequence draws a rate between the two instead.
    """

    share: float
    first: float
    last: float
    draws: bool = False

    def __str__(self) -> str:
        if self.first == self.last:
            return percent(self.first)
        rates = f"{percent(self.first)} to {percent(self.last)}"
        return f"{rates} (drawn for each sequence)" if self.draws else rates


@dataclass(frozen=True)
class RateSchedule:
    """The masking rate of each sequence of a training. It depends on its place in the training, or, if it is drawn, on
    seed, epoch and sequence. So a resume or another number of processes changes nothing.

    Attributes:
        phases: the parts of the training, in order. Their shares add up to 1.
        seed: the seed of all masks.
    """

    phases: tuple[Phase, ...]
    seed: int = 0

    @classmethod
    def of(cls, text: object, seed: int = 0, flag: str = _FLAG, forms: str = _FORMS) -> RateSchedule:
        """The schedule that a value of `--mlm_probability` says. Messages begin with the flag, and list these forms.

        | text | phases |
        |---|---|
        | `0.15` | one, constant |
        | `0.15:0.30:0.15` | a line up, a line down, each in half of the training |
        | `0.30@0.7,0.15@0.3` | 0.30 for 70 % of the training, then 0.15 |
        | `0.1..0.9` | one, in which each sequence draws its rate |
        | `0.30@0.5,0.30:0.15@0.5` | 0.30 for half of the training, then a line |

        Raises:
            InputError: if it says none, or leaves a part of the training without a rate.
        """
        parts = [part.rpartition("@") if "@" in part else (part, "", "1") for part in str(text).split(",")]
        try:
            phases = [phase for rates, _, share in parts for phase in _phases(rates, float(share))]
        except ValueError:
            phases = []
        if not phases or not all(0 < phase.first < 1 and 0 < phase.last < 1 for phase in phases):
            raise InputError(f"{flag}: {text} is no masking rate above 0 and below 1; give {forms}")
        if low := next((phase for phase in phases if phase.draws and phase.first >= phase.last), None):
            raise InputError(f"{flag}: {text} draws from {low.first:g} up to {low.last:g}; give the lower rate first")
        advice = "give each rate a share above 0, so that they add up to 1, such as 0.30@0.7,0.15@0.3"
        shares = [phase.share for phase in phases]
        check_shares(flag, shares, f"the shares of the training in {text}", advice)
        return cls(tuple(phases), seed)

    @property
    def needs_length(self) -> bool:
        """Whether rates depend on the length of the training."""
        return len(self.phases) > 1 or not self.phases[0].draws and self.phases[0].first != self.phases[0].last

    @property
    def highest(self) -> float:
        """The highest rate of any sequence."""
        return max(max(phase.first, phase.last) for phase in self.phases)

    @property
    def final(self) -> float:
        """The rate of evaluation: the last one, or the middle of rates that are drawn."""
        last = self.phases[-1]
        return (last.first + last.last) / 2 if last.draws else last.last

    @cached_property
    def _bounds(self) -> FloatArray:
        """Where each phase begins; rounded, so that 0.1 + 0.2 is 0.3."""
        return np.round(np.cumsum([0.0, *(phase.share for phase in self.phases[:-1])]), 12)

    @property
    def draws(self) -> bool:
        """Whether some sequences draw their rates."""
        return any(phase.draws for phase in self.phases)

    def at(self, progress: FloatArray, epochs: _Integers = 0, indices: _Integers = 0) -> FloatArray:
        """(sequences,) The rates of sequences of a training.

        Args:
            progress: (sequences,) the share of the training that is done before each of them.
            epochs, indices: what the mask of each depends on, too.
        """
        return self.of_keys(hash64(self.seed, epochs, indices) if self.draws else np.zeros(1, np.uint64), progress)

    def of_keys(self, keys: Keys, progress: FloatArray) -> FloatArray:
        """(sequences,) The rates of sequences at these moments, given the keys of their masks."""
        # With shares 0.7 and 0.3, bounds are 0.0 0.7. A progress of 0.85 is in phase 1, and half way through it.
        several = len(self.phases) > 1
        number = np.searchsorted(self._bounds[1:], progress, side="right") if several else np.intp(0)
        share, first, last, draws = (column[number] for column in np.array(self.phases, float).T)
        place = np.where(draws, drawn(keys, RATE), (progress - self._bounds[number]) / share)
        return first + (last - first) * place

    def __str__(self) -> str:
        """`30.0% of the tokens for 70% of the training, then 15.0%, in evaluations 15.0%`"""
        times = [f" for {100 * phase.share:.3g}% of the training" for phase in self.phases[:-1]] + [""]
        parts = [f"{phase}{time}" for phase, time in zip(self.phases, times, strict=True)]
        parts[0] = parts[0].replace(str(self.phases[0]), f"{self.phases[0]} of the tokens")
        if self.needs_length or self.draws:
            parts[-1] += f", in evaluations {percent(self.final)}"
        return ", then ".join(parts)


def _phases(text: str, share: float) -> list[Phase]:
    """The phases of `0.15`, `0.15:0.30:0.15` or `0.1..0.9` in a share of the training."""
    if drawn_between := re.fullmatch(r"(.+?)\.\.(.+)", text):
        low, high = map(float, drawn_between.groups())
        return [Phase(share, low, high, draws=True)]
    rates = [float(rate) for rate in text.split(":")]
    ends = list(zip(rates, rates[1:], strict=False)) or [(rates[0], rates[0])]
    return [Phase(share / len(ends), first, last) for first, last in ends]
