"""The start of a training script: help and mistakes first, since the other imports take seconds."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from wordmask.config.own_flags import check_own_flags
from wordmask.config.short_form import check_files, is_short_form, new_output_dir
from wordmask.utils.command_line import is_first_process, resume_command


def start(script: str, argv: Sequence[str] | None, **defaults: object) -> dict[str, float]:
    """Check the flags of this suite, and then run, see `wordmask.training.run.run`.

    In the short form, the first process chooses the output directory; the others learn its name when they meet.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    own = check_own_flags(argv, **defaults)
    directory, chosen = own.output_dir or "trainer_output", None
    writes = not (own.preview_masking or own.prepare_only)
    if is_short_form(argv):
        check_files(own.model_name_or_path, own.train_file, own.validation_file)
        if writes and own.output_dir is None and is_first_process():
            defaults["output_dir"] = directory = chosen = new_output_dir(own.model_name_or_path, own.train_file)
        if writes:
            _say(f"output: {directory}; to resume: {resume_command(script, argv, chosen)}")
    with _interruptible(script, argv, directory if writes else None, chosen), _removed_if_empty(chosen):
        from wordmask.training.run import run  # imports torch

        return run(script, argv, **defaults)


def _say(sentence: str) -> None:
    """Print a sentence, in the first process only."""
    if is_first_process():
        print(sentence, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _interruptible(script: str, argv: Sequence[str], directory: str | None, chosen: str | None) -> Iterator[None]:
    """After Ctrl-C, say how to go on, and exit with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        saved = directory and any(Path(directory).glob("checkpoint-*/trainer_state.json"))
        what = "resume from the last checkpoint" if saved else "start again"
        _say(f"\ninterrupted; to {what}: {resume_command(script, argv, chosen)}")
        raise SystemExit(130) from None


@contextlib.contextmanager
def _removed_if_empty(directory: str | None) -> Iterator[None]:
    """Remove a directory that was made for this run, if the run writes nothing into it."""
    try:
        yield
    finally:
        for path in (directory, os.path.dirname(directory)) if directory else ():
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(path)
