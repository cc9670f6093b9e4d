"""Train and make references for an hour under kills, concurrent starts and full disks, at random moments.

    python tests/faults/soak.py --minutes 60 --seed 7

Each round is one run. It is hurt and started again, up to `HURT` times, and then left alone. It must end as a run does
that nothing happened to. A seed gives the same events at the same moments, but a run is not always equally far then.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from faults.cases import RUNS  # noqa: E402
from faults.harness import final_state  # noqa: E402
from faults.launching import Launch, is_one_sentence, make_inputs  # noqa: E402
from faults.mounts import leave_mounts, small_disk, why_not  # noqa: E402
from wordmask.references.provenance import sidecar  # noqa: E402

HURT = 4  # launches of a round to which something happens, at most
ROOM = 32  # MiB on the disk that is filled
COLUMNS = ("rounds", "SIGKILL", "SIGTERM", "SIGINT", "start", "full disk", "right", "sentences", "lost")
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")


class Planned(NamedTuple):
    """What happens when: an event, and the seconds since the launch."""

    event: str
    moment: float


class Lost(Exception):
    """A run that did not end as it should."""


class Soak:
    """The rounds.

    Args:
        seed: of the random moments.
        disk: the folder to work in.
        fills: whether the disk may be filled.
    """

    def __init__(self, seed: int, disk: Path, fills: bool):
        self.random, self.disk = random.Random(seed), disk
        self.events = (*SIGNALS, "start", "start", *(["full disk"] * fills))
        self.inputs, self.folder, self.ballast = disk / "inputs", disk / "round", disk / "ballast"
        self.counts: Counter[tuple[str, str]] = Counter()
        self.expected: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.inputs.mkdir()
        make_inputs(self.inputs)

    def play(self, number: int, show: Callable[[str], None]) -> None:
        """Play a round, with the next of all runs."""
        run = [*RUNS][number % len(RUNS)]
        if run not in self.expected:
            self._learn(run)
        history: list[list[Planned]] = []
        self.folder.mkdir()
        try:
            self._play(run, history)
            self.counts[run, "right"] += 1
        except Lost as error:
            self.counts[run, "lost"] += 1
            moments = " | ".join(
                ", ".join(f"{event} at {moment:.2f} s" for event, moment in plan) or "nothing" for plan in history
            )
            show(f"lost: round {number}, {run}: {moments}: {error}")
        self.counts[run, "rounds"] += 1
        self.ballast.unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def _learn(self, run: str) -> None:
        """Play a run to which nothing happens."""
        self.folder.mkdir()
        begin = time.monotonic()
        launch = Launch(run, self.inputs, self.folder).wait()
        if any(launch.statuses):
            raise SystemExit(f"{run} does not run: {launch.statuses}, {launch.printed[-2000:]}")
        self.seconds[run] = time.monotonic() - begin
        self.expected[run] = _result(run, self.folder)
        shutil.rmtree(self.folder)

    def _play(self, run: str, history: list[list[Planned]]) -> None:
        for attempt in range(HURT + 1):
            plan = self._plan(run) if attempt < HURT else []
            history.append(plan)
            launches = self._launch(run, plan)
            for launch in launches:
                self._check(run, launch, plan)
            self.ballast.unlink(missing_ok=True)
            if _is_done(run, launches):
                break
        else:
            raise Lost(f"it does not end: {launches[0].printed[-1500:]}")
        try:
            found, expected = _result(run, self.folder), self.expected[run]
        except (OSError, ValueError) as error:
            raise Lost(f"the end is not there: {error}") from error
        if different := sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name)):
            raise Lost(f"other {', '.join(different)}")

    def _plan(self, run: str) -> list[Planned]:
        """What happens in a launch: one to three events, in the order of their moments."""
        events = self.random.choices(self.events, k=self.random.choice((1, 1, 2, 3)))
        plan = [Planned(event, self.random.uniform(0, self.seconds[run])) for event in events]
        return sorted(plan, key=lambda planned: planned.moment)

    def _launch(self, run: str, plan: list[Planned]) -> list[Launch]:
        """Start a run, let happen what is planned, and wait until all that was started has ended."""
        launches, coming, begin = [Launch(run, self.inputs, self.folder)], [*plan], time.monotonic()
        while sum(not launch.poll() for launch in launches):
            if coming and time.monotonic() - begin >= coming[0].moment:
                self._happen(run, coming.pop(0).event, launches)
            time.sleep(0.01)
        if len(coming) == len(plan) and not any(
            launches[0].statuses
        ):  # nothing happened: the machine may be faster now
            self.seconds[run] = time.monotonic() - begin
        return launches

    def _happen(self, run: str, event: str, launches: list[Launch]) -> None:
        running = [pid for launch in launches for pid in launch.running]
        if not running:
            return
        self.counts[run, event] += 1
        if event == "start":
            launches.append(Launch(run, self.inputs, self.folder))
        elif event == "full disk":
            self._fill(self.random.randrange(2**18))
        else:
            os.kill(self.random.choice(running), getattr(signal, event))

    def _fill(self, left: int) -> None:
        """Fill the disk but for some bytes."""
        free = os.statvfs(self.disk).f_bavail * os.statvfs(self.disk).f_frsize
        try:
            with open(self.ballast, "ab") as file:
                os.posix_fallocate(file.fileno(), file.tell(), max(free - left, 1))
        except OSError:  # a run was faster: then it is full enough
            pass

    def _check(self, run: str, launch: Launch, plan: list[Planned]) -> None:
        """Raise `Lost` if what a run answers is neither its end, nor a signal's, nor one sentence."""
        happened = {planned.event for planned in plan}
        may_end = {0, *(-9 for _ in happened & {"SIGKILL"})}
        # Of two processes, the launcher ends the other one by SIGTERM.
        may_end |= {143} if "SIGTERM" in happened or len(launch.pids) > 1 else set()
        may_end |= {130} if "SIGINT" in happened else set()
        if "SIGTERM" in happened and not launch.printed:
            may_end |= {-15}  # it came before the program had begun, and ends it as it ends any program
        refused = 2 in launch.statuses
        if refused and is_one_sentence(launch.printed) and (happened & {"start", "full disk"} or _exists(run, launch)):
            self.counts[run, "sentences"] += 1
            may_end |= {2}
        if len(launch.pids) > 1:  # one cannot go on alone, and has nothing to add to what a signal has told the other
            if -9 in launch.statuses:
                return
            may_end |= {2} if {130, 143}.intersection(launch.statuses) else set()
        if "Traceback" in launch.printed or not may_end.issuperset(launch.statuses):
            raise Lost(f"status {launch.statuses}: {launch.printed[-2000:]}")


