"""Running the sides of a comparison in turn, each in a process of its own, and what they measure there."""

from __future__ import annotations

import ctypes
import os
import re
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

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


def use_one_core() -> None:
    """Keep this process, and what it starts, to one core."""
    os.environ |= {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def forget_peak() -> float:
    """Forget the peak memory of this process, and return its memory now, in MB; what it only keeps in store goes back
    to the system first."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # the C library of most Linux systems has it
        trim(0)
    restart_peak()
    return _memory("VmRSS")


def restart_peak() -> None:
    """Have the peak memory of this process begin anew at what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    """The peak memory of this process, since it was forgotten."""
    return _memory("VmHWM")


def _memory(name: str) -> float:
    return int(re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
