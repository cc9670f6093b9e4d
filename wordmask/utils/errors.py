"""The one kind of error that is a user's to mend, and how a script reports it."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
OUTPUT_ERRORS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST", "EISDIR")
}


class InputError(ValueError):
    """A mistake in what the user gave: one sentence that names the flag, what was found and what to do."""


def one_line(error: BaseException) -> str:
    """An error's message on one line, its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def find_input_error(error: BaseException | None) -> InputError | None:
    """The `InputError` in a chain of exceptions (`datasets` wraps what a generator raises), or `None`."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__
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
    """Report, in a sentence, what keeps worker processes from writing their output.

    Args:
        flag, path: the output.
        workers_flag: says how many there are.
        go_on: what to do afterwards.

    Raises:
        InputError: where a worker dies, or the output cannot be written.
    """
    try:
        yield
    except BrokenProcessPool:
        raise InputError(
            f"{workers_flag}: a worker died, perhaps for lack of memory; give fewer, and {go_on}"
        ) from None
    except OSError as error:
        if error.errno not in OUTPUT_ERRORS:
            raise
        raise InputError(f"{flag}: {path} cannot be written ({error.strerror}); mend that, and {go_on}") from None


def reports_input_errors(main: Callable[P, T]) -> Callable[P, T]:
    """Make a script's `main` end with one line on stderr and exit status 2 where the mistake is the user's.

    Of several processes that a launcher started on a machine, one says a sentence that several meet: the first one
    where it meets it, too, and without its rank. A sentence that another process alone meets begins with its rank.

    Anything else is a bug of ours and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return main(*args, **kwargs)
        except Exception as error:
            mistake = find_input_error(error)
            if mistake is None:
                raise
            if _is_first_to_report(str(mistake)):
                rank = "" if _local_rank() == 0 else f"rank {os.environ['RANK']}: "
                print(f"error: {rank}{mistake}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None

    return wrapper


_PATIENCE = 3.0  # seconds that other processes wait for the first one to meet the same mistake
_FORGOTTEN = 300.0  # seconds after which a mark is of an earlier launch, whose process ids have come again


def _local_rank() -> int:
    """Which process of a launcher on this machine this is; 0 without a launcher."""
    rank = os.environ.get("LOCAL_RANK", "0")
    return int(rank) if "RANK" in os.environ and rank.isdecimal() else 0


def _is_first_to_report(sentence: str) -> bool:
    """Whether no other process of the same launch on this machine has reported this mistake.

    Processes have nothing in common yet when a flag is wrong, so they meet at a file, made by one of them alone, whose
    name is a digest of the launch (its process, its restarts and where its processes meet) and of the sentence.
    """
    if "RANK" not in os.environ:
        return True
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    launch = [os.getppid(), *(os.environ.get(name) for name in names)]
    digest = hashlib.sha256(repr([*launch, sentence]).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    folder = Path(tempfile.gettempdir())
    mark = folder / f"wordmask-error-{digest}"
    for old in folder.glob("wordmask-error-*"):
        with contextlib.suppress(OSError):  # another process has just removed it, or another user made it
            if time.time() - old.stat().st_mtime > _FORGOTTEN:
                old.unlink()
    try:
        end = time.monotonic() + (_PATIENCE if _local_rank() else 0)
        while time.monotonic() < end and not mark.exists():
            time.sleep(0.05)
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # no place for it: better twice than never
        return True
    return True
