"""Running the sides of a comparison in turn, each in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

Figures = dict[str, float]


def run_in_turn(sides: dict[str, Callable[[], Figures]], repeats: int) -> dict[str, Figures]:
    """The medians of each side's figures over so many runs, A B A B …, so that a drift of the machine meets all."""
    context = get_context("spawn")
    runs: dict[str, list[Figures]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            with ProcessPoolExecutor(1, context) as process:
                runs[name].append(process.submit(run).result())
    return {
        name: {figure: statistics.median(run[figure] for run in found) for figure in found[0]}
        for name, found in runs.items()
    }
