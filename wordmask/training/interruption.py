"""After a signal, such as Ctrl-C, say how to go on: with the command that resumes the run, or starts it again."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from wordmask.training.records.file_names import RUN, STATE
from wordmask.utils.command_line import resume_command
from wordmask.utils.said_once import leave_mark, others_made_a_mistake
from wordmask.utils.signals import exit_status
from wordmask.utils.terminal import Command, terminal


@contextlib.contextmanager
def resumable(
    script: str, argv: Sequence[str], own: argparse.Namespace, chosen: str | None, directory: Path
) -> Iterator[None]:
    """After a signal, say how to go on. A chosen directory is removed if the run writes nothing into it.

    Args:
        script, argv: the command line.
        own: the values of this suite's flags.
        chosen: the output directory that the short form has chosen; `None` if it has not.
        directory: the output directory, chosen by the short form or by the user.

    Raises:
        SystemExit: after a signal, with its status, see `exit_status`.
    """
    record = directory / RUN
    earlier = _version(record)
    try:
        yield
    except KeyboardInterrupt as error:
        leave_mark()
        start_over = own.overwrite_output_dir and _version(record) == earlier  # the older run is still there
        trains = not (own.preview_masking or own.prepare_only or own.dry_run)
        resumes = trains and not start_over and any(directory.glob(f"checkpoint-*/{STATE}"))
        what = "resume from the last checkpoint" if resumes else "start again"
        if not others_made_a_mistake():  # torchrun ends all processes after it, and the command would make it again
            terminal().show(Command(f"interrupted; to {what}", resume_command(script, argv, chosen, start_over)))
        raise SystemExit(exit_status(error)) from None
    finally:
        for path in (chosen, os.path.dirname(chosen)) if chosen and not own.dry_run else ():
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(path)


def _version(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written anew; `None` without it.

    The start of the run does not tell it: the file has the time of its server, whose clock may be late.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
