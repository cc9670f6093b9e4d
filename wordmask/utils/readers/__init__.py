"""From a file of any format to its texts, in reading order: one reader for each format.

| module | reads |
|---|---|
| `place` | text files, a text to a line; where a reader is, for messages and progress bars |
| `delimited` | CSV and TSV |
| `json_file` | JSON: an object to a line, or one document |
| `parquet_file` | Parquet |
| `columns` | which column is the text, for all formats |
| `paths` | which files names, globs and directories stand for |

To add a format, write a class with the methods of `Table`, add its ending to `paths.FORMATS`, and make it in `_table`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from wordmask.utils.errors import InputError
from wordmask.utils.readers.columns import REFERENCES, Column, Keys, choose, flattened
from wordmask.utils.readers.delimited import DelimitedFile
from wordmask.utils.readers.json_file import JsonFile
from wordmask.utils.readers.parquet_file import ParquetFile
from wordmask.utils.readers.paths import expand_files, format_of, text_files
from wordmask.utils.readers.place import Place, lines

__all__ = [
    "Column",
    "TextFiles",
    "check_column_name",
    "choose_column",
    "expand_files",
    "read_lines",
    "summary",
    "text_files",
]


class Table(Protocol):
    """A file with columns.

    Attributes:
        is_document: known after `columns`; whether the file is a single object that may hold the table as a list.
    """

    is_document: bool

    def columns(self, name: str | None) -> dict[Keys, str]:
        """What each column holds, see `wordmask.utils.readers.columns`; `name` is the one that is asked for."""
        ...

    def values(self, columns: Sequence[Keys]) -> Iterator[Sequence[Any]]:
        """For each row what it holds in these columns: strings, `None` for nothing, lists, or something else."""
        ...


def _table(path: str, flag: str) -> tuple[Place, Table]:
    kind = format_of(path)
    place = Place(path, flag, "row" if kind == "parquet" else "line")
    if kind == "parquet":
        return place, ParquetFile(place)
    return place, JsonFile(place) if kind == "json" else DelimitedFile(place, comma=kind == "csv")


def choose_column(paths: Sequence[str], flag: str, name: str | None) -> Column | None:
    """The text column of files of one format; `None` for text files, which have none.

    Args:
        paths: the files.
        flag: the flag that names them.
        name: `--text_column_name`; a dot leads to a field inside another.

    Raises:
        InputError: where there is no such column, or none, or several could be meant.
    """
    if format_of(paths[0]) == "txt":
        return None
    tables = []
    for path in paths:
        _, table = _table(path, flag)
        tables.append((path, table.columns(name), table.is_document))
    return choose(tables, name, flag)


def check_column_name(columns: Sequence[Column | None], name: str | None, source: str) -> None:
    """Raise an `InputError` where a column is named and none of what is read has columns."""
    if name not in (None, "text") and not any(columns):
        raise InputError(f"--text_column_name: {source} is no table and has no column {name}; drop the flag")


class TextFiles:
    """The texts of files of one format, one after the other, blank ones included.

    Args:
        paths: the files.
        flag: the flag that names them.
        column: the text column of tables, as `choose_column` finds it.

    Raises:
        InputError: from the iterators, naming `flag`, the file and the line, where a file cannot be read, or is not
            what its name says.
    """

    def __init__(self, paths: Sequence[str | Path], flag: str, column: Column | None = None):
        self.paths, self.flag, self.column = [str(path) for path in paths], flag, column
        self._place: Place | None = None
        self._before = 0

    @property
    def size(self) -> int:
        """The bytes of the files as they lie on disk."""
        return sum(map(os.path.getsize, self.paths))

    @property
    def position(self) -> int:
        """How many of these bytes have been read."""
        return self._before + (self._place.position if self._place else 0)

    def __iter__(self) -> Iterator[str]:
        for path in self._each_path():
            if self.column is None:
                self._place = Place(path, self.flag)
                with self._place.open() as file:
                    yield from lines(file, self._place)
            else:
                self._place, table = _table(path, self.flag)
                for (value,) in table.values([self.column.keys]):
                    if type(value) is str and value.isascii():
                        yield value
                    elif isinstance(value, list):
                        if not self.column.lists:
                            raise self._place.mistake(
                                f"holds a list in column {self.column}; give --text_column_name {self.column} to read "
                                "each string in it as a text"
                            )
                        for item in flattened(value):
                            yield _text(item, self._place)
                    else:
                        yield _text(value, self._place)

    def with_references(self) -> Iterator[tuple[str, list[int]]]:
        """The texts of tables with the references beside them."""
        assert self.column is not None
        for path in self._each_path():
            self._place, table = _table(path, self.flag)
            for value, reference in table.values([self.column.keys, (REFERENCES,)]):
                if isinstance(value, list):
                    raise self._place.mistake(
                        f"holds several texts in column {self.column} and one reference; give each text a row"
                    )
                yield _text("" if value is None else value, self._place), _positions(reference, self._place)

    def _each_path(self) -> Iterator[str]:
        self._before = 0
        for path in self.paths:
            yield path
            self._before, self._place = self._before + os.path.getsize(path), None


def read_lines(path: str | Path, flag: str) -> Iterator[str]:
    """The lines of one file, whatever its name says."""
    return iter(TextFiles([path], flag))


def _text(value: Any, place: Place) -> str:
    """A value as a text.

    Raises:
        InputError: where it is none: an object, bytes that are not UTF-8, or half of a surrogate pair.
    """
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                code = ord(value[error.start])
                raise place.mistake(
                    f"holds \\u{code:04x} without its other half, which is no character; remove it, or write U+FFFD "
                    "in its place"
                ) from None
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise place.mistake("holds bytes that are not UTF-8; convert them") from None
    if value is None or isinstance(value, float) and math.isnan(value):  # NaN, which pandas writes for a missing text
        return ""
    if isinstance(value, dict):
        raise place.mistake("holds an object where a text is needed; choose a field of it with --text_column_name")
    return json.dumps(value)  # a number among texts


def _positions(reference: Any, place: Place) -> list[int]:
    """A reference: a list of integers, in CSV written as JSON; nothing is none."""
    if isinstance(reference, str):
        try:
            reference = json.loads(reference or "[]")
        except (ValueError, RecursionError):
            reference = ""
    positions = [] if reference is None else reference
    if not isinstance(positions, list) or not all(type(position) is int for position in positions):
        raise place.mistake(
            f"holds {json.dumps(reference, default=str)[:40]} in column {REFERENCES}, not a list of integers such as "
            "[2, 5]; make the file with run_chinese_ref.py"
        )
    return positions


def summary(texts: int | None, blank: int, files: int, column: Column | None) -> str:
    """What was read, in one line: `12 texts from column text of 4 files (3 blank ones skipped)`."""
    what = "a stream of texts" if texts is None else f"{texts:,} text{'s' * (texts != 1)}"
    source = f"{files} file{'s' * (files != 1)}"
    from_column = f"column {column} of " if column else ""
    skipped = f" ({blank:,} blank one{'s' * (blank != 1)} skipped)" if blank else ""
    return f"{what} from {from_column}{source}{skipped}"
