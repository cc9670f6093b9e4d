"""What a report draws: measures of a run, the charts of each, the numbers at their axes, the place of each point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wordmask.training.records.speed_record import Moment
from wordmask.utils import quantities

Values = Mapping[int, float]  # by step

TIME_UNITS = (("h", 3600), ("min", 60), ("s", 1))


@dataclass(frozen=True)
class Scale:
    """How values are read and drawn.

    Attributes:
        shown: how people read a value.
        from_zero: whether the axis begins at 0.
        in_percent: whether the numbers at the axis are percentages.
    """

    shown: Callable[[float], str]
    from_zero: bool = False
    in_percent: bool = False

    def tick(self, value: float) -> str:
        """A number at the axis."""
        return f"{100 * value:,.6g}%" if self.in_percent else f"{value:,.6g}"


LOSS, SHARE = Scale(quantities.loss), Scale(quantities.percent, in_percent=True)
SPEED = Scale(quantities.number, from_zero=True)


@dataclass(frozen=True)
class Measure:
    """What is drawn over the steps of a training and over its time, and listed by step.

    Attributes:
        name: what is measured.
        scale: how its values are read and drawn.
        series: the values of each curve, by its name.
        moments: the time of some steps of the training, from which that of the others is computed.
    """

    name: str
    scale: Scale
    series: Mapping[str, Values]
    moments: Sequence[Moment]

    @cached_property
    def steps(self) -> list[int]:
        """The steps at which any curve has a value."""
        return sorted({step for values in self.series.values() for step in values})

    @cached_property
    def seconds(self) -> Values:
        """The seconds of training at each step; none if they are not known."""
        if len(self.moments) < 2:
            return {}
        known, times = [one.step for one in self.moments], [one.seconds for one in self.moments]
        return dict(zip(self.steps, np.interp(self.steps, known, times).tolist(), strict=True))

    @property
    def charts(self) -> list[Chart]:
        """The chart over steps, and that over time, if it is known."""
        places: dict[str, Values] = {"steps": {step: step for step in self.steps}}
        if self.seconds:
            longest = max(self.seconds.values())
            unit, size = next(one for one in TIME_UNITS if longest >= 2 * one[1] or one[1] == 1)
            places[f"training time in {unit}"] = {step: seconds / size for step, seconds in self.seconds.items()}
        return [Chart(self.name, over, self._curves(at), self.scale) for over, at in places.items()]

    def _curves(self, at: Values) -> dict[str, list[tuple[float, float]]]:
        """The points of each curve, of which those of a step lie at this place."""
        return {label: [(at[step], value) for step, value in values.items()] for label, values in self.series.items()}


@dataclass(frozen=True)
class Chart:
    """Curves over the same steps, or over the same time.

    Attributes:
        name: what is shown.
        over: what the curves run over, with its unit.
        curves: the points of each, by its name.
        scale: how their values are read and drawn.
    """

    name: str
    over: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    scale: Scale
    width, height = 400, 250
    left, right, bottom = 52, 14, 40  # the margins

    @cached_property
    def axes(self) -> tuple[list[float], list[float]]:
        """The numbers at both axes."""
        xs, ys = zip(*(point for points in self.curves.values() for point in points), strict=True)
        lowest = 0 if self.scale.from_zero else min(ys)
        return ticks(min(xs), max(xs)), ticks(lowest, max(ys))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the picture, from left to right and from top to bottom."""
        across, up = ((value - axis[0]) / (axis[-1] - axis[0]) for value, axis in zip((x, y), self.axes, strict=True))
        height = self.height - self.bottom - 12 - 18 * math.ceil(len(self.curves) / 2)  # names stand above the curves
        width = self.width - self.left - self.right
        return round(self.left + across * width, 1), round(self.height - self.bottom - up * height, 1)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers with equal gaps; the first and the last one enclose the range."""
    span = high - low or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / 5))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= span / 5)
    first = math.floor(low / step)
    return [step * number for number in range(first, max(math.ceil(high / step), first + 1) + 1)]
