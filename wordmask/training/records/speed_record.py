"""What a training has taken: the count of its tokens, and `wordmask_speed.json` with tokens and time at each log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wordmask.training.records.file_names import SPEED
from wordmask.utils.files import damage_is_warned, read_json, write_json_entries

if TYPE_CHECKING:  # `wordmask report` reads the file without torch
    import torch


class TokenCount:
    """The tokens that this process has trained on, without padding, and how long it has waited for batches.

    Attributes:
        total: the tokens.
        earlier: those of earlier attempts of --auto_find_batch_size. The time of these does not count.
        waited: the seconds in which batches were made, or in which workers were waited for, in the last attempt.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin with a new training."""
        self.total: torch.Tensor | int = 0
        self.begin_attempt()

    def begin_attempt(self) -> None:
        """Begin with the next attempt."""
        self.earlier, self.waited = self.total, 0.0

    def add(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Add the tokens of batches. Does not wait for their device."""
        for batch in batches:
            mask = batch.get("attention_mask")
            self.total = self.total + (batch["input_ids"].numel() if mask is None else mask.sum())

    def read(self) -> int:
        """The number; waits for the device."""
        return int(self.total)


class Moment(NamedTuple):
    """What a training has taken up to a step, over all its runs.

    Attributes:
        step: the steps done.
        tokens: those of all processes, without padding.
        seconds: of training alone.
        evaluation_seconds: of the evaluations between its steps.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0


class SpeedRecord:
    """The moments of a training, in the order of their steps. A resumed training adds to those before it."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self._before = Moment()
        self._begin, self._evaluating = 0.0, 0.0

    def begin(self, step: int) -> None:
        """Begin after this step. Moments of later steps are removed, since these steps are done again."""
        self.moments = [moment for moment in self.moments if moment.step <= step] or [Moment(step)]
        self._before = self.moments[-1]
        self._begin, self._evaluating = time.monotonic(), 0.0

    def evaluated(self, seconds: float) -> None:
        """Count these seconds as those of an evaluation, not of training."""
        self._evaluating += seconds

    def add(self, step: int, tokens: int) -> None:
        """Add this moment. `tokens` are those since `begin`."""
        before, seconds = self._before, time.monotonic() - self._begin - self._evaluating
        while self.moments and self.moments[-1].step >= step:
            self.moments.pop()
        self.moments.append(
            Moment(
                step,
                before.tokens + tokens,
                round(before.seconds + seconds, 3),
                round(before.evaluation_seconds + self._evaluating, 3),
            )
        )

    def write(self, directory: str | Path) -> None:
        """Write the moments, one to a line."""
        write_json_entries(Path(directory) / SPEED, "moments", (moment._asdict() for moment in self.moments))


def read_speed(directory: str | Path) -> list[Moment]:
    """The moments in a run's directory; without a file, or with a broken one, there are none."""
    path = Path(directory) / SPEED
    with damage_is_warned(path, "the time of earlier steps is not known"):
        moments = read_json(path)["moments"]
        return [Moment(int(one["step"]), *(one[name] + 0 for name in Moment._fields[1:])) for one in moments]
    return []
