"""JSON: one object on each line, an array of objects, or an object that holds a list of objects.

We parse value by value while we read. An object of more than 1 MiB is read field by field, and a list in it element
by element. So a document of any size takes the memory of one of its elements. (ijson 3.6, made for this, ends the
whole process at a number of 5,000 digits, and reads half of a surrogate pair as a question mark.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from wordmask.utils.errors import InputError
from wordmask.utils.readers.columns import (
    REFERENCES,
    Column,
    Keys,
    Kind,
    kind_of_value,
    names_of,
    observe,
    summarized,
    values_at,
)
from wordmask.utils.readers.open_file import OpenFile, lines_with_ends

SAMPLE = 1000  # rows that show which columns there are; more if they do not show what the text column holds
CHUNK = 2**20  # characters that are read at once; a longer object is read field by field
TEXTUAL = (str, list)  # what a text or texts are in Python
VISIBLE = re.compile(r"\S")
TOO_LONG = object()  # stands for an object of more than CHUNK characters


def _number(digits: str) -> int | float:
    """A whole number of any length. Python makes an integer of at most 4,300 digits, or of 640 if it is told so."""
    return int(digits) if len(digits) <= 640 else float(digits)


DECODER, DECODER_OF_LONG_NUMBERS = json.JSONDecoder(), json.JSONDecoder(parse_int=_number)


class JsonFile:
    """A table of objects. A field that an object does not have is blank.

    Args:
        file: the file.
    """

    def __init__(self, file: OpenFile):
        self.file = file
        self.is_document = False

    def columns(self, name: str | None) -> dict[Keys, str]:
        """What each field holds, by the first rows. Of a document we look at all rows, to find the list of texts."""
        kinds: dict[Keys, set[str]] = {}
        for count, row in enumerate(self._objects(), 1):
            observe(row, kinds)
            if count % SAMPLE == 0 and not (name is None and self.is_document) and _show_text(kinds, name):
                break
        return summarized(kinds)

    def rows(self, column: Column) -> Iterator[tuple[Any, Any]]:
        """The value in the text column and the reference of each row, see `Table`.

        Raises:
            InputError: naming the line of what is not JSON, or not an object, or of a text in another column if this
                one was chosen as the only one with text.
        """
        (name, *inner), is_only = column.keys, column.is_only
        for row in self._objects(name, whole=column.references):
            if is_only and len(row) > (name in row):
                self._check_others(row, name)
            yield values_at(row.get(name), inner) if inner else row.get(name), row.get(REFERENCES)

    def _check_others(self, row: dict[str, Any], name: str) -> None:
        """Raise an `InputError` if another field than `name` has text. The first rows did not show that."""
        for other, value in row.items():
            may_be_text = isinstance(value, TEXTUAL) and other not in (name, REFERENCES)
            if may_be_text and kind_of_value(value) in (Kind.TEXT, Kind.TEXTS):
                raise self.file.mistake(
                    f"has text in column {other}, too, which the first {SAMPLE:,} rows do not have; choose one with "
                    f"--text_column_name: {names_of([(name,), (other,)])}"
                )

    def _objects(self, wanted: str | None = None, whole: bool = False) -> Iterator[dict[str, Any]]:
        """The objects. If one is too long, a row for each of its fields, and for each element of a list in it.

        Args:
            wanted: the only field of long objects that is needed; all if `None`.
            whole: whether long objects are read as one row, too.
        """
        with self.file.open() as content:
            parser = _Parser(content, self.file)
            items: Iterator[object] = parser.items("[", "]") if parser.peek() == "[" else iter(parser.peek, "")
            for index, _ in enumerate(items):
                self.is_document = index == 0
                row = parser.value(short=not whole)
                if row is TOO_LONG:
                    yield from parser.fields(wanted)
                elif isinstance(row, dict):
                    yield row
                else:
                    raise self.file.mistake(
                        f"holds {json.dumps(row)[:40]}, not an object with named fields; write each text as "
                        '{"text": "..."}'
                    )
            if parser.peek():
                raise parser.mistake("something stands behind the array")


def _show_text(kinds: Mapping[Keys, set[str]], name: str | None) -> bool:
    """Whether some rows show what the text column holds: `name`, or else `text`, or else any field with text."""
    named = [seen for keys, seen in kinds.items() if ".".join(keys) == (name or "text")]
    if named or name is not None:
        return any(seen - {Kind.NUMBERS, Kind.NOTHING} for seen in named)
    return any(seen & {Kind.TEXT, Kind.TEXTS} for keys, seen in kinds.items() if len(keys) == 1)


class _Parser:
    """Parses JSON while it is read.

    Args:
        content, file: the file.
    """

    def __init__(self, content: IO[bytes], file: OpenFile):
        self.text, self.file = lines_with_ends(content), file
        self.buffer, self.at = "", 0  # what was read, and the index of the first character that is not parsed yet
        self.line = 1  # the number of the line in which the buffer begins
        file.line_of_parser = self._line_at

    def peek(self) -> str:
        """Pass over white space and return the next character; empty at the end of the file."""
        if self.at < len(self.buffer) and self.buffer[self.at] > " ":
            return self.buffer[self.at]
        while not (visible := VISIBLE.search(self.buffer, self.at)):
            self.at = len(self.buffer)
            if not self._read():
                return ""
        self.at = visible.start()
        return visible[0]

    def take(self, character: str) -> None:
        """Pass over this character, which must come next."""
        if self.peek() != character:
            raise self.mistake(f"{character!r} is missing")
        self.at += 1

    def items(self, begin: str, end: str) -> Iterator[None]:
        """Stop before each item between two brackets. The caller must parse the item."""
        self.take(begin)
        if self.peek() != end:
            yield
            while self.peek() == ",":
                self.at += 1
                self.peek()
                yield
        self.take(end)

    def value(self, short: bool = False) -> Any:
        """The value that begins here; `TOO_LONG` if it must be `short` and is an object that is not."""
        decoder = DECODER
        while True:
            try:
                value, end = decoder.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                # The rest of the file may complete a string, a word such as `false`, or a structure.
                unfinished = error.msg.startswith("Unterminated") or error.pos > len(self.buffer) - 12
                if unfinished and short and len(self.buffer) - self.at > CHUNK and self.buffer[self.at] == "{":
                    return TOO_LONG
                if not (unfinished and self._read()):
                    raise self.mistake(error.msg, error.pos) from None
            except ValueError:
                decoder = DECODER_OF_LONG_NUMBERS
            except RecursionError:
                raise self.file.mistake("is JSON that is nested too deep; remove the field that is") from None
            else:
                if end < len(self.buffer) or not self._read():  # a number at the end of the buffer may go on
                    self.at = end
                    return value

    def fields(self, wanted: str | None) -> Iterator[dict[str, Any]]:
        """The object that comes next, as one object for each field. A list becomes several lists of one element.

        Args:
            wanted: the only field to return, or an empty object if it is missing; all fields if `None`.
        """
        missing = wanted is not None
        for _ in self.items("{", "}"):
            if self.peek() != '"':
                raise self.mistake("a name in quotation marks is missing")
            name = self.value()
            self.take(":")
            is_list = self.peek() == "["
            for _ in self.items("[", "]") if is_list else [None]:
                value = self.value()
                if wanted in (None, name):
                    yield {name: [value] if is_list else value}
            missing = missing and name != wanted
        if missing:
            yield {}

    def _read(self) -> bool:
        """Read on: as many characters again as wait to be parsed, at least `CHUNK`. `False` at the end of the file."""
        rest = self.buffer[self.at :]
        more = self.text.read(max(CHUNK, len(rest)))
        if more:
            self.line, self.buffer, self.at = self._line_at(), rest + more, 0
        return bool(more)

    def _line_at(self, index: int | None = None) -> int:
        """The number of the line of an index in the buffer; if `None`, of what is parsed next."""
        return self.line + self.buffer.count("\n", 0, self.at if index is None else index)

    def mistake(self, what: str, index: int | None = None) -> InputError:
        """The error for what is not JSON at an index in the buffer; if `None`, at what is parsed next."""
        index = self.at if index is None else index
        if what.startswith("Expecting ','"):  # the end of a line is missing, so the next line cannot go on
            index = len(self.buffer[:index].rstrip())
        near = self.buffer[max(0, index - 10) : index + 10]
        return self.file.mistake(f"is not JSON ({what} near {near!r}); fix the file", self._line_at(index))
