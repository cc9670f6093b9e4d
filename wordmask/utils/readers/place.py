"""A file being read: the line for error messages, the bytes for a progress bar. `lines` reads text files."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import DECOMPRESSION_ERRORS, decompressed


class Place:
    """A file that is being read.

    Args:
        path: the file.
        flag: the flag that names it.
        unit: what `number` counts, from 1: `line`, or `row` where a format has no lines.
    """

    def __init__(self, path: str | Path, flag: str, unit: str = "line"):
        self.path, self.flag, self.unit = path, flag, unit
        self.number = 0
        self.locate: Callable[[], int] | None = None  # finds `number`, where it is not kept
        self.fraction: float | None = None  # how much of the file is read, where its bytes are not read in order
        self._packed: IO[bytes] = io.BytesIO()

    @property
    def position(self) -> int:
        """How many bytes of the file, as it lies on disk, have been read."""
        if self.fraction is not None:
            return int(self.fraction * os.path.getsize(self.path))
        return 0 if self._packed.closed else self._packed.tell()

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file, decompressed. What goes wrong while it is read names the file and the last line."""
        try:
            with self._bytes() as file:
                yield file
        except UnicodeDecodeError:
            number, error = self._undecodable()
            raise InputError(
                f"{self.flag}: {self.path}, line {number}: byte 0x{error.object[error.start]:02x} at column "
                f"{error.start + 1} is not UTF-8; convert the file, for example with iconv -t UTF-8"
            ) from None
        except DECOMPRESSION_ERRORS as error:
            raise InputError(
                f"{self.flag}: {self.path} cannot be read after {self.unit} {self.number} ({one_line(error)})"
            ) from None

    @contextlib.contextmanager
    def _bytes(self) -> Iterator[IO[bytes]]:
        with open(self.path, "rb") as self._packed, decompressed(self._packed, self.path) as file:
            yield file

    def _undecodable(self) -> tuple[int, UnicodeDecodeError]:
        """The first line that is not UTF-8. It is looked for when something is, since text is decoded in blocks."""
        with self._bytes() as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    return number, error
        raise InputError(f"{self.flag}: {self.path} was changed while it was read; run again when it stays as it is")

    def mistake(self, what: str, number: int | None = None) -> InputError:
        """The error that says what is wrong with a line, the one just read if no number is given."""
        if number is not None:
            self.number = number
        elif self.locate:
            self.number = self.locate()
        return InputError(f"{self} {what}")

    def __str__(self) -> str:
        return f"{self.flag}: {self.path}, {self.unit} {self.number}"


def decoded(file: IO[bytes]) -> Iterator[str]:
    """The lines of UTF-8 with their ends; a byte order mark at the start is dropped.

    A line ends at `\\n` and nowhere else: U+2028, U+0085, `\\x0b` and a lone `\\r` are part of the line.
    """
    return io.TextIOWrapper(file, "utf-8-sig", newline="\n")


def lines(file: IO[bytes], place: Place) -> Iterator[str]:
    """The lines of UTF-8 without their ends, `\\n` or `\\r\\n`."""
    for place.number, line in enumerate(decoded(file), 1):
        yield line.removesuffix("\n").removesuffix("\r")
