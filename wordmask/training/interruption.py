"""What a run says so that it can be resumed: its directory and a command, at the start and after Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from wordmask.config.short_form import check_files, is_short_form, new_output_dir
from wordmask.utils.command_line import is_first_process, resume_command


@contextlib.contextmanager
def resumable(script: str, argv: Sequence[str], own: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Choose the output directory of the short form, and say how to resume the run; after Ctrl-C, say it again.

    Of several processes, the first one chooses; the others learn the name when they meet. The directory is removed if
    the run writes nothing into it.

    Args:
        script, argv: the command line.
        own: the values of this suite's flags.

    Yields:
        The directory as a default of --output_dir, if one was chosen.

    Raises:
        InputError: if a word of the short form is wrong.
        SystemExit: after Ctrl-C, with status 130.
    """
    writes = not (own.preview_masking or own.prepare_only)
    chosen = None
    if is_short_form(argv):
        check_files(own.model_name_or_path, own.train_file, own.validation_file)
        if writes and own.output_dir is None and is_first_process():
            [text, *_] = own.train_file or [own.dataset_name or own.prepared_dir or own.validation_file[0]]
            chosen = new_output_dir(own.model_name_or_path, text)
    directory, command = chosen or own.output_dir or "trainer_output", resume_command(script, argv, chosen)
    if is_short_form(argv) and writes:
        _say(f"output: {directory}; to resume: {command}")
    try:
        yield {"output_dir": chosen} if chosen else {}
    except KeyboardInterrupt:
        saved = writes and any(Path(directory).glob("checkpoint-*/trainer_state.json"))
        _say(f"\ninterrupted; to {'resume from the last checkpoint' if saved else 'start again'}: {command}")
        raise SystemExit(130) from None
    finally:
        for path in (chosen, os.path.dirname(chosen)) if chosen else ():
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(path)


def _say(sentence: str) -> None:
    """Print a sentence, in the first process only."""
    if is_first_process():
        print(sentence, file=sys.stderr, flush=True)