def _exists(run: str, launch: Launch) -> bool:
    """Whether a run says that an earlier one, which was killed after its last file, has made all references."""
    return run.startswith("references") and "exists; give another name" in launch.printed


def _is_done(run: str, launches: list[Launch]) -> bool:
    """Whether a launch has come to the end."""
    return any(not any(launch.statuses) or _exists(run, launch) for launch in launches)


def _result(run: str, folder: Path) -> dict[str, Any]:
    """The final state of a run. Parts of references may stay when they are joined, and files without a use."""
    if not run.startswith("references"):
        return final_state(run, folder)
    output = folder / "out" / "ref.txt"
    return {path.name: path.read_bytes() for path in (output, sidecar(str(output)))}


def table(counts: Counter[tuple[str, str]]) -> str:
    """A line for each run, and one for all."""
    lines = [f"{'run':<22}" + "".join(f"{name:>11}" for name in COLUMNS)]
    for run in [*RUNS, "all"]:
        sums = [sum(n for (of, what), n in counts.items() if run in (of, "all") and what == name) for name in COLUMNS]
        lines.append(f"{run:<22}" + "".join(f"{number:>11,}" for number in sums))
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Soak, print the table, and return 1 if something was lost."""
    parser = argparse.ArgumentParser(
        description="Train and make references under kills, concurrent starts, full disks."
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args(argv)
    print(f"seed {arguments.seed}, {arguments.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak") as name, contextlib.ExitStack() as mounts:
        reason = why_not(Path(name))
        if reason:
            print(f"no full disks, since this machine does not let a process mount ({reason})")
        else:
            leave_mounts()
            mounts.enter_context(small_disk(Path(name), ROOM))
        soak, end, number = Soak(arguments.seed, Path(name), not reason), time.monotonic() + arguments.minutes * 60, 0
        while time.monotonic() < end:
            soak.play(number, lambda line: print(line, flush=True))
            number += 1
            if number % (5 * len(RUNS)) == 0:
                print(f"{table(soak.counts)}\n", flush=True)
    print(table(soak.counts))
    return int(any(what == "lost" for _, what in soak.counts))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
