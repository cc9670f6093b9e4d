"""The start of a training script: help and mistakes first, since the other imports take seconds."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from wordmask.config.short_form import asked_format, check_files, choose_output_dir, is_short_form
from wordmask.training.interruption import resumable
from wordmask.utils.command_line import resume_command
from wordmask.utils.hub import check_model_exists
from wordmask.utils.library_warnings import filtered_warnings
from wordmask.utils.processes import is_first_process
from wordmask.utils.terminal import Command, Fact, terminal


def start(script: str, argv: Sequence[str] | None, **defaults: object) -> dict[str, float]:
    """Check the flags of this suite, and then run, see `wordmask.training.run.run`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    shown = terminal()
    shown.chosen = asked_format(argv)  # type: ignore[assignment]  # a `Mode`, if it is one
    with filtered_warnings(), contextlib.closing(shown):
        short = is_short_form(argv)
        if not (short or {"--help", "-h", "--help_all"} & {*argv}):
            shown.doing("importing torch and transformers")
        from wordmask.config.added_arguments import UsedArguments  # imports transformers
        from wordmask.config.own_flags import parse_own_flags

        own = parse_own_flags(argv, **defaults)
        _check_model(own, short)
        # Of several processes, the first one chooses; the others learn the name when they meet.
        chosen = choose_output_dir(own) if short and is_first_process() else None
        directory = Path(chosen or own.output_dir or UsedArguments.output_dir)
        if short and not (own.preview_masking or own.prepare_only or own.dry_run):
            _show_output(script, argv, own, chosen, directory)  # the first line, so that it is known whatever happens
        with resumable(script, argv, own, chosen, directory):
            if short:
                shown.doing("importing torch and transformers")
            from wordmask.training.run import run  # imports torch

            return run(script, argv, **defaults, **({"output_dir": chosen} if chosen else {}))


def _check_model(own: argparse.Namespace, short: bool) -> None:
    """Raise an `InputError` if a word of the short form is wrong, or if there is no such model."""
    if short:
        check_files(own.model_name_or_path, own.train_file, own.validation_file, bool(own.config_name))
    if own.model_name_or_path and (short or not constants.is_offline_mode()):  # offline, loading fails as fast
        flag = None if short else "--model_name_or_path"
        check_model_exists(own.model_name_or_path, flag, own.cache_dir, own.model_revision, own.token)


def _show_output(
    script: str, argv: Sequence[str], own: argparse.Namespace, chosen: str | None, directory: Path
) -> None:
    """Show where the output goes, and how to resume a training."""
    if own.do_eval and not own.do_train:
        terminal().show(Fact("output", str(directory)))
    else:
        terminal().show(Command(f"output: {directory}; to resume", resume_command(script, argv, chosen)))
