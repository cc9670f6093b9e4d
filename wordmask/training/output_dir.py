"""The output directory: whose it is, where a run goes on, and what a run leaves there."""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from wordmask.config.arguments import Arguments, RunArguments
from wordmask.training.run_record import RECORD, Identity, Run, read_run
from wordmask.utils.errors import InputError

logger = logging.getLogger(__name__)

# What a new run must not find, and what else a run writes.
_RESULTS = ("train_results.json", "eval_results.json", "all_results.json", "trainer_state.json")
_CHECKPOINTS = "checkpoint-[0-9]*"
_MODEL = (
    *("config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors"),
    *("model.safetensors.index.json", "training_args.bin", "README.md", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt"),
)
_WRITTEN = (
    _CHECKPOINTS,
    *_RESULTS,
    "config.json",
    "*.safetensors",
    "tokenizer*",
    "vocab*",
    "training_args.bin",
    "README.md",
)
_LOGS = {"runs", "logs", "log", "wandb", "mlruns", "tensorboard", "trackio", "aim", "swanlog", "codecarbon"}


def find_checkpoint(arguments: Arguments) -> str | None:
    """Check that a run may write to its output directory, and find the checkpoint that it goes on from.

    Raises:
        InputError: where the directory holds what this suite did not write, or a finished model without checkpoints.
    """
    training = arguments.training
    directory = training.output_dir
    for ancestor in (Path(directory), *Path(directory).parents):
        if ancestor.exists() and not ancestor.is_dir():
            raise InputError(f"--output_dir: {ancestor} is a file; give a directory")
    asked, named = training.resume_from_checkpoint, _named_checkpoint(training)
    if named and not os.path.isfile(os.path.join(named, "trainer_state.json")):
        raise InputError(f"--resume_from_checkpoint: {named} is not a checkpoint; give a checkpoint-* directory")
    found = [name for name in _entries(directory) if not _is_log(name)]
    if found and RECORD not in found:
        ours = _matching(directory, _WRITTEN)
        if ours or not training.overwrite_output_dir:
            raise InputError(
                f"--output_dir: {directory} holds {(ours or sorted(found))[0]} and no record of a run of this suite; "
                "give an empty or a new directory"
            )
    if training.overwrite_output_dir:
        return named
    checkpoint = _last_checkpoint(directory)
    if named and checkpoint and not os.path.samefile(named, checkpoint):
        raise InputError(
            f"--resume_from_checkpoint: {named} is not where the run in {directory} goes on, which holds "
            f"{checkpoint}; drop the flag, give another --output_dir, or --overwrite_output_dir to remove that"
        )
    if asked and str(asked).lower() == "true" and checkpoint is None:
        raise InputError(f"--resume_from_checkpoint: {directory} holds no checkpoint; give the path of one")
    trains = training.do_train or arguments.task_is_open
    if trains and checkpoint is None and _matching(directory, ["train_results.json"]):
        raise InputError(
            f"--output_dir: {directory} holds a finished run without checkpoints; give another directory, or "
            "--overwrite_output_dir to train it again"
        )
    return named or checkpoint


def _named_checkpoint(training: RunArguments) -> str | None:
    """The checkpoint that --resume_from_checkpoint names; without a path it means the last one."""
    asked = training.resume_from_checkpoint
    return str(asked) if asked and str(asked).lower() not in ("true", "false") else None


def _last_checkpoint(directory: str) -> str | None:
    """The newest checkpoint that is whole: the Trainer writes trainer_state.json last, and not at once."""
    steps = [name.removeprefix("checkpoint-") for name in _matching(directory, [_CHECKPOINTS])]
    for step in sorted(map(int, filter(str.isdigit, steps)), reverse=True):
        path = os.path.join(directory, f"checkpoint-{step}")
        with contextlib.suppress(OSError, ValueError):
            json.loads(Path(path, "trainer_state.json").read_text(encoding="utf-8"))
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


def check_owner(arguments: Arguments, identity: Identity, checkpoint: str | None) -> list[str]:
    """Check that the output directory, and the checkpoint, are those of this run and of no other.

    Args:
        arguments, identity: this run's.
        checkpoint: where it goes on.

    Returns:
        A line for each setting in which the run that goes on differs from what it was.

    Raises:
        InputError: where base model, tokenizer or architecture are others.
    """
    training, trains = arguments.training, arguments.training.do_train
    directory = training.output_dir
    if _named_checkpoint(training) and not trains:
        raise InputError("--resume_from_checkpoint is for training; to evaluate it, give it as --model_name_or_path")
    run = read_run(directory)
    replaced = run is not None and training.overwrite_output_dir and (trains or not run.trains)
    # Of an earlier try that came to nothing, there is the record alone.
    if run and not replaced and _matching(directory, _WRITTEN):
        _check_same(run, f"--output_dir: {directory}", arguments, identity)
    origin = read_run(Path(checkpoint).parent) if checkpoint else None
    if origin is None:
        return []
    _check_same(origin, f"--resume_from_checkpoint: {checkpoint}", arguments, identity)
    return origin.changes(identity, arguments.given, training.world_size)


def _check_same(run: Run, place: str, arguments: Arguments, identity: Identity) -> None:
    """Raise an `InputError` where a place belongs to a run with another model or tokenizer."""
    model, directory = arguments.model.model_name_or_path, arguments.training.output_dir
    evaluates = run.trains and not arguments.training.do_train
    if evaluates and _lies_in(model, directory):
        return  # what the run has made, or one of its checkpoints
    others = run.others(identity, arguments.given)
    if others:
        way_out = (
            f"give another --output_dir, or --model_name_or_path {directory} to evaluate what was trained there"
            if evaluates
            else "give another --output_dir, or --overwrite_output_dir to start over"
        )
        raise InputError(f"{place} belongs to a run with another {', '.join(others)}; {way_out}")
    if evaluates:
        logger.warning(
            "--do_eval evaluates %s as it is; --model_name_or_path %s evaluates what was trained from it",
            *(model or "a model from scratch", directory),
        )


def evaluates_another(arguments: Arguments) -> bool:
    """Whether a run evaluates, in the directory of a training, another model than what was trained there."""
    directory = arguments.training.output_dir
    run = read_run(directory)
    trained = run is not None and run.trains and not arguments.training.do_train
    return trained and not _lies_in(arguments.model.model_name_or_path, directory)


def _lies_in(name: str | None, directory: str) -> bool:
    """Whether a model or a tokenizer is that of a directory, or of a checkpoint in it."""
    path, own = Path(name or "").resolve(), Path(directory).resolve()
    return bool(name) and own in (path, *path.parents)


def claim(arguments: Arguments, checkpoint: str | None = None) -> None:
    """Make the output directory this suite's, right before training: nothing is lost to a mistake found earlier.

    With `--overwrite_output_dir`, an older run's checkpoints, model and results are removed, but for what this one
    begins with, and nothing else. The results of an evaluation give way to those of a training.
    """
    training, model = arguments.training, arguments.model
    directory = Path(training.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    run = read_run(directory)
    if run is None or not (training.do_train or training.overwrite_output_dir and not run.trains):
        return
    stale = [*_RESULTS] if training.overwrite_output_dir or not run.trains else []
    if training.overwrite_output_dir:
        sources = (model.model_name_or_path, model.config_name, model.tokenizer_name)
        used = any(_lies_in(name, training.output_dir) for name in sources)
        stale += [_CHECKPOINTS, *([] if used else _MODEL)]
    for name in _matching(training.output_dir, stale):
        path = directory / name
        if path.is_file() and name.removeprefix("checkpoint-") == name:
            path.unlink()
        elif name.removeprefix("checkpoint-").isdigit() and not (checkpoint and os.path.samefile(path, checkpoint)):
            shutil.rmtree(path)
