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
from wordmask.utils.readers.arrow_schema import kinds_of
from wordmask.utils.readers.columns import REFERENCES, Column, Keys, values_at
from wordmask.utils.readers.open_file import OpenFile

ROWS = 1000  # that are read at once
BUFFER = 2**20  # bytes of a column that are read at once


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
                # By default, the column of a whole row group is read at once: a million documents, say.
                yield stack.enter_context(pq.ParquetFile(source, buffer_size=BUFFER, pre_buffer=False))
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:  # bytes that are not UTF-8 are a ValueError, too
            raise InputError(
                f"{self.file.flag}: {self.file.path} cannot be read as Parquet after row {self.file.number} "
                f"({one_line(error)[:200]}); write the table again"
            ) from None
