"""Start runs as processes that are forked from this one, which imports everything once.

It computes nothing itself, so that it has no threads when it forks.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import torch  # noqa: E402

import wordmask.__main__ as command  # noqa: E402
import wordmask.references.writer  # noqa: E402, F401
import wordmask.training.run  # noqa: E402, F401
from conftest import character_tokenizer, free_port, sample_lines, save_model  # noqa: E402
from faults.cases import RUNS  # noqa: E402
from faults.events import Event, inject  # noqa: E402

NOTHING: Mapping[int, Event] = MappingProxyType({})
PATIENCE = 900.0  # seconds for a run: far more than one takes, but on a very busy machine


def make_inputs(folder: Path) -> None:
    """A tiny model, a text of sixteen lines for training, and one of eight."""
    lines = [line[:40] for line in sample_lines("chinese", 24)]
    save_model(folder / "model", character_tokenizer(lines))
    (folder / "text.txt").write_text("\n".join(lines[:16]) + "\n", encoding="utf-8")
    (folder / "dev.txt").write_text("\n".join(lines[16:]) + "\n", encoding="utf-8")


class Launch:
    """The processes of a run that was started: what they print, and how they end.

    When one of two processes has failed, the other one is ended, as torchrun does.

    Args:
        run: a name in `RUNS`.
        inputs: the folder of `make_inputs`.
        folder: where the run writes, to `out` and `cache`.
        events: what happens to it, by numbers.

    Attributes:
        pids: the processes.
        statuses: of those that have ended: negative after a signal.
    """

    def __init__(self, run: str, inputs: Path, folder: Path, events: Mapping[int, Event] = NOTHING):
        words = shlex.split(RUNS[run].format(inputs=inputs, out=folder / "out"))
        if run.startswith("references") and (folder / "out" / "ref.txt.parts").exists():
            words.append("--resume")
        ranks = 2 if run == "two processes" else 1
        port = free_port() if ranks == 2 else ""
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.pids: list[int] = []
        self._ended: dict[int, int] = {}
        self._printed, self._limit, self._is_ending = b"", time.monotonic() + PATIENCE, False
        for rank in range(ranks):
            pid = os.fork()
            if not pid:
                of_rank = {number: event for number, event in events.items() if event.rank == rank}
                _be_a_run(words, writer, rank, port, partial(inject, of_rank, folder / "events"))
            self.pids.append(pid)
        os.close(writer)

    @property
    def statuses(self) -> list[int]:
        return [self._ended[pid] for pid in self.pids if pid in self._ended]

    @property
    def printed(self) -> str:
        """What the processes have printed until now."""
        return self._printed.decode(errors="replace")

    def poll(self) -> bool:
        """Look at the processes; whether all have ended. One that hangs is killed."""
        for pid in self.running:
            if (done := os.waitpid(pid, os.WNOHANG))[0]:
                self._ended[pid] = os.waitstatus_to_exitcode(done[1])
        late = time.monotonic() > self._limit
        if self.running and (late or any(self.statuses) and not self._is_ending):
            self._is_ending, self._limit = True, time.monotonic() + (5 if late else 15)
            for pid in self.running:
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        with contextlib.suppress(BlockingIOError):
            while self._reader >= 0 and (block := os.read(self._reader, 2**16)):
                self._printed += block
        if self.running:
            return False
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
        return True

    @property
    def running(self) -> list[int]:
        """The processes that have not ended, at the last look."""
        return [pid for pid in self.pids if pid not in self._ended]

    def wait(self) -> Launch:
        """Wait until all processes have ended."""
        while not self.poll():
            time.sleep(0.01)
        return self


def _be_a_run(argv: list[str], printed: int, rank: int, port: str, prepare: Callable[[], None]) -> None:
    """The body of a forked process: it leaves with the status that a script would have."""
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):  # until the script handles them
        signal.signal(number, lambda *_, status=status: os._exit(status))
    os.dup2(printed, 1)  # a pipe: a file would be full, too
    os.dup2(printed, 2)
    torch.set_num_threads(1)
    if port:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    prepare()
    sys.modules["__main__"] = command  # what a worker imports that is not forked
    status: Any = 1
    try:
        sys.argv = ["wordmask", *argv]
        command.main(argv)
        status = 0
    except SystemExit as error:
        status = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def is_one_sentence(printed: str) -> bool:
    """Whether a run says what is wrong in one sentence."""
    return sum(line.startswith("error: ") for line in printed.splitlines()) == 1 and "Traceback" not in printed
