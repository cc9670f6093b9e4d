"""Parquet: the text column alone is read, batch by batch."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import COMPRESSED
from wordmask.utils.readers.columns import BYTES, NOTHING, NUMBERS, OBJECT, OBJECTS, TEXT, TEXTS, Keys, values_at
from wordmask.utils.readers.place import Place

ROWS = 1000  # read at once


class ParquetFile:
    """A table in which each column says what it holds.

    Args:
        place: the file.
    """

    is_document = False

    def __init__(self, place: Place):
        self.place = place

    def columns(self, name: str | None) -> dict[Keys, str]:
        """What each column holds, fields inside others included."""
        with self._open() as file:
            _check_names(self.place, file.schema_arrow)
            return kinds_of(file.schema_arrow)

    def values(self, columns: Sequence[Keys]) -> Iterator[Sequence[Any]]:
        """What each row holds in some columns.

        Raises:
            InputError: naming the row that is not UTF-8, or the file that cannot be read.
        """
        with self._open() as file:
            total = max(file.metadata.num_rows, 1)
            names = list(dict.fromkeys(keys[0] for keys in columns))
            for batch in file.iter_batches(batch_size=ROWS, columns=names):
                read = []
                for keys in columns:
                    values = batch.column(batch.schema.get_field_index(keys[0])).to_pylist()
                    read.append(values if len(keys) == 1 else [values_at(value, keys[1:]) for value in values])
                for row in zip(*read, strict=True):
                    self.place.number += 1
                    yield row
                self.place.fraction = self.place.number / total

    @contextlib.contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        """The file; a compressed one is unpacked into a temporary file first, since Parquet is read from its end."""
        self.place.number, self.place.fraction = 0, 0.0
        try:
            with contextlib.ExitStack() as stack:
                source: Any = str(self.place.path)
                if Path(source).suffix.lower() in COMPRESSED:
                    packed = stack.enter_context(self.place.open())
                    source = stack.enter_context(tempfile.TemporaryFile())
                    shutil.copyfileobj(packed, source)
                yield stack.enter_context(pq.ParquetFile(source))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.place.flag}: {self.place.path} holds bytes after row {self.place.number} that are not UTF-8 "
                f"({error.reason}); write the table again"
            ) from None
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.place.flag}: {self.place.path} cannot be read as Parquet ({one_line(error)[:200]}); write the "
                "table again"
            ) from None


def kinds_of(schema: pa.Schema) -> dict[Keys, str]:
    """What each column of a schema holds, fields inside others included."""
    kinds: dict[Keys, str] = {}

    def add(field: pa.Field, above: Keys) -> None:
        keys = (*above, field.name)
        kinds[keys] = _kind(field.type)
        inner = field.type
        while pa.types.is_list(inner) or pa.types.is_large_list(inner) or pa.types.is_fixed_size_list(inner):
            inner = inner.value_type
        if pa.types.is_struct(inner):
            for child in inner:
                add(child, keys)

    for field in schema:
        add(field, ())
    return kinds


def _check_names(place: Place, schema: pa.Schema) -> None:
    """Raise an `InputError` for a name that several columns have: which one is meant?"""
    repeated = [name for name, count in Counter(schema.names).items() if count > 1]
    if repeated:
        raise InputError(
            f"{place.flag}: {place.path} has several columns named {repeated[0]}; rename them, so that each has its "
            "own name"
        )


def _kind(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_dictionary(kind):
        return _kind(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return TEXT
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return BYTES
    if types.is_null(kind):
        return NOTHING
    if types.is_struct(kind):
        return OBJECT
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return {TEXT: TEXTS, OBJECT: OBJECTS}.get(_kind(kind.value_type), f"{kind}")
    return NUMBERS if types.is_integer(kind) or types.is_floating(kind) else str(kind)
