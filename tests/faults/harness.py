"""Play the table of faults: each run is hurt, and started again until all has happened to it that should.

Then it must end as if nothing had happened, and each event must have happened once.

    python tests/faults/harness.py                    # all of the table
    python tests/faults/harness.py packed SIGTERM     # the cases with these words
    python tests/faults/harness.py --sample           # what `make test` plays
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import torch  # noqa: E402

from faults.cases import SAMPLE, Case, table  # noqa: E402
from faults.events import STATUS, Event, happened  # noqa: E402
from faults.launching import Launch, is_one_sentence, make_inputs  # noqa: E402
from faults.mounts import why_not  # noqa: E402
from wordmask.training.records.file_names import MANIFEST  # noqa: E402
from wordmask.training.records.manifest import find_damage  # noqa: E402

R = TypeVar("R")
SEVERAL_EVENTS = "several"
TIMED = ("runtime", "per_second", "flos", "data_share")


class Outcome(NamedTuple):
    """What became of a case: `right`, `sentence` (it says what to do, and nothing is lost) or `lost`, and why."""

    result: str
    why: str = ""


class Lost(Exception):
    """A run did not end as it should, or an event cannot happen."""


def final_state(run: str, folder: Path) -> dict[str, Any]:
    """All that must be the same: files without times in them, and of the last checkpoint also optimizer and log."""
    out = folder / "out"
    if run.startswith("references"):
        return {path.name: path.read_bytes() for path in out.iterdir()}
    if run.startswith("prepared"):
        files = [path for path in (out / "tokens").iterdir() if path.name != "wordmask_prepared.json"]
        return {path.name: path.read_bytes() for path in files if not path.name.startswith(".")}
    last = max(out.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    names = [path.name for path in last.iterdir() if path.name.startswith(("model", "scheduler", "rng_state"))]
    files = {name: (last / name).read_bytes() for name in names} | {"": (out / "model.safetensors").read_bytes()}
    optimizer = torch.load(last / "optimizer.pt", weights_only=True)
    moments = {key: {name: value.tolist() for name, value in of.items()} for key, of in optimizer["state"].items()}
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    log = [{key: value for key, value in entry.items() if not key.endswith(TIMED)} for entry in history]
    return files | {"checkpoint": last.name, "optimizer": moments, "groups": optimizer["param_groups"], "log": log}


def cut(event: Event, folder: Path) -> None:
    """Cut the newest of the files that an event names.

    Raises:
        Lost: if there is none.
    """
    pattern = f"out/{event.damaged}".removeprefix("out/../")
    found = [path for path in folder.glob(pattern) if path.is_file()]
    if not found:
        raise Lost(f"there is no {event.damaged} to cut")
    path = max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))
    os.truncate(path, int(path.stat().st_size * event.share))


def damage_after(error: int, folder: Path) -> str:
    """What is wrong with a checkpoint that was whole before a run ended with this status; only after a mistake, since
    a kill may come while an old checkpoint is removed."""
    finished = [path.parent for path in folder.glob(f"out/checkpoint-*/{MANIFEST}")] if error == 2 else []
    damages = ((path.name, find_damage(path)) for path in finished)
    return ", ".join(f"{name}: {damage}" for name, damage in damages if damage)


def check_answer(launch: Launch, events: list[Event], folder: Path) -> None:
    """Check how a launch ended that was hurt.

    Args:
        launch: the launch.
        events: what happened to it.
        folder: of the case.

    Raises:
        Lost: if the status is another one, there is a traceback, or a checkpoint that was whole is not.
    """
    statuses, printed = launch.statuses, launch.printed
    killed = [event for event in events if event.name == "SIGKILL"]
    goes_on = len(statuses) == 1 or not killed  # one of two processes cannot go on alone, and tells it as it can
    decisive = events if goes_on else killed
    for event in decisive:
        status = statuses[event.rank]
        if status not in {STATUS[other.name] for other in decisive}:  # processes agree on one signal of several
            raise Lost(f"status {statuses} after {event}: {printed[-600:]}")
        if status == 2 and not is_one_sentence(printed):
            raise Lost(f"not one sentence: {printed[-600:]}")
        if damage := damage_after(status, folder):
            raise Lost(damage)
    if "Traceback" in printed and goes_on:
        raise Lost(printed[-1200:])


def keep(folder: Path, whole: Path) -> None:
    """Copy a folder, for this process and others, which may do the same."""
    copy = whole.with_name(f"{os.getpid()}")
    shutil.copytree(folder, copy)
    try:
        copy.rename(whole)
    except OSError:
        shutil.rmtree(copy)


def launch_until_all_happened(case: Case, inputs: Path, folder: Path, kept: Path) -> Launch:
    """Launch a run until nothing more happens to it; return the last launch.

    Args:
        case, inputs, folder: of the run.
        kept: where to keep what the first launch leaves: cases that differ in what is cut afterwards begin alike.

    Raises:
        Lost: if a launch does not end as it should.
    """
    record, whole = folder / "events", kept / str(case.without_damage)
    record.mkdir(parents=True)
    for attempt in range(len(case.events) + 1):
        before = happened(record)
        if case.events[0].damaged and not attempt and whole.exists():
            shutil.rmtree(folder)
            shutil.copytree(whole, folder)
        else:
            pending = {number: event for number, event in enumerate(case.events) if number not in before}
            launch = Launch(case.run, inputs, folder, pending).wait()
            new = [case.events[number] for number in happened(record) - before]
            if not new:
                break
            check_answer(launch, new, folder)
            if case.events[0].damaged and not attempt:
                keep(folder, whole)
        for number in happened(record) - before:
            if case.events[number].damaged:
                cut(case.events[number], folder)
    return launch


def play(case: Case, inputs: Path, folder: Path, kept: Path, expected: dict[str, Any]) -> Outcome:
    """Play a case in a folder that is made here."""
    try:
        launch = launch_until_all_happened(case, inputs, folder, kept)
    except Lost as error:
        return Outcome("lost", str(error))
    if any(launch.statuses) or "Traceback" in launch.printed:
        is_clear = any(event.damaged for event in case.events) and is_one_sentence(launch.printed)
        return Outcome("sentence" if is_clear else "lost", f"{launch.statuses}: {launch.printed[-1200:]}")
    times = [happened(folder / "events")[number] for number in range(len(case.events))]
    if times != [1] * len(times):
        return Outcome("lost", f"the events happened {times} times: {launch.printed[-600:]}")
    try:
        found = final_state(case.run, folder)
    except (OSError, ValueError) as error:
        return Outcome("lost", f"the end is not there: {error}")
    different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return Outcome("lost", f"other {', '.join(different)}") if different else Outcome("right")


def possible(cases: list[Case], folder: Path) -> list[Case]:
    """The cases that this machine can play. What it cannot is printed."""
    name = "read-only disk"
    others = [case for case in cases if all(event.name != name for event in case.events)]
    if len(others) == len(cases) or not (reason := why_not(folder)):
        return cases
    left_out = len(cases) - len(others)
    print(f"{name}: {left_out} cases are left out, since this machine does not let a process mount ({reason})")
    return others


class Player:
    """Plays cases, in the processes of a pool that are forked from this one.

    Args:
        folder: where to work.
    """

    def __init__(self, folder: Path):
        self.folder, self.inputs, self.kept = folder, folder / "inputs", folder / "kept"
        self.inputs.mkdir()
        self.kept.mkdir()
        make_inputs(self.inputs)

    def learn(self, run: str) -> tuple[str, dict[str, Any]]:
        """A run and its final state when nothing happens to it."""
        with self._folder() as folder:
            folder.mkdir()
            launch = Launch(run, self.inputs, folder).wait()
            if any(launch.statuses):
                raise RuntimeError(f"{run} does not run: {launch.statuses}, {launch.printed[-2000:]}")
            return run, final_state(run, folder)

    def play(self, case: Case, expected: dict[str, Any]) -> tuple[Case, Outcome]:
        """A case and what became of it; `expected` is the final state of its run."""
        with self._folder() as folder:
            return case, play(case, self.inputs, folder, self.kept, expected)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        folder = self.folder / f"case-{os.getpid()}"
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def in_parallel(function: Callable[..., R], arguments: Iterable[tuple[Any, ...]], jobs: int) -> Iterator[R]:
    """The results of a function in so many processes that are forked from this one, as they come."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        for future in as_completed([pool.submit(function, *each) for each in arguments]):
            yield future.result()


