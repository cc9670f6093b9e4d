"""Which column of a table is its text. We choose it once for all files of a flag, before we read any of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from wordmask.utils.errors import InputError
from wordmask.utils.quantities import first_of_many

Keys = tuple[str, ...]  # the way to a column, from outside to inside: ("review", "body")


class Kind(StrEnum):
    """What a column holds. Parquet may have other kinds, too."""

    TEXT = "text"
    TEXTS = "lists of texts"
    OBJECTS = "lists of objects"
    OBJECT = "objects"
    LISTS = "lists"
    NUMBERS = "numbers"
    BYTES = "bytes"
    NOTHING = "nothing"


READABLE = (Kind.TEXT, Kind.TEXTS, Kind.BYTES, Kind.NOTHING)  # if the user names the column; otherwise only text
# What a list holds, by what its elements hold.
LISTS_OF: dict[tuple[str, ...], Kind] = {(): Kind.NOTHING, (Kind.TEXT,): Kind.TEXTS, (Kind.OBJECT,): Kind.OBJECTS}
REFERENCES = "chinese_ref"
MAX_DEPTH = 16  # of columns inside each other
SHOWN = 20  # columns that a sentence lists, and elements of a list that we look at
# Names of columns that are hardly the text, such as `id`, `news_id` and `page-url`. We read them only by name.
IDENTIFIER = re.compile(r"(^|[_\W])(id|uuid|guid|key|hash|url|uri)$", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """The text column of a table.

    Attributes:
        keys: the way to it.
        references: whether the table has a column `chinese_ref`, too.
        lists: whether each string of a list in it is a text. The user must ask for this: by the name of the column.
    """

    keys: Keys
    references: bool = False
    lists: bool = True

    def __str__(self) -> str:
        return ".".join(self.keys)

    @property
    def is_only(self) -> bool:
        """Whether we chose the column as the only one with text."""
        return not self.lists and self.keys != ("text",)


class TableColumns(NamedTuple):
    """The columns of one table.

    Attributes:
        source: the name of the table.
        kinds: what each column holds.
        is_document: whether the table is a single object. Then a list of objects in it may be the table.
    """

    source: str
    kinds: dict[Keys, str]
    is_document: bool = False


def observe(row: Mapping[str, Any], seen: dict[Keys, set[str]], above: Keys = ()) -> None:
    """Add what the fields of an object hold. The fields of objects in a list count as fields of the list.

    Args:
        row: the object.
        seen: for each field, what it was seen to hold.
        above: the way to the object.
    """
    for name, value in row.items():
        keys = (*above, name)
        seen.setdefault(keys, set()).add(kind_of_value(value))
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and len(keys) < MAX_DEPTH:
                observe(item, seen, keys)


def kind_of_value(value: Any) -> str:
    """What a value of JSON is."""
    if isinstance(value, list):
        return LISTS_OF.get(tuple({kind_of_value(item) for item in value[:SHOWN]} - {Kind.NOTHING}), Kind.LISTS)
    return {str: Kind.TEXT, dict: Kind.OBJECT, type(None): Kind.NOTHING}.get(type(value), Kind.NUMBERS)


def summarized(seen: Mapping[Keys, set[str]]) -> dict[Keys, str]:
    """What each column holds, by all of its values: text as soon as one value is text."""
    return {keys: next(kind for kind in Kind if kind in kinds) for keys, kinds in seen.items()}


def choose(tables: Sequence[TableColumns], name: str | None, flag: str) -> Column:
    """The text column of some tables.

    Args:
        tables: the columns of each.
        name: `--text_column_name`.
        flag: the flag that names the tables.

    Raises:
        InputError: if the column does not exist or does not hold text, or if no column or several could be the text.
    """
    tables = [table for table in tables if table.kinds] or tables
    keys = _named(tables, name) if name is not None else _only_text(tables, flag)
    column = Column(keys, any((REFERENCES,) in table.kinds for table in tables), name is not None or len(keys) > 1)
    for source, kinds, _ in tables:
        kind = kinds.get(keys)
        if kind is None:
            where, as_others = (flag, ", as another file has") if name is None else ("--text_column_name", "")
            raise InputError(f"{where}: {source} has no column {column}{as_others}, but {listed(kinds)}")
        if kind not in (READABLE if name is not None else (Kind.TEXT, Kind.NOTHING)):
            others = listed(kinds, keys)
            advice = [f"give --text_column_name {column} to read it"] if kind in READABLE else []
            advice += [f"choose another column; there is {others}"] if others else []
            raise InputError(
                f"{flag if name is None else '--text_column_name'}: column {column} of {source} holds {kind}, not "
                f"text; {', or '.join(advice) or 'there is no other column, so give a file with text'}"
            )
        if column.references and (REFERENCES,) not in kinds:
            raise InputError(f"{flag}: {source} has no column {REFERENCES}, but other files do; add it")
    return column


def _named(tables: Sequence[TableColumns], name: str) -> Keys:
    """The way to a column of this name: `a.b` is the column `a.b`, or else the field `b` of `a`."""
    ways = {keys for table in tables for keys in table.kinds if ".".join(keys) == name}
    return min(ways, key=len, default=(name,))


def _only_text(tables: Sequence[TableColumns], flag: str) -> Keys:
    """The column `text`, or the only one that could be the text."""
    candidates: dict[Keys, set[str]] = {}
    for _, kinds, is_document in tables:
        if ("text",) in kinds:
            return ("text",)
        for keys, kind in kinds.items():
            in_list = is_document and any(kinds.get(keys[:depth]) == Kind.OBJECTS for depth in range(1, len(keys)))
            if kind in (Kind.TEXT, Kind.TEXTS) and (len(keys) == 1 or in_list) and keys != (REFERENCES,):
                candidates.setdefault(keys, set()).add(kind)
    source, kinds, is_document = tables[0]
    numbered = [keys for keys in kinds if len(keys) > 1 and keys[-1].isdecimal()]
    if is_document and not candidates and len(numbered) > SHOWN:
        raise InputError(
            f"{flag}: {source} is one object with a text for each number, as pandas writes it; write rows, with "
            'to_json(..., orient="records")'
        )
    if not kinds:
        raise InputError(f"{flag}: {source} has no text in it; give a file with one text in each row")
    if len(candidates) > 1:
        what, choices = "several columns that could be the text", names_of(candidates)
    else:
        for keys, found in candidates.items():
            if Kind.TEXT in found and not IDENTIFIER.search(keys[-1]):
                return keys
        what, choices = "no column that is clearly the text", listed(kinds)
    raise InputError(f"{flag}: {source} has {what}; choose one with --text_column_name: {choices}")


def names_of(columns: Iterable[Keys]) -> str:
    """The names of columns, for a sentence; the first ones of many."""
    return first_of_many([".".join(keys) or "(a column without a name)" for keys in columns], SHOWN)


def listed(kinds: Mapping[Keys, str], but: Keys | None = None) -> str:
    """The columns to choose from: those that we can read, or else all; empty if there is none."""
    others = [keys for keys in kinds if keys != but]
    return names_of([keys for keys in others if kinds[keys] in READABLE] or others)


def values_at(node: Any, keys: Sequence[str]) -> Any:
    """What is at the end of a way: `None` if nothing, a list of what is there if the way goes through lists.

    {"a": [{"b": 1}, {"b": 2}]} has [1, 2] at ("a", "b").
    """
    for depth, key in enumerate(keys):
        if isinstance(node, list):
            return [values_at(item, keys[depth:]) for item in node]
        if not isinstance(node, dict):
            return None
        node = node.get(key)
    return node


def flattened(values: Iterable[Any]) -> Iterator[Any]:
    """The elements of a list and of all lists inside it, one by one."""
    for value in values:
        if isinstance(value, list):
            yield from flattened(value)
        else:
            yield value


# A single word with a mark at its end may be a name, such as `Fall-Nr.`.
_SENTENCE = re.compile(r"\s.*[.!?:;,…][\"'”’)»]*$|[\n\r]|[。！？，；：]")
_HAN_RUN = re.compile("[\u3400-\u9fff]{7}")
_NUMBER = re.compile(r"[+-]*\d(\S*\d)?")


def looks_like_text(name: str) -> bool:
    """Whether a field of the first row looks like a text or a number, so that the table may lack a header."""
    name = name.strip()
    long = len(name) > 80 or len(name.split()) > 3
    return bool(long or _NUMBER.fullmatch(name) or _SENTENCE.search(name) or _HAN_RUN.search(name))
