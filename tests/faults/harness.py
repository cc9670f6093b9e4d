"""Play the table of faults: each run is hurt once, started again until it ends, and must end as if nothing happened.

    python tests/faults/harness.py            # all of the table
    python tests/faults/harness.py --sample   # what `make test` plays

This process imports everything once, and forks for each launch. It computes nothing itself, so that it has no threads
when it forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import torch  # noqa: E402

import wordmask.__main__ as command  # noqa: E402
import wordmask.references.writer  # noqa: E402, F401
import wordmask.training.run  # noqa: E402, F401
from conftest import character_tokenizer, free_port, sample_lines, save_model  # noqa: E402
from faults.cases import RUNS, SAMPLE, Case, table  # noqa: E402
from faults.events import STATUS, inject  # noqa: E402
from faults.read_only import why_not  # noqa: E402
from wordmask.training.records.manifest import MANIFEST, find_damage  # noqa: E402

LAUNCHES, PATIENCE = 4, 60.0  # starts of a run; seconds for each
TIMED = ("runtime", "per_second", "flos", "data_share")


class Outcome(NamedTuple):
    """What became of a case: `right`, `sentence` (it says what to do, and nothing is lost) or `lost`, and why."""

    result: str
    why: str = ""


def make_inputs(folder: Path) -> None:
    """A tiny model, a text of sixteen lines for training, and one of eight."""
    lines = [line[:40] for line in sample_lines("chinese", 24)]
    save_model(folder / "model", character_tokenizer(lines))
    (folder / "text.txt").write_text("\n".join(lines[:16]) + "\n", encoding="utf-8")
    (folder / "dev.txt").write_text("\n".join(lines[16:]) + "\n", encoding="utf-8")


def _in_child(argv: list[str], printed: int, rank: int, port: str, case: Case | None, record: Path) -> None:
    """The body of a forked process: it leaves with the status that a script would have."""
    os.dup2(printed, 1)  # a pipe: a file would be full, too
    os.dup2(printed, 2)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    if port:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if case is not None and case.rank == rank:
        inject(case.event, case.place, case.number, record)
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


def launch(run: str, inputs: Path, folder: Path, resume: bool, case: Case | None) -> tuple[list[int], str]:
    """Start a run, and return the status of each of its processes and what they printed.

    When one of two processes has failed, the other one is ended, as torchrun does.
    """
    record = folder / "events"
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    words = shlex.split(RUNS[run].format(inputs=inputs, out=folder / "out")) + ["--resume"] * (
        resume and run.startswith("references") and (folder / "out" / "ref.txt.parts").exists()
    )
    ranks = 2 if run == "two processes" else 1
    port = free_port() if ranks == 2 else ""
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if not pid:
            _in_child(words, writer, rank, port, case, record)
        pids.append(pid)
    os.close(writer)
    try:
        return _wait(pids, reader)
    finally:
        os.close(reader)


def _wait(pids: list[int], reader: int) -> tuple[list[int], str]:
    """The status of each process, negative after a signal, -9 for one that hung; and what they print into a pipe."""
    statuses: dict[int, int] = {}
    printed = b""
    limit, ended = time.monotonic() + PATIENCE, False
    while len(statuses) < len(pids):
        for pid in pids:
            if pid not in statuses and (done := os.waitpid(pid, os.WNOHANG))[0]:
                statuses[pid] = os.waitstatus_to_exitcode(done[1])
        left = [pid for pid in pids if pid not in statuses]
        late = time.monotonic() > limit
        if left and (late or any(statuses.values()) and not ended):
            ended, limit = True, time.monotonic() + (5 if late else 15)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.01)
        with contextlib.suppress(BlockingIOError):
            while block := os.read(reader, 2**16):
                printed += block
    return [statuses[pid] for pid in pids], printed.decode(errors="replace")


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


def cut(case: Case, folder: Path) -> bool:
    """Cut the newest of the files that a case names; whether there is one."""
    pattern = case.damaged if case.damaged.startswith(("out/", "../")) else f"out/{case.damaged}"
    found = [path for path in folder.glob(pattern.removeprefix("../")) if path.is_file()]
    if not found:
        return False
    path = max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))
    os.truncate(path, int(path.stat().st_size * case.share))
    return True


def damage_after(error: int, folder: Path) -> str:
    """What is wrong with a checkpoint that was whole before a run ended with this status; only after a mistake, since
    a kill may come while an old checkpoint is removed."""
    finished = [path.parent for path in folder.glob(f"out/checkpoint-*/{MANIFEST}")] if error == 2 else []
    damages = ((path.name, find_damage(path, may_lack_manifest=False)) for path in finished)
    return ", ".join(f"{name}: {damage}" for name, damage in damages if damage)


def hurt(case: Case, inputs: Path, folder: Path, kept: Path) -> str:
    """Launch a run that is hurt, in a folder that is made here; return what is wrong with its answer.

    Args:
        case, inputs, folder: of the run.
        kept: where to keep what such a run leaves, since cases that differ in what is cut afterwards begin alike.
    """
    whole = kept / str(case._replace(damaged="", share=0.0))
    if case.damaged and whole.exists():
        shutil.copytree(whole, folder)
        return ""
    folder.mkdir()
    statuses, printed = launch(case.run, inputs, folder, False, case)
    status, events = statuses[case.rank], folder / "events"
    if not events.exists():
        return f"the event did not happen: {printed[-600:]}"
    if status != STATUS[case.event]:
        return f"status {statuses} after {case.event}: {printed[-600:]}"
    alone_or_tells = len(statuses) == 1 or case.event != "SIGKILL"  # else the other process cannot go on
    if "Traceback" in printed and alone_or_tells:
        return printed[-1200:]
    if status == 2 and sum(line.startswith("error: ") for line in printed.splitlines()) != 1:
        return f"not one sentence: {printed[-600:]}"
    if case.damaged:
        shutil.copytree(folder, whole)
    return damage_after(status, folder)


def play(case: Case, inputs: Path, folder: Path, kept: Path, expected: dict[str, Any]) -> Outcome:
    """Play a case in a folder that is made here."""
    if problem := hurt(case, inputs, folder, kept):
        return Outcome("lost", problem)
    if case.damaged and not cut(case, folder):
        return Outcome("lost", f"there is no {case.damaged} to cut")
    for _ in range(LAUNCHES - 1):
        statuses, printed = launch(case.run, inputs, folder, True, case)
        if "Traceback" in printed:
            return Outcome("lost", printed[-1200:])
        if not any(statuses):
            break
        last = printed.strip().splitlines()[-1] if printed.strip() else ""
        is_clear = last.startswith("error: ") and case.damaged
        return Outcome("sentence" if is_clear else "lost", last or f"status {statuses}")
    if len((folder / "events").read_text().splitlines()) != 1:
        return Outcome("lost", "the event did not happen once")
    found = final_state(case.run, folder)
    different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return Outcome("lost", f"other {', '.join(different)}") if different else Outcome("right")


def possible(cases: list[Case], folder: Path) -> list[Case]:
    """The cases that this machine can play. What it cannot is printed."""
    mounts = "read-only disk"
    count = sum(case.event == mounts for case in cases)
    if not count or not (reason := why_not(folder)):
        return cases
    print(f"{mounts}: {count} cases are left out, since this machine does not let a process mount ({reason})")
    return [case for case in cases if case.event != mounts]


def main(argv: list[str]) -> int:
    """Play the cases, print the table, and return 1 if something was lost."""
    words = [word for word in argv if not word.startswith("--")]
    cases = [*SAMPLE] if "--sample" in argv else [case for case in table() if all(word in str(case) for word in words)]
    results: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        inputs, of_case, kept = Path(name, "inputs"), Path(name, "case"), Path(name, "kept")
        inputs.mkdir()
        make_inputs(inputs)
        expected: dict[str, Any] = {}
        for case in possible(cases, inputs):
            if case.run not in expected:
                of_case.mkdir()
                statuses, printed = launch(case.run, inputs, of_case, False, None)
                if any(statuses):
                    raise SystemExit(f"{case.run} does not run: {printed[-2000:]}")
                expected[case.run] = final_state(case.run, of_case)
                shutil.rmtree(of_case)
            outcome = play(case, inputs, of_case, kept, expected[case.run])
            shutil.rmtree(of_case, ignore_errors=True)
            results[case.event, outcome.result] += 1
            if outcome.result != "right":
                print(f"{outcome.result}: {case}: {outcome.why}", flush=True)
    print(f"{'event':<14} {'cases':>5} {'right':>6} {'sentence':>9} {'lost':>5}")
    for event in [*STATUS, "all"]:
        counts = [
            sum(n for (of, what), n in results.items() if event in (of, "all") and what == result)
            for result in ("right", "sentence", "lost")
        ]
        print(f"{event:<14} {sum(counts):>5} {counts[0]:>6} {counts[1]:>9} {counts[2]:>5}")
    return int(any(what == "lost" for _, what in results))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
