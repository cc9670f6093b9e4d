"""What a run says so that it can be resumed: its directory and a command, at the start and after Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import constants

from wordmask.config.short_form import check_files, is_short_form, new_output_dir
from wordmask.utils.command_line import resume_command
from wordmask.utils.hub import check_model_exists
from wordmask.utils.processes import is_first_process
from wordmask.utils.said_once import INTERRUPTED, leave_mark
from wordmask.utils.signals import exit_status
from wordmask.utils.terminal import Command, Fact, terminal


@contextlib.contextmanager
def resumable(script: str, argv: Sequence[str], own: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Choose the output directory of the short form, and say how to resume the run; after a signal, say it again.

    Of several processes, the first one chooses; the others learn the name when they meet. The directory is removed if
    the run writes nothing into it.

    Args:
        script, argv: the command line.
        own: the values of this suite's flags.

    Yields:
        The directory as a default of --output_dir, if one was chosen.

    Raises:
        InputError: if a word of the short form is wrong, or if there is no such model.
        SystemExit: after Ctrl-C or SIGTERM, with status 130 or 143.
    """
    names = not (own.preview_masking or own.prepare_only)
    writes = names and not own.dry_run
    chosen = None
    short = is_short_form(argv)
    if short:
        check_files(own.model_name_or_path, own.train_file, own.validation_file, bool(own.config_name))
    if own.model_name_or_path and (short or not constants.is_offline_mode()):  # offline, loading fails as fast
        flag = None if short else "--model_name_or_path"
        check_model_exists(own.model_name_or_path, flag, own.cache_dir, own.model_revision, own.token)
    if short and names and own.output_dir is None and is_first_process():
        [text, *_] = own.train_file or own.validation_file or [own.dataset_name or own.prepared_dir or "text"]
        names_repository = own.push_to_hub and not own.hub_model_id
        chosen = new_output_dir(own.model_name_or_path, text, make=writes, names_repository=names_repository)
    directory, started = Path(chosen or own.output_dir or "trainer_output"), time.time()
    command = resume_command(script, argv, chosen)
    if short and writes:
        only_evaluates = own.do_eval and not own.do_train
        how = Fact("output", str(directory)) if only_evaluates else Command(f"output: {directory}; to resume", command)
        terminal().show(how)
    try:
        yield {"output_dir": chosen} if chosen else {}
    except KeyboardInterrupt as error:
        leave_mark(INTERRUPTED)
        record = directory / "wordmask_run.json"
        if own.overwrite_output_dir and not (record.exists() and record.stat().st_mtime >= started):
            # The older run is still there.
            what, command = "start again", resume_command(script, argv, chosen, start_over=True)
        else:
            saved = writes and any(directory.glob("checkpoint-*/trainer_state.json"))
            what = "resume from the last checkpoint" if saved else "start again"
        terminal().show(Command(f"interrupted; to {what}", command))
        raise SystemExit(exit_status(error)) from None
    finally:
        for path in (chosen, os.path.dirname(chosen)) if chosen and writes else ():
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(path)
