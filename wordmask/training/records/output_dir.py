"""The output directory: which run owns it, which checkpoint to continue from, and which old files to remove."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wordmask.config.arguments import Arguments
from wordmask.config.run_arguments import RunArguments
from wordmask.data.data_report import DATA_REPORT
from wordmask.training.records.file_names import CURVE, EVALUATIONS, REPORT, RUN, SPEED, STATE, is_ours
from wordmask.training.records.manifest import checkpoints_in, find_damage, remove_checkpoint
from wordmask.training.records.run_record import Identity, RunRecord, evaluates_a_training, read_run
from wordmask.utils.errors import InputError
from wordmask.utils.files import write_atomically
from wordmask.utils.lock import locked
from wordmask.utils.write_errors import why_not_written, write_reported

logger = logging.getLogger(__name__)

# The files that a run writes.
_RESULTS = (
    *("train_results.json", "eval_results.json", "all_results.json", STATE),
    *(EVALUATIONS, DATA_REPORT, SPEED, REPORT, CURVE),
)
_MODEL = (
    *("config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors"),
    *("model.safetensors.index.json", "training_args.bin", "README.md", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes"),
    *("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model"),
)
_WRITTEN = (
    "checkpoint-[0-9]*",
    *_RESULTS,
    "config.json",
    "*.safetensors",
    "tokenizer*",
    "vocab*",
    "training_args.bin",
    "README.md",
)
_LOGS = {"runs", "logs", "log", "wandb", "mlruns", "tensorboard", "trackio", "aim", "swanlog", "codecarbon"}


@contextlib.contextmanager
def claimed(arguments: Arguments) -> Iterator[None]:
    """Make the output directory, try whether it can be written, and keep other runs out of it.

    The first process does so for all. A dry run and a preview write nothing.

    Raises:
        InputError: if another run uses the directory, or nothing can be written there.
    """
    training = arguments.training
    directory = Path(training.output_dir)
    for ancestor in (directory, *directory.parents):
        if os.path.exists(ancestor) and not os.path.isdir(ancestor):
            raise InputError(f"--output_dir: {ancestor} is a file; give a directory")
    if training.dry_run or arguments.masking.preview_masking or training.process_index:
        yield
        return
    with locked(directory / ".wordmask", f"--output_dir: {directory}"):
        trial = directory / ".wordmask.trial"
        with write_reported(f"--output_dir: {directory}", "give another directory"):
            with write_atomically(trial, binary=True) as file:
                file.write(bytes(4096))
            trial.unlink()
        yield


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[None]:
    """Turn a full disk into one sentence.

    Args:
        path: what is written in --output_dir.

    Raises:
        InputError: if the disk is full, or takes no more for another reason.
    """
    try:
        yield
    except Exception as error:
        reason = why_not_written(error)
        if reason is None:
            raise
        named = getattr(error, "filename", None)  # of the cache, say, or of a directory for temporary files
        is_other = isinstance(named, str) and not Path(named).resolve().is_relative_to(Path(path).resolve())
        what = named if is_other else f"--output_dir: {path}"
        raise InputError(
            f"{what} cannot be written ({reason}); make room, and run again: earlier checkpoints, if there are any, "
            "are whole"
        ) from error


def check_checkpoint(named: str) -> None:
    """Raise an `InputError` if what --resume_from_checkpoint names is no checkpoint, or cannot be used."""
    if not os.path.isfile(os.path.join(named, STATE)):
        raise InputError(f"--resume_from_checkpoint: {named} is not a checkpoint; give a checkpoint-* directory")
    if os.path.exists(os.path.join(named, RUN)) or checkpoints_in(named):  # it holds no optimizer, or other weights
        raise InputError(f"--resume_from_checkpoint: {named} is the --output_dir of a run; give a checkpoint-* in it")
    if problem := find_damage(named):
        raise InputError(f"--resume_from_checkpoint: {named} cannot be used: {problem}; give another checkpoint")


def find_checkpoint(arguments: Arguments) -> str | None:
    """Check that a run may write to its output directory, and find the checkpoint to continue from.

    Raises:
        InputError: if the directory holds files of others, or a finished model without checkpoints.
    """
    training = arguments.training
    directory = training.output_dir
    requested, named = training.resume_from_checkpoint, _named_checkpoint(training)
    if named:
        check_checkpoint(named)
    entries = os.listdir(directory) if os.path.isdir(directory) else []
    files = sorted(name for name in entries if not _is_log(name))
    if files and RUN not in files:
        like_ours = _matching(directory, _WRITTEN)
        if like_ours or not training.overwrite_output_dir:
            raise InputError(
                f"--output_dir: {directory} holds {(like_ours or files)[0]} and no record of a run of this suite; "
                "give an empty or a new directory"
            )
    if training.overwrite_output_dir:
        return named
    checkpoint = last_checkpoint(directory)
    if named and checkpoint and not os.path.samefile(named, checkpoint):
        raise InputError(
            f"--resume_from_checkpoint: {named} is not the last checkpoint of the run in {directory}, which is "
            f"{checkpoint}; drop the flag, give another --output_dir, or --overwrite_output_dir to remove that run"
        )
    if str(requested).lower() == "true" and checkpoint is None:
        raise InputError(f"--resume_from_checkpoint: {directory} holds no checkpoint; give the path of one")
    trains = training.do_train or arguments.no_task_given
    if trains and checkpoint is None and _matching(directory, ["train_results.json"]):
        raise InputError(
            f"--output_dir: {directory} holds a finished run without checkpoints; give another directory, or "
            "--overwrite_output_dir to train it again"
        )
    return named or checkpoint


def _named_checkpoint(training: RunArguments) -> str | None:
    """The path in --resume_from_checkpoint, if it is not a truth value."""
    value = str(training.resume_from_checkpoint or "")
    return value if value.lower() not in ("", "true", "false") else None


def last_checkpoint(directory: str) -> str | None:
    """The newest whole checkpoint. What is wrong with newer ones is logged."""
    paths = [str(path) for path in checkpoints_in(directory)]
    for path in reversed(paths):
        problem = find_damage(path)
        if problem is None:
            return path
        logger.warning("%s is not used: %s", path, problem)
    if paths:
        logger.warning("%s holds no whole checkpoint to go on from", directory)
    return None


def _is_log(name: str) -> bool:
    return name.startswith(".") or name in _LOGS or name.endswith((".log", ".out", ".err"))


def _matching(directory: str, patterns: Any) -> list[str]:
    root = glob.escape(directory)
    return sorted(os.path.basename(path) for pattern in patterns for path in glob.glob(os.path.join(root, pattern)))


def check_owner(arguments: Arguments, identity: Identity, checkpoint: str | None) -> list[str]:
    """Check that the output directory and the checkpoint belong to this run.

    Args:
        arguments, identity: of this run.
        checkpoint: the checkpoint to continue from, if any.

    Returns:
        A line for each setting that changed since the checkpoint.

    Raises:
        InputError: if the base model, the tokenizer or the architecture is another one.
    """
    training, trains = arguments.training, arguments.training.do_train
    directory = training.output_dir
    if _named_checkpoint(training) and not trains:
        raise InputError("--resume_from_checkpoint is for training; to evaluate it, give it as --model_name_or_path")
    run = read_run(directory)
    replaced = run is not None and training.overwrite_output_dir and (trains or not run.trains)
    # An earlier run that failed at once left its record alone.
    if run and not replaced and _matching(directory, _WRITTEN):
        _check_same(run, f"--output_dir: {directory}", arguments, identity)
    origin = read_run(Path(checkpoint).parent) if checkpoint else None
    if origin is None:
        return []
    remedy = "give a checkpoint of this run, or the flags of that one"
    _check_same(origin, f"--resume_from_checkpoint: {checkpoint}", arguments, identity, remedy)
    return origin.changes(identity, arguments.given, training.world_size)


def _check_same(
    run: RunRecord,
    place: str,
    arguments: Arguments,
    identity: Identity,
    remedy: str = "give another --output_dir, or --overwrite_output_dir to start over",
) -> None:
    """Raise an `InputError` if a directory belongs to a run with another model or tokenizer."""
    model, directory = arguments.model.model_name_or_path, arguments.training.output_dir
    evaluates = run.trains and not arguments.training.do_train
    if evaluates and _lies_in(model, directory):
        return  # the model that the run trained, or one of its checkpoints
    differences = run.differences(identity, arguments.given)
    if differences:
        advice = (
            f"give another --output_dir, or --model_name_or_path {directory} to evaluate what was trained there"
            if evaluates
            else remedy
        )
        raise InputError(f"{place} belongs to a run with another {', '.join(differences)}; {advice}")
    if evaluates:
        logger.warning(
            "--do_eval evaluates %s as it is, and replaces eval_results.json; --model_name_or_path %s evaluates what "
            "was trained from it",
            model or "a model from scratch",
            directory,
        )


def evaluates_another(arguments: Arguments) -> bool:
    """Whether a run evaluates another model in a directory than the one that was trained there."""
    training = arguments.training
    return evaluates_a_training(training) and not _lies_in(arguments.model.model_name_or_path, training.output_dir)


def _lies_in(name: str | None, directory: str) -> bool:
    """Whether a model or a tokenizer lies in a directory, or in a checkpoint in it."""
    path = Path(name or "").resolve()
    return bool(name) and Path(directory).resolve() in (path, *path.parents)


def remove_older_run(arguments: Arguments, checkpoint: str | None = None) -> None:
    """Remove what an older run left in the output directory. Call it right before training, after all checks.

    With `--overwrite_output_dir`, these are the older run's checkpoints, model and results, but not what this run
    starts from. Without it, these are the results of an older evaluation, if this run trains.
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
        stale += [] if used else _MODEL
        for path in checkpoints_in(directory):
            if not (checkpoint and path.samefile(checkpoint)):
                remove_checkpoint(path)
    for path in (directory / name for name in _matching(training.output_dir, stale)):
        if path.is_file() and (path.name not in (REPORT, CURVE) or is_ours(path)):
            path.unlink()
