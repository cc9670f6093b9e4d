"""CSV and TSV. In CSV quotation marks hold a field together; in TSV they are characters like any other."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import IO, Any

from wordmask.utils.errors import InputError
from wordmask.utils.readers.columns import TEXT, Keys, looks_like_text
from wordmask.utils.readers.place import Place, decoded, lines

DELIMITERS = (",", ";", "\t", "|")  # of which a header shows the one that is used
LARGEST = 2**31 - 1  # characters in a field; Python's own limit is 131,072
# A lone `\r` in a field that is not quoted would end the row for Python's reader. It passes as a character that
# UTF-8 cannot hold, so no text has it.
RETURN = "\udc0d"
QUOTED = re.compile('"(?:[^"]|"")*"', re.DOTALL)


class DelimitedFile:
    """A table in which the first row names the columns, and every row has as many fields.

    Args:
        place: the file.
        comma: whether it is CSV; TSV otherwise.
    """

    is_document = False

    def __init__(self, place: Place, comma: bool):
        self.place, self.comma = place, comma
        self._returns = False

    def columns(self, name: str | None) -> dict[Keys, str]:
        """What each column holds, which is text; none in an empty file.

        Raises:
            InputError: where the first row is no header, unless it holds `name`, the column that is asked for.
        """
        with self.place.open() as file:
            try:
                header = _header(self._rows(file))
            except csv.Error as error:
                raise self._no_row(error) from None
            self.place.number = self.place.locate() if self.place.locate else self.place.number
            self.place.locate = None
        if not self.comma and header and all(map(QUOTED.fullmatch, header)):
            raise self._is_csv()
        if any(RETURN in field for field in header):
            raise self.place.mistake("has line ends of \\r alone; convert the file, for example with tr '\\r' '\\n'")
        if header.count(name or "text") > 1:
            raise self.place.mistake(f"names the column {name or 'text'} twice; give each column a name of its own")
        if not header or (name or "text") in header:
            return {(field,): TEXT for field in header}
        if name is None:
            text = next(filter(looks_like_text, header), None)
            if text is not None:
                raise self.place.mistake(
                    f"must name the columns, and holds {text[:40]!r}, which looks like a text; put a header before "
                    "it, or choose a column with --text_column_name if it is one"
                )
            if len(header) == 1 and any(delimiter in header[0] for delimiter in DELIMITERS):
                raise self.place.mistake(f"is {header[0][:40]!r}, without a tab in it; rename the file to .csv")
        return {(field,): TEXT for field in header}

    def values(self, columns: Sequence[Keys]) -> Iterator[Sequence[Any]]:
        """The fields of each row in some columns.

        Raises:
            InputError: naming the line of a row with more or fewer fields than the header has.
        """
        with self.place.open() as file:
            rows = self._rows(file)
            header = _header(rows)
            indices = [header.index(keys[0]) for keys in columns] if header else []
            width, first = len(header), indices[0] if len(indices) == 1 else None
            try:
                for row in rows:
                    if len(row) != width:
                        if row in ([], [""]):  # an empty line is a blank text where texts are all there is
                            if width == 1:
                                yield ("",)
                            continue
                        raise self._wrong_width(row, width)
                    if self._returns:
                        row = [field.replace(RETURN, "\r") for field in row]
                    yield (row[first],) if first is not None else [row[index] for index in indices]
            except csv.Error as error:
                raise self._no_row(error) from None

    def _wrong_width(self, row: list[str], width: int) -> InputError:
        found, last = len(row), self.place.locate() if self.place.locate else self.place.number
        more = "quote the fields that hold the separator" if self.comma else "a tab separates fields"
        otherwise = "" if self.comma else ", and rename the file to .csv if its fields are quoted"
        return self.place.mistake(
            f"has {found} field{'s' * (found != 1)} where the header has {width}; {more}{otherwise}",
            last - sum(field.count("\n") for field in row),
        )

    def _rows(self, file: IO[bytes]) -> Iterator[list[str]]:
        return self._csv(file) if self.comma else self._tsv(file)

    def _csv(self, file: IO[bytes]) -> Iterator[list[str]]:
        csv.field_size_limit(LARGEST)
        source = self._csv_lines(file)
        empty, first = 0, next(source, "")
        while first and first.isspace():
            empty, first = empty + 1, next(source, "")
        reader = csv.reader(chain([first], source), delimiter=_delimiter(first), strict=True)
        self.place.locate = lambda: empty + reader.line_num
        return reader

    def _csv_lines(self, file: IO[bytes]) -> Iterator[str]:
        """The lines with their ends, since a field may hold some."""
        for line in decoded(file):
            if "\r" in line:
                content = line.removesuffix("\n").removesuffix("\r")
                if "\r" in content:
                    self._returns = True
                    line = content.replace("\r", RETURN) + line[len(content) :]
            yield line

    def _no_row(self, error: csv.Error) -> InputError:
        """The error of what is no row of CSV, which names its first line: the file is read again to find that."""
        with self.place.open() as file:
            rows = self._csv(file)
            line = 0
            try:
                for _ in rows:
                    line = self.place.locate() if self.place.locate else 0
            except csv.Error:
                pass
        return self.place.mistake(
            f'is no row of CSV ({error}); write a field that holds a quotation mark as "a ""b"" c"', line + 1
        )

    def _tsv(self, file: IO[bytes]) -> Iterator[list[str]]:
        """The rows; at the end of the file it is known whether every quotation mark is one of CSV."""
        some_quoted = some_not = False
        place = self.place
        for line in lines(file, place):
            row = line.split("\t")
            if not some_not and '"' in line:
                starts = [field for field in row if field.startswith('"')]
                some_not = not all(map(QUOTED.fullmatch, starts))
                some_quoted = some_quoted or bool(starts)
            yield row
        if some_quoted and not some_not:
            raise self._is_csv()

    def _is_csv(self) -> InputError:
        return InputError(
            f"{self.place.flag}: {self.place.path}: every field that begins with a quotation mark is quoted as in "
            "CSV, and in TSV quotation marks are part of the text; rename it to .csv"
        )


def _header(rows: Iterator[list[str]]) -> list[str]:
    """The first row, where empty lines may stand before it; empty in an empty file."""
    return next((row for row in rows if row not in ([], [""])), [])


def _delimiter(header: str) -> str:
    """What separates the fields of a header: a comma, or where it has none, the one that makes most fields."""
    widths = {}
    for delimiter in DELIMITERS:
        try:
            widths[delimiter] = len(next(csv.reader([header], delimiter=delimiter, strict=True), []))
        except csv.Error:  # a quoted name goes on in the next line, or another separator stands behind it
            continue
    if widths.get(",", 0) > 1 or not widths:
        return ","
    return max(widths, key=lambda delimiter: widths[delimiter])