def show(results: Counter[tuple[str, str]]) -> str:
    """The table: for each event the cases in which nothing else happens, those with several events, and all."""
    lines = [f"{'event':<14} {'cases':>5} {'events':>6} {'right':>6} {'sentence':>9} {'lost':>5}"]
    for kind in [*STATUS, SEVERAL_EVENTS, "all"]:
        counts = [
            sum(n for (of, what), n in results.items() if kind in (of, "all") and what == result)
            for result in ("events", "right", "sentence", "lost")
        ]
        lines.append("{:<14} {:>5} {:>6} {:>6} {:>9} {:>5}".format(kind, sum(counts[1:]), *counts))
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Play the cases, print the table, and return 1 if something was lost."""
    parser = argparse.ArgumentParser(description="Hurt runs, and start them until they end.")
    parser.add_argument("words", nargs="*", help="play the cases whose names have all these words")
    parser.add_argument("--sample", action="store_true", help="play what make test plays")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many cases at once")
    arguments = parser.parse_args(argv)
    chosen = SAMPLE if arguments.sample else table()
    cases = [case for case in chosen if all(word in str(case) for word in arguments.words)]
    results: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        player = Player(Path(name))
        cases = possible(cases, Path(name))
        expected = dict(in_parallel(player.learn, {(case.run,) for case in cases}, arguments.jobs))
        calls = [(case, expected[case.run]) for case in cases]
        for case, outcome in in_parallel(player.play, calls, arguments.jobs):
            kind = case.events[0].name if len(case.events) == 1 else SEVERAL_EVENTS
            results[kind, outcome.result] += 1
            results[kind, "events"] += len(case.events)
            if outcome.result != "right":
                print(f"{outcome.result}: {case}: {outcome.why}", flush=True)
    print(show(results))
    return int(any(what == "lost" for _, what in results))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
