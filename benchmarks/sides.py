"""Running the sides of a comparison in turn, each in a process of its own, and what they measure there."""

from __future__ import annotations

import ctypes
import fcntl
import os
import statistics
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from wordmask.utils.memory import peak_memory, process_size

Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """What the sides of one measurement of training share.

    Attributes:
        model: the directory of the weights that training begins with, and of their tokenizer.
        train: a text file with one example in each line.
        evaluated: a file of other examples, see the module that evaluates.
        length: the longest sequence, in tokens.
        batch: the examples in a step.
        packed_batch: the sequences in a step where examples are packed, with as many tokens.
    """

    model: str
    train: str
    evaluated: str
    length: int
    batch: int
    packed_batch: int


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


class Process:
    """A process that has already imported a module when its work comes; start the next one while one works.

    Args:
        module: takes long to import. The work must be of a module, and not of the program itself.
        method: how the process starts. `forkserver` imports once for all, which GPUs do not allow in general.
        turn: a file that it holds while it imports, together with others, so that nothing is timed then.
    """

    def __init__(self, module: str, method: str = "spawn", turn: str | None = None):
        context: Any = get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload([module])
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, module, turn), daemon=False)
        # Else the new process first imports the program that starts it, with torch, and outside of the turn.
        with patch.object(sys.modules["__main__"], "__file__", None, create=True):
            self.process.start()
        other.close()

    def run(self, work: Callable[[], Any], seconds: float) -> Any:
        """The result of some work, after which the process ends.

        Raises:
            RuntimeError: with a sentence, if the work fails, if its process dies, or if it takes too long.
        """
        try:
            self.connection.send(work)
            if not self.connection.poll(seconds):
                raise RuntimeError(f"it takes more than {seconds:.0f} seconds")
            result, error = self.connection.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError("its process died") from None
        finally:
            self.end()
        if error:
            raise RuntimeError(error)
        return result

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.join(0 if self.connection.closed else 1)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, module: str, turn: str | None) -> None:
    with open(turn, "w") if turn else nullcontext() as file:
        if file:
            fcntl.flock(file, fcntl.LOCK_SH)
        import_module(module)
    try:
        work = connection.recv()
    except EOFError:
        return
    try:
        answer = work(), None
    except BaseException as error:
        traceback.print_exc()
        answer = None, f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
    connection.send(answer)


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
    return process_size("VmRSS") / 2**20


def restart_peak() -> None:
    """Have the peak memory of this process begin anew at what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    """The peak memory of this process, since it was forgotten."""
    return peak_memory() / 2**20
