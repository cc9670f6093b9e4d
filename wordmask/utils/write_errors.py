"""Why a file could not be written, in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Container, Iterator
from concurrent.futures.process import BrokenProcessPool

from wordmask.utils.errors import InputError, one_line

# Of a file system that takes no more. The others can also be a mistake in what we ask of it.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
OUTPUT_ERRORS = FULL | {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # at the end of what libraries in Rust raise: safetensors, tokenizers
# What torch raises as it writes a file, and as it ends one: `basic_ios::clear: iostream error`.
_TORCH_CANNOT_WRITE = re.compile("PytorchStreamWriter|inline_container|iostream")


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


@contextlib.contextmanager
def write_reported(what: str, advice: str) -> Iterator[None]:
    """Turn what keeps a file or a directory from being written into one sentence.

    Args:
        what: the flag and its value, with which the sentence begins.
        advice: its end.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        yield
    except Exception as error:
        reason = why_not_written(error, OUTPUT_ERRORS)
        if reason is None and not isinstance(error, OSError):
            raise
        reason = reason or reason_of(error)
        raise InputError(f"{what} cannot be written ({reason}); {advice}") from None


def reason_of(error: Exception) -> str:
    """What an exception says, without the number and the file name of an `OSError`."""
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)


def why_not_written(error: BaseException, numbers: Container[int] = FULL) -> str | None:
    """Why a library could not write a file, such as `No space left on device`; `None` for errors of other kinds.

    Args:
        error: what it has raised. Not all are an `OSError`.
        numbers: the error numbers that count.
    """
    if isinstance(error, InputError):
        return None
    if isinstance(error, OSError):
        number = error.errno
    elif named := _OS_ERROR.search(str(error)):
        number = int(named[1])
    else:
        is_of_torch = isinstance(error, RuntimeError) and _TORCH_CANNOT_WRITE.search(str(error))
        return "no room is left, or files may not be so large" if is_of_torch else None
    if number is None or number not in numbers:
        return None
    return os.strerror(number) + (": see ulimit -f" if number == errno.EFBIG else "")
