"""How fast a training is, without waiting for its device."""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

import torch

from wordmask.training.records.speed_record import TokenCount


class Mark(NamedTuple):
    """A moment of a training.

    Attributes:
        step: the steps done.
        tokens: those of this process.
        seconds: of training alone.
    """

    step: int
    tokens: int
    seconds: float


class Speed:
    """Tokens in a second, and the time left.

    The device is waited for after the first step, and at each log, where the Trainer has just waited. Between logs,
    steps count as many tokens as those before them. On a CPU there is nothing to wait for.

    Args:
        tokens: counts the tokens of this process.
        device: trains.
        processes: how many train together.
        step, steps: the steps done before, and those of the whole training.
    """

    def __init__(self, tokens: TokenCount, device: torch.device, processes: int, step: int, steps: int):
        self.tokens, self.on_cpu, self.processes = tokens, device.type == "cpu", processes
        self.step, self.steps, self.before = step, steps, step
        self.begin, self.paused = time.monotonic(), 0.0
        self.ended = 0.0  # when the last step ended, in seconds of training alone
        self.marks: deque[Mark] = deque(maxlen=2)
        self.first: Mark | None = None

    def advance(self, step: int) -> None:
        """Note that a step has ended. The clock starts at the end of the first one, which may compile."""
        self.step, self.ended = step, self._seconds()
        if self.first is None:
            self.first = self._read()
            self.marks.append(self.first)

    def logged(self) -> None:
        """Note the tokens at a log, where the Trainer has waited for the device."""
        if self.marks and self.step > self.marks[-1].step:
            self.marks.append(self._read())

    def pause(self, seconds: float) -> None:
        """Leave out the time of an evaluation."""
        self.paused += seconds

    @property
    def done(self) -> int:
        """The steps of this call of `train`."""
        return self.step - self.before

    @property
    def rate(self) -> float | None:
        """Tokens in a second, of all processes, since the log before the last one; `None` before the second step."""
        if not self.marks:
            return None
        begin, now = self.marks[0], self._read() if self.on_cpu else self._assumed()
        seconds = now.seconds - begin.seconds
        return self.processes * (now.tokens - begin.tokens) / seconds if seconds > 0 else None

    @property
    def left(self) -> float | None:
        """The seconds left, with evaluations as often as before; `None` before the second step and at the end."""
        if self.first is None or self.step in (self.first.step, self.steps):
            return None
        seconds = self.ended + self.paused - self.first.seconds
        left = seconds / (self.step - self.first.step) * (self.steps - self.step)
        return max(0.0, left - (self._seconds() - self.ended))

    def _seconds(self) -> float:
        return time.monotonic() - self.begin - self.paused

    def _read(self) -> Mark:
        return Mark(self.step, self.tokens.read(), self.ended)

    def _assumed(self) -> Mark:
        last = self.marks[-1]
        mean = last.tokens / (last.step - self.before)
        return Mark(self.step, round(last.tokens + (self.step - last.step) * mean), self.ended)
