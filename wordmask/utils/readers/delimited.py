"""CSV and TSV. In CSV, quotation marks hold a field together. In TSV, they are characters like any other."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import IO

from wordmask.utils.errors import InputError
from wordmask.utils.quantities import counted
from wordmask.utils.readers.columns import REFERENCES, Column, Keys, Kind, looks_like_text, names_of
from wordmask.utils.readers.open_file import ONLY_RETURNS, OpenFile, lines, lines_with_ends

DELIMITERS = (",", ";", "\t", "|")  # the first rows show which one is used
DECLARED = re.compile(r'"?sep=(.)"?\s*')  # a line before the header that Excel reads, and may write
HEAD, ROWS = 2**20, 20  # characters that are searched for the first rows, and rows that are compared
LARGEST_FIELD = 2**31 - 1  # characters; Python's own limit is 131,072
# Python's reader ends a row at a lone `\r` in a field without quotation marks. So we give it a character in place of
# `\r` that UTF-8 cannot hold, which no text has. `a\rb\r\n` becomes `a\udc0db\r\n`.
LONE_RETURN = re.compile(r"\r(?!\n|\Z)")
IN_PLACE_OF_RETURN = "\udc0d"
QUOTED = re.compile('"(?:[^"]|"")*"', re.DOTALL)
EMPTY_LINE: tuple[list[str], ...] = ([], [""])  # in CSV, in TSV


class DelimitedFile:
    """A table. Its first row names the columns, and every row has as many fields.

    Args:
        file: the file.
        comma: whether it is CSV; if not, it is TSV.
    """

    is_document = False

    def __init__(self, file: OpenFile, comma: bool):
        self.file, self.comma = file, comma

    def columns(self, name: str | None) -> dict[Keys, str]:
        """What each column holds, which is text. There is no column in an empty file.

        Raises:
            InputError: if the first row is not a header. A row that contains `name` is one.
        """
        with self._open() as rows:
            header = _header(rows)
        if not self.comma and header and all(map(QUOTED.fullmatch, header)):
            raise self._is_csv()
        if any(IN_PLACE_OF_RETURN in field for field in header):
            raise self.file.mistake(ONLY_RETURNS)
        others = {*header} - {REFERENCES}
        chosen = name or (others.pop() if len(others) == 1 else "text")
        if doubled := next((column for column in (chosen, REFERENCES) if header.count(column) > 1), None):
            raise self.file.mistake(f"names the column {doubled} twice; give each column its own name")
        if name is None and "text" not in header:
            if text := next(filter(looks_like_text, header), None):
                raise self.file.mistake(
                    f"must name the columns, but {text[:40]!r} looks like a text; if this line is the header, choose "
                    f"its column with --text_column_name: {names_of((field[:40],) for field in header)}; if not, add "
                    "a header before it"
                )
            if not self.comma and len(header) == 1 and any(mark in header[0] for mark in DELIMITERS):
                raise self.file.mistake(f"is {header[0][:40]!r}, without a tab in it; rename the file to .csv")
        return {(field,): Kind.TEXT for field in header}

    def rows(self, column: Column) -> Iterator[tuple[str, str | None]]:
        """The text and the reference of each row, see `Table`.

        Raises:
            InputError: naming the line of a row with more or fewer fields than the header has.
        """
        with self._open() as rows:
            header = _header(rows)
            width, text = len(header), header.index(column.keys[0]) if header else 0
            reference = header.index(REFERENCES) if column.references and header else None
            for row in rows:
                if len(row) == width:
                    yield row[text].replace(IN_PLACE_OF_RETURN, "\r"), None if reference is None else row[reference]
                elif row not in EMPTY_LINE:
                    advice = (
                        "quote fields that hold the separator"
                        if self.comma
                        else "rename the file to .csv if its fields are quoted"
                    )
                    raise self.file.mistake(
                        f"has {counted(len(row), 'field')} where the header has {width}; {advice}",
                        self.file.line_of_parser() - "".join(row).count("\n"),  # the first line of the row
                    )
                elif width == 1:
                    yield "", None  # an empty line is a blank text if there is no other column

    @contextlib.contextmanager
    def _open(self) -> Iterator[Iterator[list[str]]]:
        """Open the file and give its rows."""
        with self.file.open() as content:
            try:
                yield self._csv_rows(content) if self.comma else self._tsv_rows(content)
            except csv.Error as error:
                raise self.file.mistake(
                    f'is no row of CSV ({error}); write a field that contains a quotation mark as "a ""b"" c"',
                    self._line_of_mistake(),
                ) from None

    def _csv_rows(self, content: IO[bytes]) -> Iterator[list[str]]:
        csv.field_size_limit(LARGEST_FIELD)
        text = lines_with_ends(content)
        source = (_marked(line) if -1 < line.find("\r") < len(line) - 2 else line for line in text)
        numbered = ((number, line) for number, line in enumerate(source) if not line.isspace())
        lines_before, first = next(numbered, (0, ""))
        if declared := DECLARED.fullmatch(first):
            lines_before, first = next(numbered, (0, ""))
        head = _lines_of(chain([first], source), HEAD)
        delimiter = declared[1] if declared else _delimiter(head)
        reader = csv.reader(chain(head, source), delimiter=delimiter, strict=True)
        self.file.line_of_parser = lambda: lines_before + reader.line_num
        return reader

    def _line_of_mistake(self) -> int:
        """The first line of what is no row of CSV. We read the file again, because a row may have many lines."""
        line = 0
        with contextlib.suppress(csv.Error), self.file.open() as content:
            for _ in self._csv_rows(content):
                line = self.file.line_of_parser()
        return line + 1

    def _tsv_rows(self, content: IO[bytes]) -> Iterator[list[str]]:
        """The rows. An error at the end of the file if quotation marks hold fields together, as in CSV."""
        quoted: set[bool] = set()  # whether fields that begin with a quotation mark are quoted as in CSV
        for line in lines(content, self.file):
            row = line.split("\t")
            if '"' in line and False not in quoted:
                quoted |= {bool(QUOTED.fullmatch(field)) for field in row if field.startswith('"')}
            yield row
        if quoted == {True}:
            raise self._is_csv()

    def _is_csv(self) -> InputError:
        return InputError(
            f"{self.file.flag}: {self.file.path}: every field that begins with a quotation mark is quoted as in "
            "CSV, and in TSV quotation marks are part of the text; rename it to .csv"
        )


def _marked(line: str) -> str:
    return LONE_RETURN.sub(IN_PLACE_OF_RETURN, line)


def _header(rows: Iterator[list[str]]) -> list[str]:
    """The first row, after empty lines; empty in an empty file."""
    return next((row for row in rows if row not in EMPTY_LINE), [])


def _lines_of(lines: Iterator[str], characters: int) -> list[str]:
    """The next lines, until they have so many characters."""
    taken, size = list[str](), 0
    for line in lines:
        taken.append(line)
        size += len(line)
        if size >= characters:
            break
    return taken


def _delimiter(head: Sequence[str]) -> str:
    """What separates the fields in the first lines of a file.

    It gives all rows as many fields as the header. If several do, it is the comma, or else what makes the most fields.
    `id;Age, years;text` above `7;45;a, b` and `8;46;c` has 2, 2 and 1 fields by commas, 3, 3 and 3 by semicolons. If
    none does, the header decides in the same way.
    """
    rows = {delimiter: _rows(head, delimiter) for delimiter in DELIMITERS}
    widths = {delimiter: len(found[0]) if found else 0 for delimiter, found in rows.items()}
    several = [delimiter for delimiter in DELIMITERS if widths[delimiter] > 1]
    # A quotation mark within a name: its field ends at another delimiter, `id;"Age, years"`.
    fitting = [
        one for one in several if len({*map(len, rows[one])}) == 1 and not any('"' in name for name in rows[one][0])
    ]
    candidates = fitting or several or DELIMITERS
    return "," if "," in candidates else max(candidates, key=widths.__getitem__)


def _rows(head: Sequence[str], delimiter: str) -> list[list[str]]:
    """The first rows that are not empty by this delimiter; a row without fields where there is a mistake."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(head, delimiter=delimiter, strict=True):
            if any(field.strip() for field in row):
                rows.append(row)
            if len(rows) == ROWS:
                break
    except csv.Error as error:
        if str(error) != "unexpected end of data":  # of a row that goes on behind these lines
            rows.append([])
    return rows
