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

import pyarrow as pa

from wordmask.utils.errors import InputError

COMPRESSED = (".gz", ".xz", ".zst")
DECOMPRESSION_ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error)


@contextlib.contextmanager
def open_binary(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, decompressed where its name ends in .gz, .xz or .zst."""
    with open(path, "rb") as packed, _decompressed(packed, Path(path).suffix) as file:
        yield file


def _decompressed(packed: IO[bytes], suffix: str) -> IO[bytes]:
    """What is in a file with this suffix; one of `DECOMPRESSION_ERRORS` ends reading where the file was cut off."""
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(packed, "rb"))
    if suffix == ".xz":
        return lzma.open(packed, "rb")
    if suffix == ".zst":  # zstandard's own reader takes a frame that was cut off for a whole one
        return io.BufferedReader(cast(Any, pa.input_stream(packed, compression="zstd")))
    return packed


class TextLines:
    """The lines of UTF-8 files without their ends; a byte order mark at a file's start is dropped.

    Args:
        paths: the files, read one after the other.
        flag: the flag that names them.

    Raises:
        InputError: from the iterator, naming `flag`, the file and the line, where bytes are not UTF-8, or the file
            cannot be read.
    """

    def __init__(self, paths: Sequence[str | Path], flag: str):
        self.paths, self.flag = paths, flag
        self._packed: IO[bytes] = io.BytesIO()
        self._before = 0

    @property
    def size(self) -> int:
        """The bytes of the files as they lie on disk."""
        return sum(map(os.path.getsize, self.paths))

    @property
    def position(self) -> int:
        """How many of these bytes have been read."""
        return self._before + (0 if self._packed.closed else self._packed.tell())

    def __iter__(self) -> Iterator[str]:
        self._before = 0
        for path in self.paths:
            number = 0
            try:
                with open(path, "rb") as self._packed, _decompressed(self._packed, Path(path).suffix) as file:
                    for number, line in enumerate(file, 1):
                        line = line.removesuffix(b"\n").removesuffix(b"\r")
                        yield (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).decode("utf-8")
                self._before += os.path.getsize(path)
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{self.flag}: {path}, line {number}: byte 0x{error.object[error.start]:02x} at column "
                    f"{error.start + 1} is not UTF-8; convert the file, for example with iconv -t UTF-8"
                ) from None
            except DECOMPRESSION_ERRORS as error:
                raise InputError(f"{self.flag}: {path} cannot be read after line {number} ({error})") from None


def read_lines(path: str | Path, flag: str) -> Iterator[str]:
    """The lines of one file, as `TextLines` has them."""
    return iter(TextLines([path], flag))


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


@contextlib.contextmanager
def make_directory_atomically(path: str | Path) -> Iterator[Path]:
    """A directory that appears under its name only when it is whole; after an error nothing is left.

    Where there is one already, what else it holds stays, and each file appears when all are whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        whole = Path(temporary, "whole")
        whole.mkdir()
        yield whole
        if path.exists():
            for file in whole.iterdir():
                os.replace(file, path / file.name)
        else:
            os.replace(whole, path)
