"""The output directory: whose it is, where a run goes on, and what a run leaves there."""

from __future__ import annotations

import glob
import json
import logging
import math
import os
import platform
import shutil
from collections.abc import Mapping
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import wordmask
from wordmask.config.arguments import RunArguments
from wordmask.utils.errors import InputError
from wordmask.utils.files import write_atomically

logger = logging.getLogger(__name__)

RECORD = "wordmask_run.json"
SECRET = ("token", "hub_token")
# What a new run must not find, and what else a run writes.
_STALE = ("checkpoint-[0-9]*", "train_results.json", "eval_results.json", "all_results.json", "trainer_state.json")
_WRITTEN = (*_STALE, "config.json", "*.safetensors", "tokenizer*", "vocab*", "training_args.bin", "README.md")
_LOGS = {"runs", "logs", "log", "wandb", "mlruns", "tensorboard", "trackio", "aim", "swanlog", "codecarbon"}


def find_checkpoint(training: RunArguments) -> str | None:
    """Check that a run may write to its output directory, and find the checkpoint that it goes on from.

    Raises:
        InputError: where the directory holds what this suite did not write, or a finished model without checkpoints.
    """
    directory = training.output_dir
    for ancestor in (Path(directory), *Path(directory).parents):
        if ancestor.exists() and not ancestor.is_dir():
            raise InputError(f"--output_dir: {ancestor} is a file; give a directory")
    asked = training.resume_from_checkpoint
    if asked and str(asked).lower() not in ("true", "false"):
        if not os.path.isfile(os.path.join(asked, "trainer_state.json")):
            raise InputError(f"--resume_from_checkpoint: {asked} is not a checkpoint; give a checkpoint-* directory")
        return asked

    found = [name for name in _entries(directory) if not _is_log(name)]
    if found and RECORD not in found:
        ours = _matching(directory, _WRITTEN)
        if ours or not training.overwrite_output_dir:
            raise InputError(
                f"--output_dir: {directory} holds {(ours or sorted(found))[0]} and no record of a run of this suite; "
                "give an empty or a new directory"
            )
    if training.overwrite_output_dir:
        return None
    checkpoint = _last_checkpoint(directory)
    if asked and str(asked).lower() == "true" and checkpoint is None:
        raise InputError(f"--resume_from_checkpoint: {directory} holds no checkpoint; give the path of one")
    trains = training.do_train or training.neither
    if trains and checkpoint is None and _matching(directory, ["train_results.json"]):
        raise InputError(
            f"--output_dir: {directory} holds a finished run without checkpoints; give another directory, or "
            "--overwrite_output_dir to train it again"
        )
    return checkpoint


def _last_checkpoint(directory: str) -> str | None:
    """The newest checkpoint that is whole: the Trainer writes trainer_state.json last."""
    steps = [name.removeprefix("checkpoint-") for name in _matching(directory, ["checkpoint-[0-9]*"])]
    for step in sorted(map(int, filter(str.isdigit, steps)), reverse=True):
        path = os.path.join(directory, f"checkpoint-{step}")
        if os.path.isfile(os.path.join(path, "trainer_state.json")):
            return path
        logger.warning("%s is not whole, as if a run had been stopped while it wrote it, and is passed over", path)
    return None


def _entries(directory: str) -> list[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []


def _is_log(name: str) -> bool:
    return name.startswith(".") or name in _LOGS or name.endswith((".log", ".out", ".err"))


def _matching(directory: str, patterns: Any) -> list[str]:
    root = glob.escape(directory)
    return sorted(os.path.basename(path) for pattern in patterns for path in glob.glob(os.path.join(root, pattern)))


def claim(training: RunArguments) -> None:
    """Make the output directory this suite's, right before training: nothing is lost to a mistake found earlier.

    With `--overwrite_output_dir`, an older run's checkpoints and results are removed, and nothing else.
    """
    directory = Path(training.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    if training.do_train and training.overwrite_output_dir and (directory / RECORD).exists():
        for name in _matching(training.output_dir, _STALE):
            path = directory / name
            if path.is_dir() and name.removeprefix("checkpoint-").isdigit():
                shutil.rmtree(path)
            elif path.is_file() and name.endswith(".json"):
                path.unlink()


def write_record(script: str, given: Mapping[str, Any], training: RunArguments) -> None:
    """Write down what a run was started with; the file can be given to the script again as its argument file.

    An evaluation leaves the record of a training alone.
    """
    path = Path(training.output_dir) / RECORD
    if path.exists() and not training.do_train:
        return
    packages = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "evaluate")
    record = {
        "script": script,
        "versions": {"wordmask": wordmask.__version__, "python": platform.python_version()}
        | {name: version(name) for name in packages},
        "processes": training.world_size,
        "arguments": {name: _plain(value) for name, value in sorted(given.items()) if name not in SECRET},
    }
    with write_atomically(path) as file:
        json.dump(record, file, ensure_ascii=False, indent=2)
        file.write("\n")


# What decides which rows a step has, and how they are masked.
_ORDER = (
    *("train_file", "dataset_name", "max_train_samples", "line_by_line", "long_lines", "max_seq_length"),
    *("length_schedule", "pack_sequences", "train_sampling_strategy", "max_steps", "num_train_epochs"),
    *("seed", "data_seed", "masking_strategy", "mlm_probability"),
)
_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")


def warn_of_changes(given: Mapping[str, Any], training: RunArguments) -> None:
    """Warn where a run goes on with other rows or masks than those that it began with."""
    path = Path(training.output_dir) / RECORD
    if not path.exists():
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    before = record["arguments"] | {"processes": record.get("processes", 1)}
    now = {name: _plain(value) for name, value in given.items()} | {"processes": training.world_size}
    different = [f"--{name}" for name in _ORDER if before.get(name) != now.get(name)]
    # A stream is divided over processes and their workers, a text that is known beforehand step by step.
    if now.get("streaming"):
        names = (*_STEP, "dataloader_num_workers")
        different += ["division of the stream"] * any(before.get(name) != now.get(name) for name in names)
    else:
        step, other = (math.prod(run[name] for name in _STEP) for run in (before, now))
        different += ["number of rows in a step"] * (step != other)
    if different:
        logger.warning(
            "this run began with another %s; what it has seen is not what it would have seen", ", ".join(different)
        )


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
