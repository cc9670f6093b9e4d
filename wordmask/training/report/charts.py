"""Charts of curves: the numbers at their axes, and the place of each point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from wordmask.utils import quantities


@dataclass(frozen=True)
class Chart:
    """Curves over the same steps, or over the same time.

    Attributes:
        name: what is shown.
        over: what the curves run over, with its unit.
        curves: the points of each, by its name.
        shown: how people read a value.
    """

    name: str
    over: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    shown: Callable[[float], str]
    width, height = 400, 250
    left, right, bottom = 52, 14, 40  # the margins

    @cached_property
    def axes(self) -> tuple[list[float], list[float]]:
        """The numbers at both axes."""
        xs, ys = zip(*(point for points in self.curves.values() for point in points), strict=True)
        lowest = min(ys) if self.name != "speed" else 0
        return ticks(min(xs), max(xs)), ticks(lowest, max(ys))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the picture, from left to right and from top to bottom."""
        across, up = ((value - axis[0]) / (axis[-1] - axis[0]) for value, axis in zip((x, y), self.axes, strict=True))
        height = self.height - self.bottom - 12 - 18 * math.ceil(len(self.curves) / 2)  # names stand above the curves
        width = self.width - self.left - self.right
        return round(self.left + across * width, 1), round(self.height - self.bottom - up * height, 1)

    def tick(self, value: float) -> str:
        """A number at the axis from bottom to top."""
        return f"{100 * value:,.6g}%" if self.shown is quantities.percent else f"{value:,.6g}"


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers with equal gaps; the first and the last one enclose the range."""
    span = high - low or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / 5))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= span / 5)
    first = math.floor(low / step)
    return [step * number for number in range(first, max(math.ceil(high / step), first + 1) + 1)]
