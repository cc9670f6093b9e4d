"""JSON: an object to a line, an array of objects, or an object that holds a list of objects.

Lines are parsed one by one. Whatever does not stand on lines is parsed value by value as it is read, so that a
document of any size takes the memory of one of its elements. (ijson 3.6, made for this, ends the whole process on a
number of 5,000 digits, and reads an escaped half of a surrogate pair as a question mark.)
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from wordmask.utils.errors import InputError
from wordmask.utils.readers.columns import NOTHING, NUMBERS, Keys, observe, summarized, values_at
from wordmask.utils.readers.place import Place, decoded

SAMPLE = 1000  # rows in which columns are looked for
CHUNK = 2**20  # bytes
SPACE = " \t\r\n"


def _int(digits: str) -> int | float:
    """Any number: Python makes an integer of no more than 4,300 digits."""
    return int(digits) if len(digits) < 4000 else float(digits)


DECODER, ANY_NUMBER = json.JSONDecoder(), json.JSONDecoder(parse_int=_int)


class JsonFile:
    """A table of objects; a field that an object lacks is blank.

    Args:
        place: the file.
    """

    def __init__(self, place: Place):
        self.place = place
        self.is_document = False

    def columns(self, name: str | None) -> dict[Keys, str]:
        """What each field holds, by the first rows; by all of them where the field `name` is in none of these."""
        kinds: dict[Keys, set[str]] = {}
        count = 0
        for count, row in enumerate(self._observed_rows(), 1):
            observe(row, kinds)
            if count % SAMPLE == 0:
                known = any(".".join(keys) == name and seen - {NUMBERS, NOTHING} for keys, seen in kinds.items())
                if known if name is not None else not self.is_document:
                    break
        self.is_document = self.is_document or count == 1
        return summarized(kinds)

    def values(self, columns: Sequence[Keys]) -> Iterator[Sequence[Any]]:
        """What each row holds in some columns, `None` where it lacks one.

        Raises:
            InputError: naming the line of what is no JSON or no object, or where no row has the first column.
        """
        first, some_row, found = columns[0], False, False
        key = first[0] if len(columns) == len(first) == 1 else None
        for row in self._rows(first[0] if len(columns) == 1 else None):
            some_row = True
            if not found:
                found = first[0] in row
            yield (row.get(key),) if key is not None else [values_at(row, keys) for keys in columns]
        if some_row and not found:
            raise InputError(
                f"--text_column_name: {self.place.path} has no column {'.'.join(first)} in any of its rows"
            )

    def _layout(self) -> str:
        """`lines`, `array`, or `values`, which is anything else that may be JSON."""
        with self.place.open() as file:
            head = file.read(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
        if head.startswith(b"["):
            return "array"
        line, end, _ = head.partition(b"\n")
        try:
            DECODER.decode(line.decode("utf-8"))
        except json.JSONDecodeError:
            return "lines" if end and line.rstrip().endswith(b"}") else "values"
        except (ValueError, RecursionError):
            pass  # whatever it is, the line is known when it is read
        return "lines"

    def _rows(self, key: str | None) -> Iterator[dict[str, Any]]:
        """The objects; where `key` holds a list in a document, an object for each of its elements."""
        layout = self._layout()
        with self.place.open() as file:
            if layout == "lines":
                yield from self._lines(file)
                return
            document = _Document(file, self.place)
            if layout == "array":
                for row in document.elements():
                    yield self._object(row)
                document.end()
            elif key is None:
                while document.peek():
                    yield self._object(document.value())
            else:
                while document.peek():
                    yield from document.fields(key)

    def _observed_rows(self) -> Iterator[dict[str, Any]]:
        """Rows to find the columns in; of a document, one field at a time."""
        layout = self._layout()
        if layout != "values":
            yield from self._rows(None)
            return
        self.is_document = True  # as long as no second object is met
        with self.place.open() as file:
            document = _Document(file, self.place)
            yield from document.fields(None)
            self.is_document = not document.peek()
            while document.peek():
                yield self._object(document.value())

    def _lines(self, file: IO[bytes]) -> Iterator[dict[str, Any]]:
        place = self.place
        for place.number, line in enumerate(decoded(file), 1):
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise place.mistake(f"is not JSON ({error.msg} at column {error.colno}); fix the line") from None
            except ValueError:
                row = ANY_NUMBER.decode(line)
            except RecursionError:
                raise _too_deep(place) from None
            yield row if type(row) is dict else self._object(row)

    def _object(self, row: Any) -> dict[str, Any]:
        if type(row) is not dict:
            raise self.place.mistake(
                f'holds {json.dumps(row)[:40]}, not an object with named fields; write each text as {{"text": "..."}}'
            )
        return row


def _too_deep(place: Place) -> InputError:
    return place.mistake("is JSON nested too deep to be read; drop the field that is")


class _Document:
    """JSON that is parsed as it is read.

    Args:
        file, place: the file.
    """

    def __init__(self, file: IO[bytes], place: Place):
        self.file, self.place = file, place
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.buffer, self.at = "", 0  # what is read, of which what lies before `at` is done with
        self.lines = 1  # the number of the line in which the buffer begins
        self.whole = False
        place.locate = self._line

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            buffer, at = self.buffer, self.at
            while at < len(buffer) and buffer[at] in SPACE:
                at += 1
            self.at = at
            if at < len(buffer):
                return buffer[at]
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        """Pass over this character, which must come next."""
        if self.peek() != character:
            raise self._mistake(f"{character!r} is missing", self.at)
        self.at += 1

    def value(self) -> Any:
        """The next value, which is held as a whole."""
        if not self.peek():
            raise self._mistake("it ends too early", self.at)
        while True:
            try:
                value, end = self._decode()
            except json.JSONDecodeError as error:
                # What is not yet read may complete a string, a word such as `false`, or a structure.
                unfinished = error.msg.startswith("Unterminated") or error.pos > len(self.buffer) - 12
                if not (unfinished and self._more()):
                    raise self._mistake(error.msg, min(error.pos, len(self.buffer))) from None
                continue
            if end == len(self.buffer) and self._more():  # a number may go on
                continue
            self.at = end
            return value

    def _decode(self) -> tuple[Any, int]:
        try:
            return DECODER.raw_decode(self.buffer, self.at)
        except json.JSONDecodeError:
            raise
        except ValueError:
            return ANY_NUMBER.raw_decode(self.buffer, self.at)
        except RecursionError:
            raise _too_deep(self.place) from None

    def elements(self) -> Iterator[Any]:
        """The elements of the array that comes next."""
        yield from self._members("[", "]", self.value)

    def fields(self, key: str | None) -> Iterator[dict[str, Any]]:
        """The object that comes next, as an object for each of its fields, and for each element of a list in it.

        Args:
            key: the only field that is wanted, of which an element stands for itself; an empty object where it is
                missing. If `None`, every field, with an element as a list of one.
        """
        found = False
        for field in self._members("{", "}", self._name):
            wanted = key is None or field == key
            found = found or wanted
            if self.peek() != "[":
                value = self.value()
                if wanted:
                    yield {field: value}
                continue
            for element in self.elements():
                if wanted:
                    yield {field: element if key is not None else [element]}
            if key is None:
                yield {field: []}
        if not found and key is not None:
            yield {}

    def _name(self) -> str:
        """The name of a field, with the colon behind it."""
        if self.peek() != '"':
            raise self._mistake("a name in quotation marks is missing", self.at)
        name = self.value()
        self.take(":")
        return name

    def _members(self, begin: str, end: str, read: Callable[[], Any]) -> Iterator[Any]:
        """What stands between two brackets, with commas between."""
        self.take(begin)
        if self.peek() != end:
            yield read()
            while self.peek() != end:
                self.take(",")
                yield read()
        self.take(end)

    def end(self) -> None:
        """Raise an `InputError` where something stands behind what was read."""
        if self.peek():
            raise self._mistake("something stands behind the array", self.at)

    def _more(self) -> bool:
        """Read on, as much again as waits to be parsed; `False` at the end."""
        if self.whole:
            return False
        self.lines += self.buffer.count("\n", 0, self.at)
        self.buffer, self.at = self.buffer[self.at :], 0
        encoded = self.file.read(max(CHUNK, len(self.buffer)))
        self.whole = not encoded
        self.buffer += self.decoder.decode(encoded, final=self.whole)
        return True

    def _line(self, position: int | None = None) -> int:
        """The number of the line of a place in the buffer, by default the next one to be parsed."""
        return self.lines + self.buffer.count("\n", 0, self.at if position is None else position)

    def _mistake(self, what: str, position: int) -> InputError:
        return self.place.mistake(f"is not JSON ({what}); fix the file", self._line(position))
