"""`InputError`, the error for a mistake of the user, and how a script reports it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import os
import re
import sys
import textwrap
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from wordmask.utils.processes import local_rank
from wordmask.utils.said_once import INTERRUPTED, first_to_say, leave_mark, others_said_something
from wordmask.utils.signals import exit_status, handled, interruption_behind
from wordmask.utils.terminal import clean

P = ParamSpec("P")
T = TypeVar("T")
OUTPUT_ERRORS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST", "EISDIR")
}
# What tells that a file system takes no more, and not what we wanted of it.
FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO")}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # at the end of what libraries in Rust raise: safetensors, tokenizers
# What torch raises as it writes a file, and as it ends one: `basic_ios::clear: iostream error`.
_TORCH_CANNOT_WRITE = re.compile("PytorchStreamWriter|inline_container|iostream")


class InputError(ValueError):
    """A mistake in what the user gave: one sentence that names the flag, what was found and what to do."""


def one_line(error: BaseException) -> str:
    """The message of an error on one line; its type if there is no message."""
    return " ".join(str(error).split()) or type(error).__name__


def suggest(name: str, known: Iterable[str], dashes: str = "") -> str:
    """The most similar known name, with dashes where it is a flag of the command line, as the end of a sentence."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {dashes}{nearest[0]}?" if nearest else ""


@contextlib.contextmanager
def reported(sentence: str | Callable[[Exception, str], str], advice: str = "") -> Iterator[None]:
    """Turn any exception into an `InputError`: the sentence, the error in brackets, and the advice.

    Libraries raise all kinds of exceptions for wrong settings and damaged files. Their messages can be paragraphs,
    and LTP's end with a backtrace, so we keep at most 240 characters.

    Args:
        sentence: the start of the sentence; or a function of the error and its message that gives the whole one.
        advice: the end of the sentence.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        message = str(error).split("Stack backtrace", 1)[0].strip()
        cause = f"{type(error).__name__}: {message}" if message else type(error).__name__
        cause = textwrap.shorten(cause, 240, placeholder=" …")
        raise InputError(
            f"{sentence} ({cause}){advice}" if isinstance(sentence, str) else sentence(error, cause)
        ) from error


def find_input_error(error: BaseException | None) -> InputError | None:
    """The `InputError` in a chain of exceptions (`datasets` wraps what a generator raises), or `None`."""
    while error is not None and not isinstance(error, InputError):
        # What torch raises wherever the program is when a worker dies, also while a mistake is on its way up.
        interrupts = str(error).startswith("DataLoader worker (pid")
        error = error.__cause__ or (error.__context__ if interrupts else None)
    if error is not None and str(error).startswith("Caught InputError in"):  # torch puts a worker's traceback into it
        return InputError(str(error).rpartition("InputError: ")[2].strip())
    return error


@contextlib.contextmanager
def naming_parameters() -> Iterator[None]:
    """For the Python API: let an `InputError` name parameters, `seed`, and not flags, `--seed`."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"--(?=\w)", "", str(error))) from None


@contextlib.contextmanager
def output_of_workers(flag: str, path: object, workers_flag: str, go_on: str) -> Iterator[None]:
    """Turn what stops worker processes from writing their output into one sentence.

    Args:
        flag, path: the output.
        workers_flag: the flag that sets their number.
        go_on: what to do afterwards.

    Raises:
        InputError: if a worker dies, or the output cannot be written.
    """
    try:
        yield
    except BrokenProcessPool:
        raise InputError(
            f"{workers_flag}: a worker died, perhaps because memory ran out; give fewer workers, and {go_on}"
        ) from None
    except Exception as error:
        reason = why_not_written(error, OUTPUT_ERRORS)
        if reason is None:
            raise
        raise InputError(f"{flag}: {path} cannot be written ({reason}); repair this, and {go_on}") from None


def why_not_written(error: BaseException, numbers: Container[int] = FULL) -> str | None:
    """Why a library could not write a file, such as `No space left on device`; `None` for errors of other kinds.

    Args:
        error: what it has raised. Not all are an `OSError`.
        numbers: the error numbers that count.
    """
    if isinstance(error, InputError):
        return None
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno and error.errno in numbers else None
    if number := _OS_ERROR.search(str(error)):
        return os.strerror(int(number[1])) if int(number[1]) in numbers else None
    is_of_torch = isinstance(error, RuntimeError) and _TORCH_CANNOT_WRITE.search(str(error))
    return "no room is left, or files may not be so large" if is_of_torch else None


def reports_input_errors(main: Callable[P, T]) -> Callable[P, T]:
    """Let a script's `main` end with one line on stderr and exit status 2 after a mistake of the user.

    If several processes of a launch meet the same mistake on one machine, only one of them prints it. This is the
    first process, if it meets the mistake too. If only another process meets it, the line begins with its rank.

    Ctrl-C and SIGTERM end it with one line, too, and exit status 130 or 143.

    Any other exception is a bug of ours and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with handled():
            try:
                return main(*args, **kwargs)
            except (KeyboardInterrupt, Exception) as error:
                if interruption := interruption_behind(error):
                    leave_mark(INTERRUPTED)
                    if local_rank() == 0:
                        print("\ninterrupted", file=sys.stderr, flush=True)
                    raise SystemExit(exit_status(interruption)) from None
                mistake = find_input_error(error)
                # If one process leaves after a mistake or a signal, the others fail as they wait for it. They have
                # nothing to add.
                if mistake is None and not (isinstance(error, RuntimeError) and others_said_something()):
                    raise
                if mistake is not None and first_to_say(str(mistake)):
                    rank = f"rank {os.environ['RANK']}: " if local_rank() else ""
                    print(clean(f"error: {rank}{mistake}"), file=sys.stderr, flush=True)
                raise SystemExit(2) from None

    return wrapper
