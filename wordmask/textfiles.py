"""The one reader of text files, so that a text and its reference file cannot drift apart.

A line ends at `\\n` or `\\r\\n` and nowhere else: U+2028, U+0085, `\\x0b` and a lone `\\r` are part of the line.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import io
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from wordmask.errors import InputError

COMPRESSED = (".gz", ".xz", ".zst")
DECOMPRESSION_ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


def open_binary(path: str | Path) -> IO[bytes]:
    """Open a file for reading bytes, decompressed where its name ends in .gz, .xz or .zst."""
    suffix = Path(path).suffix
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if suffix == ".xz":
        return lzma.open(path, "rb")
    if suffix == ".zst":
        return io.BufferedReader(zstandard.open(path, "rb"))
    return open(path, "rb")


def read_lines(path: str | Path, flag: str) -> Iterator[str]:
    """The lines of a UTF-8 file without their ends; a byte order mark at its start is dropped.

    Raises:
        InputError: naming `flag`, the file and the line, where bytes are not UTF-8, or the file cannot be read.
    """
    number = 0
    try:
        with open_binary(path) as file:
            for number, line in enumerate(file, 1):
                line = line.removesuffix(b"\n").removesuffix(b"\r")
                yield (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{flag}: {path}, line {number}: byte 0x{error.object[error.start]:02x} at column {error.start + 1} "
            f"is not UTF-8; convert the file, for example with iconv -t UTF-8"
        ) from None
    except DECOMPRESSION_ERRORS as error:
        raise InputError(f"{flag}: {path} cannot be read after line {number} ({error})") from None


def is_blank(line: str) -> bool:
    """Whether a line holds nothing but white space; such lines are passed over in a text and in its references."""
    return not line or line.isspace()


def expand_files(patterns: Sequence[str], flag: str) -> list[str]:
    """The files that names and globs stand for, in order.

    Raises:
        InputError: naming `flag`, where a name or a pattern stands for no file.
    """
    files: list[str] = []
    for pattern in patterns:
        found = [pattern] if os.path.isfile(pattern) else sorted(filter(os.path.isfile, glob.glob(pattern)))
        if not found:
            what = "is a directory, not a file" if os.path.isdir(pattern) else "does not exist"
            raise InputError(f"{flag}: {pattern} {what}; give a file or a glob that matches files")
        files += found
    return files


@contextlib.contextmanager
def write_atomically(path: str | Path, binary: bool = False) -> Iterator[IO[Any]]:
    """A file that appears under its name only when it is whole; after an error nothing is left."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") if binary else open(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
