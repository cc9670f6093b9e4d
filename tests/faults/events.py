"""What may happen to a run, where in it, and how it is made to happen there, once."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import resource
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from faults.mounts import leave_mounts, make_read_only


class Event(NamedTuple):
    """What happens in which process, and when.

    Attributes:
        name: one of `EVENTS`.
        place: one of `PLACES`.
        step: the optimizer step, counted from 1, over all launches; in a place that is a file, the number in its name.
        call: which call of the place in that step, from 1; a micro-batch, or a batch of an evaluation.
        rank: the process.
        damaged: a file that is cut off afterwards, as a pattern below `out`; of several, the newest.
        share: how much of it is left, from 0 to 1.
    """

    name: str
    place: str
    step: int = 0
    call: int = 1
    rank: int = 0
    damaged: str = ""
    share: float = 0.0

    def __str__(self) -> str:
        call = f", call {self.call}" if self.call > 1 else ""
        rank = f", rank {self.rank}" if self.rank else ""
        damage = f", then {self.damaged} cut to {self.share:.0%}" if self.damaged else ""
        return f"{self.name} in {self.place} {self.step}{call}{rank}{damage}"


class Place(NamedTuple):
    """Before a call of a function.

    Attributes:
        function: its module and name.
        step: gives the step of a call from its arguments.
    """

    function: str
    step: Callable[..., int]


def _step(trainer: Any, *_: object) -> int:
    """The step that is done, or that an evaluation or a checkpoint comes after."""
    return trainer.state.global_step


def _next_step(trainer: Any, *_: object) -> int:
    return trainer.state.global_step + 1


def _number(path: Path, *_: object) -> int:
    """The first number in a name: that of a part, from 0, or of a checkpoint; -1 if there is none."""
    found = re.search(r"\d+", path.name)
    return int(found[0]) if found else -1


def _once(*_: object) -> int:
    return 0


PLACES = {
    "beginning": Place("wordmask.training.trainer.mlm_trainer:MlmTrainer._prepare_for_training", _once),
    "step": Place("wordmask.training.trainer.mlm_trainer:MlmTrainer.training_step", _next_step),
    "update": Place(  # in mid-step: the gradients are there
        "transformers.trainer_callback:CallbackHandler.on_pre_optimizer_step",
        lambda handler, arguments, state, *_: state.global_step + 1,
    ),
    "weights": Place("wordmask.training.trainer.mlm_trainer:MlmTrainer.save_model", _step),
    "state": Place("wordmask.training.trainer.mlm_trainer:MlmTrainer._save_optimizer_and_scheduler", _step),
    "manifest": Place("wordmask.training.trainer.checkpoints:write_manifest", _number),
    "rotation": Place("wordmask.training.trainer.checkpoints:_rotate", lambda checkpoints, limit, step, *_: step),
    "evaluation": Place("wordmask.training.trainer.mlm_trainer:MlmTrainer.prediction_step", _step),
    "part": Place("wordmask.utils.parts:write_atomically", _number),
    "stamp": Place("wordmask.utils.parts:write_json", _number),
    "ending": Place("wordmask.training.trainer.mlm_trainer:MlmTrainer._finalize_training", _once),
    "results": Place("wordmask.training.trainer.mlm_trainer:MlmTrainer.save_metrics", _once),
    "report": Place("wordmask.data.prepared_dir:write_json", _once),
    "joining": Place("wordmask.references.output:Output.join", _once),
    "sidecar": Place("wordmask.references.writer:write_provenance", _once),
}


def _fill_disk(folder: Path) -> None:
    """Let no file have a byte more. Not by permissions, which root need not respect."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _kill_worker(folder: Path) -> None:
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def _send(number: int) -> Callable[[Path], None]:
    return lambda folder: os.kill(os.getpid(), number)


# Each takes the folder of the case, in which `out` is what the run writes to.
EVENTS: dict[str, Callable[[Path], None]] = {
    "SIGKILL": _send(signal.SIGKILL),
    "SIGTERM": _send(signal.SIGTERM),
    "SIGINT": _send(signal.SIGINT),
    "full disk": _fill_disk,
    "read-only disk": lambda folder: make_read_only(folder / "out"),
    "dead worker": _kill_worker,
}
# What a process ends with after an event; 2 comes with a sentence.
STATUS = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130, "full disk": 2, "read-only disk": 2, "dead worker": 2}


def inject(events: Mapping[int, Event], record: Path) -> None:
    """Let events happen in this process, each once.

    Args:
        events: those that have not happened in an earlier launch, by their numbers.
        record: the folder that gets a file for each when it happens, in the folder of the case. The files are empty:
            a full disk takes them.
    """
    if any(event.name == "read-only disk" for event in events.values()):
        leave_mounts()
    pending, calls = dict(events), Counter[tuple[str, int]]()

    def reach(name: str, step: int) -> None:
        calls[name, step] += 1
        here = (name, step, calls[name, step])
        number = next((n for n, event in pending.items() if (event.place, event.step, event.call) == here), None)
        if number is not None:
            event = pending.pop(number)
            (record / f"{number}-{uuid.uuid4().hex}").touch()
            EVENTS[event.name](record.parent)

    for name in {event.place for event in events.values()}:
        _call_before(PLACES[name], partial(reach, name))


def happened(record: Path) -> Counter[int]:
    """How often each event has happened, by its number."""
    return Counter(int(path.name.split("-")[0]) for path in record.iterdir())


def _call_before(place: Place, reach: Callable[[int], None]) -> None:
    """Call something with the step before each call of a place."""
    module_name, _, path = place.function.partition(":")
    owner: Any = importlib.import_module(module_name)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original = getattr(owner, name)

    def replaced(*args: Any, **kwargs: Any) -> Any:
        reach(place.step(*args))
        return original(*args, **kwargs)

    setattr(owner, name, replaced)
