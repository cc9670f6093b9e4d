"""Texts from files of any format, in order, and other contents of files: columns, lines, words."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wordmask.utils.errors import InputError
from wordmask.utils.quantities import counted
from wordmask.utils.readers.columns import REFERENCES, Column, flattened, listed
from wordmask.utils.readers.open_file import OpenFile, lines
from wordmask.utils.readers.paths import format_of
from wordmask.utils.readers.tables import Table, open_table


class TextReader:
    """Reads the texts of files of one format, one after the other, with blank ones.

    Args:
        paths: the files.
        flag: the flag that names them.
        column: the text column of tables, from `choose_column`.

    Raises:
        InputError: while iterating, if a file cannot be read or does not have the format that its name says. It names
            `flag`, the file and the line.
    """

    def __init__(self, paths: Sequence[str | Path], flag: str, column: Column | None = None):
        self.paths, self.flag, self.column = [str(path) for path in paths], flag, column
        self._file: OpenFile | None = None  # the file that is read now
        self._finished = 0  # bytes of the files before it

    @property
    def size(self) -> int:
        """The size of the files on disk, in bytes."""
        return sum(map(os.path.getsize, self.paths))

    @property
    def position(self) -> int:
        """How many of these bytes have been read."""
        return self._finished + (self._file.position if self._file else 0)

    def __iter__(self) -> Iterator[str]:
        if self.column is None:
            for path in self._each_path():
                self._file = OpenFile(path, self.flag)
                with self._file.open() as content:
                    yield from lines(content, self._file)
            return
        for table in self._each_table():
            for value, _ in table.rows(self.column):
                if type(value) is str and value.isascii():
                    yield value
                elif not isinstance(value, list):
                    yield as_text(value, table.file.mistake)
                elif self.column.lists:
                    for item in flattened(value):
                        yield as_text(item, table.file.mistake)
                else:
                    raise table.file.mistake(
                        f"holds a list in column {self.column}; give --text_column_name {self.column} to read each "
                        "string in it as a text"
                    )

    def with_references(self) -> Iterator[tuple[str, list[int]]]:
        """The texts of tables, each with its reference."""
        assert self.column is not None
        for table in self._each_table():
            for value, reference in table.rows(self.column):
                if isinstance(value, list):
                    raise table.file.mistake(
                        f"holds several texts in column {self.column} and one reference; give each text its own row"
                    )
                yield as_text(value, table.file.mistake), as_positions(reference, table.file.mistake)

    def _each_table(self) -> Iterator[Table]:
        for path in self._each_path():
            table = open_table(path, self.flag)
            self._file = table.file
            yield table

    def _each_path(self) -> Iterator[str]:
        self._finished = 0
        for path in self.paths:
            yield path
            self._finished, self._file = self._finished + os.path.getsize(path), None


def read_columns(path: str, flag: str, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The values of some columns of a table as strings, row by row. Nothing is an empty string.

    Args:
        path: the file.
        flag: the flag that names it.
        names: the columns.

    Raises:
        InputError: if the file is no table, has no such column, or cannot be read.
    """
    wanted = " and ".join(names)
    if format_of(path) == "txt":
        raise InputError(f"{flag}: {path} is a text file and has no columns; give a table with the columns {wanted}")
    for name in names:
        kinds = open_table(path, flag).columns(name)
        if (name,) not in kinds:
            raise InputError(
                f"{flag}: {path} needs the columns {wanted}, and has no {name}; rename one of {listed(kinds)}"
            )
    yield from zip(*(_values(path, flag, name) for name in names), strict=True)


def _values(path: str, flag: str, name: str) -> Iterator[str]:
    table = open_table(path, flag)
    for value, _ in table.rows(Column((name,))):
        if isinstance(value, list):
            raise table.file.mistake(f"holds a list in column {name}; give each row one value")
        yield as_text(value, table.file.mistake)


def read_lines(path: str | Path, flag: str) -> Iterator[str]:
    """The lines of one file, whatever its name says."""
    return iter(TextReader([path], flag))


def read_words(path: str | Path, flag: str) -> list[str]:
    """The words of a file that has one in each line, each of them once. White space around a word does not count."""
    return [*dict.fromkeys(word for line in read_lines(path, flag) if (word := line.strip()))]


def as_text(value: Any, mistake: Callable[[str], InputError]) -> str:
    """A value as a text.

    Args:
        value: of a table.
        mistake: makes the error of a sentence that begins with "holds".

    Raises:
        InputError: if it is an object, bytes that are not UTF-8, or half of a surrogate pair.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise mistake("holds bytes that are not UTF-8; convert them") from None
    if value is None or isinstance(value, float) and math.isnan(value):  # pandas writes NaN for a missing text
        return ""
    if isinstance(value, dict):
        raise mistake("holds an object where a text is needed; choose a field of it with --text_column_name")
    text = value if isinstance(value, str) else json.dumps(value, default=str)  # a number or a date
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise mistake(
            f"holds \\u{ord(text[error.start]):04x} without its other half, which is not a character; remove it, or "
            "replace it with U+FFFD"
        ) from None
    return text


def as_positions(reference: Any, mistake: Callable[[str], InputError]) -> list[int]:
    """A reference: a list of integers, or in CSV its JSON. Nothing is an empty list. `mistake` is as in `as_text`."""
    positions = [] if reference is None else reference
    if isinstance(reference, str):
        try:
            positions = json.loads(reference or "[]")
        except (ValueError, RecursionError):
            positions = None
    is_list = isinstance(positions, list) and all(type(position) is int for position in positions)
    if not is_list or max(map(abs, positions), default=0) >= 2**31:
        raise mistake(
            f"holds {json.dumps(reference, default=str)[:40]} in column {REFERENCES}, not a list of positions such as "
            "[2, 5]; make the file with run_chinese_ref.py"
        )
    return positions


def summary(texts: int | None, blank: int, files: int, column: Column | None) -> str:
    """What was read, in one line: `12 texts from column text of 4 files (and 3 blank ones)`."""
    what = "a stream of texts" if texts is None else counted(texts, "text")
    source = counted(files, "file")
    from_column = f"column {column} of " if column else ""
    skipped = f" (and {counted(blank, 'blank one')})" if blank else ""
    return f"{what} from {from_column}{source}{skipped}"
