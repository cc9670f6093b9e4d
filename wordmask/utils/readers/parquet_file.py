"""Parquet. We read only the columns that we need, batch by batch."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import COMPRESSED
from wordmask.utils.readers.columns import LISTS_OF, REFERENCES, Column, Keys, Kind, values_at
from wordmask.utils.readers.open_file import OpenFile

ROWS = 1000  # that are read at once
KINDS: dict[pa.DataType, str] = {
    **dict.fromkeys((pa.string(), pa.large_string(), pa.string_view()), Kind.TEXT),
    **dict.fromkeys((pa.binary(), pa.large_binary(), pa.binary_view()), Kind.BYTES),
    pa.null(): Kind.NOTHING,
}
LIST_TYPES = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)


class ParquetFile:
    """A table that says what each column holds.

    Args:
        file: the file.
    """

    is_document = False

    def __init__(self, file: OpenFile):
        self.file = file

    def columns(self, name: str | None) -> dict[Keys, str]:
        """What each column holds, with the fields inside columns."""
        with self._open() as table:
            names = Counter(table.schema_arrow.names)
            if repeated := [column for column, count in names.items() if count > 1]:
                raise InputError(
                    f"{self.file.flag}: {self.file.path} has several columns named {repeated[0]}; rename them"
                )
            return kinds_of(table.schema_arrow)

    def rows(self, column: Column) -> Iterator[tuple[Any, Any]]:
        """The value in the text column and the reference of each row, see `Table`.

        Raises:
            InputError: naming the row that is not UTF-8, or the file that cannot be read.
        """
        names = [column.keys[0], *([REFERENCES] if column.references else [])]
        with self._open() as table:
            for batch in table.iter_batches(batch_size=ROWS, columns=names):
                for row in batch.to_pylist():
                    self.file.number += 1
                    yield values_at(row, column.keys), row.get(REFERENCES)
                self.file.fraction = self.file.number / table.metadata.num_rows

    @contextlib.contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        """Open the file. Parquet is read from its end, so a compressed file is first unpacked into a temporary one."""
        self.file.number, self.file.fraction = 0, 0.0
        try:
            with contextlib.ExitStack() as stack:
                source: str | IO[bytes] = str(self.file.path)
                if Path(self.file.path).suffix.lower() in COMPRESSED:
                    source = stack.enter_context(tempfile.TemporaryFile())
                    with self.file.open() as content:
                        shutil.copyfileobj(content, source)
                yield stack.enter_context(pq.ParquetFile(source))
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:  # bytes that are not UTF-8 are a ValueError, too
            raise InputError(
                f"{self.file.flag}: {self.file.path} cannot be read as Parquet after row {self.file.number} "
                f"({one_line(error)[:200]}); write the table again"
            ) from None


def kinds_of(schema: pa.Schema) -> dict[Keys, str]:
    """What each column of a schema holds, with the fields inside columns."""
    kinds: dict[Keys, str] = {}

    def add(field: pa.Field, above: Keys) -> None:
        keys, inner = (*above, field.name), field.type
        kinds[keys] = _kind(inner)
        while isinstance(inner, LIST_TYPES):
            inner = inner.value_type
        if pa.types.is_struct(inner):
            for child in inner:
                add(child, keys)

    for field in schema:
        add(field, ())
    return kinds


def _kind(column_type: pa.DataType) -> str:
    if isinstance(column_type, pa.DictionaryType):
        return _kind(column_type.value_type)
    if isinstance(column_type, LIST_TYPES):
        return LISTS_OF.get((_kind(column_type.value_type),), str(column_type))
    if pa.types.is_struct(column_type):
        return Kind.OBJECT
    is_number = pa.types.is_integer(column_type) or pa.types.is_floating(column_type)
    return KINDS.get(column_type, Kind.NUMBERS if is_number else str(column_type))
