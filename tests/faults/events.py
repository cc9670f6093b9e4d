"""What may happen to a run, where in it, and how it is made to happen there, once."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.mounts import leave_mounts, make_read_only

# Where something can happen: before a call of one of these. The number of a place counts its calls in one process.
PLACES = {
    "beginning": "wordmask.training.trainer:MlmTrainer._prepare_for_training",
    "step": "wordmask.training.trainer:MlmTrainer.training_step",
    "update": "accelerate.optimizer:AcceleratedOptimizer.step",  # in mid-step: the gradients are there
    "weights": "wordmask.training.trainer:MlmTrainer.save_model",
    "state": "wordmask.training.trainer:MlmTrainer._save_optimizer_and_scheduler",
    "manifest": "wordmask.training.checkpoints:write_manifest",
    "rotation": "wordmask.training.checkpoints:_rotate",
    "evaluation": "wordmask.training.trainer:MlmTrainer.prediction_step",
    "part": "wordmask.utils.parts:write_atomically",
    "stamp": "wordmask.utils.parts:write_json",
    "ending": "wordmask.training.trainer:MlmTrainer._finalize_training",
    "results": "wordmask.training.trainer:MlmTrainer.save_metrics",
    "report": "wordmask.data.prepared_dir:write_json",
    "joining": "wordmask.references.writer:Output.join",
    "sidecar": "wordmask.references.writer:write_provenance",
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


def inject(event: str, place: str, number: int, record: Path) -> None:
    """Let an event happen in this process, unless it has happened in an earlier launch.

    Args:
        event: one of `EVENTS`.
        place: one of `PLACES`.
        number: before which call of that place, from 1.
        record: the file that gets a line when it happens, in the folder of the case.
    """
    if event == "read-only disk":
        leave_mounts()
    module_name, _, path = PLACES[place].partition(":")
    owner: Any = importlib.import_module(module_name)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original, calls = getattr(owner, name), [0]

    def replaced(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and not record.exists():
            with open(record, "a") as file:
                file.write(f"{event}\n")
            EVENTS[event](record.parent)
        return original(*args, **kwargs)

    setattr(owner, name, replaced)
