"""Tables: files with columns, in any format, and the choice of their text column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from wordmask.utils.errors import InputError
from wordmask.utils.readers.columns import Column, Keys, TableColumns, choose
from wordmask.utils.readers.delimited import DelimitedFile
from wordmask.utils.readers.json_file import JsonFile
from wordmask.utils.readers.open_file import OpenFile
from wordmask.utils.readers.parquet_file import ParquetFile
from wordmask.utils.readers.paths import format_of


class Table(Protocol):
    """A file with columns.

    Attributes:
        file: the file, for messages.
        is_document: whether the file is a single object, which may hold the table as a list. Known after `columns`.
    """

    file: OpenFile
    is_document: bool

    def columns(self, name: str | None) -> dict[Keys, str]:
        """What each column holds, see `wordmask.utils.readers.columns`. `name` is the one that the user asks for."""
        ...

    def rows(self, column: Column) -> Iterator[tuple[Any, Any]]:
        """For each row: what it holds in the text column (a string, `None` for nothing, a list, or something else),
        and its reference if `column.references`."""
        ...


def open_table(path: str, flag: str) -> Table:
    """The table in a file; `flag` names the file in messages."""
    file_format = format_of(path)
    if file_format == "parquet":
        return ParquetFile(OpenFile(path, flag, unit="row"))
    file = OpenFile(path, flag)
    return JsonFile(file) if file_format == "json" else DelimitedFile(file, comma=file_format == "csv")


def choose_column(paths: Sequence[str], flag: str, name: str | None) -> Column | None:
    """The text column of files of one format; `None` for text files, which have no columns.

    Args:
        paths: the files.
        flag: the flag that names them.
        name: `--text_column_name`. A dot leads to a field inside another.

    Raises:
        InputError: if the column does not exist, or if no column or several could be the text.
    """
    if format_of(paths[0]) == "txt":
        return None
    tables = []
    for path in paths:
        table = open_table(path, flag)
        kinds = table.columns(name)
        tables.append(TableColumns(path, kinds, table.is_document))
    return choose(tables, name, flag)


def check_column_name(columns: Sequence[Column | None], name: str | None, source: str) -> None:
    """Raise an `InputError` if the user names a column, but nothing that we read has columns."""
    if name not in (None, "text") and not any(columns):
        raise InputError(f"--text_column_name: {source} is not a table and has no column {name}; drop the flag")
