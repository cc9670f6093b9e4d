"""`OpenFile`: a file that is being read. It knows the line for error messages, and the bytes for a progress bar."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import DECOMPRESSION_ERRORS, decompressed

ONLY_RETURNS = "has line ends of \\r alone; convert the file, for example with tr '\\r' '\\n'"


class OpenFile:
    """A file that is being read.

    Args:
        path: the file.
        flag: the flag that names it.
        unit: what `number` counts: `line`, or `row` if the format has no lines.

    Attributes:
        number: the number of the line that was read last, from 1.
        line_of_parser: gives this number if the reader does not count lines itself.
        fraction: how much of the file was read, from 0 to 1, if its bytes are not read in order.
    """

    def __init__(self, path: str | Path, flag: str, unit: str = "line"):
        self.path, self.flag, self.unit = path, flag, unit
        self.number = 0
        self.line_of_parser: Callable[[], int] = lambda: self.number
        self.fraction: float | None = None
        self._compressed: IO[bytes] = io.BytesIO()

    @property
    def position(self) -> int:
        """The number of bytes on disk that have been read."""
        if self.fraction is not None:
            return int(self.fraction * os.path.getsize(self.path))
        return 0 if self._compressed.closed else self._compressed.tell()

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file and decompress it. An error while it is read becomes a sentence with the file and the line."""
        self.number = 0
        try:
            with open(self.path, "rb") as self._compressed, decompressed(self._compressed, self.path) as content:
                yield content
        except UnicodeDecodeError:
            raise self._not_utf8() from None
        except DECOMPRESSION_ERRORS as error:
            number = self.line_of_parser()
            raise InputError(
                f"{self.flag}: {self.path} cannot be read after {self.unit} {number} ({one_line(error)}); "
                "copy it again, or name it without its last ending if it is not compressed"
            ) from None

    def _not_utf8(self) -> InputError:
        """The error for the first line that is not UTF-8. Text is decoded in blocks, so we read the file again."""
        with self.open() as content:
            for number, line in enumerate(content, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    is_utf16 = number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                    known = "UTF-16" if is_utf16 else "GBK, BIG5, SHIFT_JIS, CP1252, UTF-16LE or UTF-16BE"
                    return InputError(
                        f"{self.flag}: {self.path}, line {number}: byte 0x{line[error.start]:02x} at column "
                        f"{error.start + 1} is not UTF-8; convert the file: iconv -f OLD -t UTF-8, where OLD is its "
                        f"encoding, such as {known}"
                    )
        return InputError(f"{self.flag}: {self.path} changed while it was read; run again when it is complete")

    def mistake(self, what: str, number: int | None = None) -> InputError:
        """The error for a mistake in a line: the line of this number, or else the line that was read last."""
        number = self.line_of_parser() if number is None else number
        return InputError(f"{self.flag}: {self.path}, {self.unit} {number} {what}")


def lines_with_ends(content: IO[bytes]) -> io.TextIOWrapper:
    """UTF-8 as lines with their ends, without a byte order mark at the start.

    Only `\\n` ends a line. U+2028, U+0085, `\\x0b` and a lone `\\r` are characters of the line.
    """
    return io.TextIOWrapper(content, "utf-8-sig", newline="\n")


def lines(content: IO[bytes], file: OpenFile) -> Iterator[str]:
    """The lines of UTF-8 without their ends, `\\n` or `\\r\\n`.

    Raises:
        InputError: if all line ends are `\\r`, as old programs write them: the file would be one line. Also for a line
            with a NUL in every third place or more: in UTF-16, Latin letters have one beside each.
    """
    with lines_with_ends(content) as text:
        for file.number, line in enumerate(text, 1):
            if file.number == 1 and "\r" in line.rstrip("\r\n") and not line.endswith("\n"):
                raise file.mistake(ONLY_RETURNS)
            if "\0" in line and file.number > 1 and not line.strip("\0\r\n"):
                raise file.mistake("holds nothing but NUL; remove it: tr -d '\\0'")
            if "\0" in line and 3 * line.count("\0") > len(line):
                kind = "UTF-16BE" if line.startswith("\0") else "UTF-16LE"
                raise file.mistake(
                    f"has NULs between its characters, as in UTF-16; convert it: iconv -f {kind} -t UTF-8"
                )
            yield line.removesuffix("\n").removesuffix("\r")
