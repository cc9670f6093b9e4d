"""Play the table of faults: each run is hurt once, and started once more. Then it must end as if nothing had happened.

python tests/faults/harness.py            # all of the table
python tests/faults/harness.py --sample   # what `make test` plays
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import torch  # noqa: E402

from faults.cases import SAMPLE, Case, table  # noqa: E402
from faults.events import STATUS  # noqa: E402
from faults.launching import Launch, is_one_sentence, make_inputs  # noqa: E402
from faults.mounts import why_not  # noqa: E402
from wordmask.training.records.manifest import MANIFEST, find_damage  # noqa: E402

TIMED = ("runtime", "per_second", "flos", "data_share")


class Outcome(NamedTuple):
    """What became of a case: `right`, `sentence` (it says what to do, and nothing is lost) or `lost`, and why."""

    result: str
    why: str = ""


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
    launch = Launch(case.run, inputs, folder, case).wait()
    statuses, printed, events = launch.statuses, launch.printed, folder / "events"
    status = statuses[case.rank]
    if not events.exists():
        return f"the event did not happen: {printed[-600:]}"
    if status != STATUS[case.event]:
        return f"status {statuses} after {case.event}: {printed[-600:]}"
    alone_or_tells = len(statuses) == 1 or case.event != "SIGKILL"  # else the other process cannot go on
    if "Traceback" in printed and alone_or_tells:
        return printed[-1200:]
    if status == 2 and not is_one_sentence(printed):
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
    launch = Launch(case.run, inputs, folder, case).wait()
    if any(launch.statuses) or "Traceback" in launch.printed:
        is_clear = case.damaged and is_one_sentence(launch.printed)
        return Outcome("sentence" if is_clear else "lost", f"{launch.statuses}: {launch.printed[-1200:]}")
    if len((folder / "events").read_text().splitlines()) != 1:
        return Outcome("lost", "the event did not happen once")
    try:
        found = final_state(case.run, folder)
    except (OSError, ValueError) as error:
        return Outcome("lost", f"the end is not there: {error}")
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
                launch = Launch(case.run, inputs, of_case).wait()
                if any(launch.statuses):
                    raise SystemExit(f"{case.run} does not run: {launch.statuses}, {launch.printed[-2000:]}")
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
