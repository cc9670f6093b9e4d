"""Which column of a table is its text: found once for all files of a flag, before any of them is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wordmask.utils.errors import InputError

Keys = tuple[str, ...]  # the way to a column from the outside to the inside: ("review", "body")

# What a column holds. Only TEXT is taken without being asked for; the first three are read where they are named.
TEXT, TEXTS, BYTES, NOTHING = "text", "lists of texts", "bytes", "nothing"
OBJECT, OBJECTS, NUMBERS = "objects", "lists of objects", "numbers"
READABLE = (TEXT, TEXTS, BYTES, NOTHING)
REFERENCES = "chinese_ref"
DEPTH = 16  # levels of nesting that a column may lie in
SHOWN = 20  # columns that a sentence lists


@dataclass(frozen=True)
class Column:
    """The text column of a table.

    Attributes:
        keys: the way to it.
        references: whether a column `chinese_ref` stands beside it.
        lists: whether a list in it gives a text for each string, which must be asked for by naming the column.
    """

    keys: Keys
    references: bool = False
    lists: bool = True

    def __str__(self) -> str:
        return ".".join(self.keys)


def observe(row: Mapping[str, Any], kinds: dict[Keys, set[str]], above: Keys = ()) -> None:
    """Add what the fields of a row of JSON hold; a list is as transparent as it is when it is read.

    Args:
        row: an object.
        kinds: for each field what it was seen to hold.
        above: the way to the row.
    """
    for name, value in row.items():
        keys = (*above, name)
        kinds.setdefault(keys, set()).add(_kind(value))
        inner = value if isinstance(value, list) else [value]
        for item in inner[:SHOWN]:
            if isinstance(item, dict) and len(keys) < DEPTH:
                observe(item, kinds, keys)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return TEXT
    if isinstance(value, dict):
        return OBJECT
    if isinstance(value, list):
        inner = {_kind(item) for item in value[:SHOWN]} - {NOTHING}
        return {frozenset(): NOTHING, frozenset({TEXT}): TEXTS, frozenset({OBJECT}): OBJECTS}.get(
            frozenset(inner), "lists"
        )
    return NOTHING if value is None else NUMBERS


def summarized(kinds: Mapping[Keys, set[str]]) -> dict[Keys, str]:
    """What each column holds, by all of its values: text as soon as one is."""
    order = (TEXT, TEXTS, OBJECTS, OBJECT, "lists", NUMBERS, NOTHING)
    return {keys: next(kind for kind in order if kind in seen) for keys, seen in kinds.items()}


def choose(tables: Sequence[tuple[str, dict[Keys, str], bool]], name: str | None, flag: str) -> Column:
    """The text column of some tables.

    Args:
        tables: for each its name, what each column holds, and whether it is a document: a single object, in which a
            list of objects may be the table.
        name: `--text_column_name`.
        flag: the flag that names the tables.

    Raises:
        InputError: where there is no such column, none or several could be meant, or it does not hold text.
    """
    tables = [table for table in tables if table[1]] or list(tables)
    found = _named(tables, name) if name is not None else _only_one(tables, flag)
    for source, columns, _ in tables:
        kind = columns.get(found)
        if kind is None:
            raise InputError(f"--text_column_name: {source} has no column {'.'.join(found)}, but {_listed(columns)}")
        if kind not in READABLE:
            raise InputError(
                f"--text_column_name: column {'.'.join(found)} of {source} holds {kind}, not text; name another "
                f"column; there is {_listed(columns, found)}"
            )
        if name is None and kind not in (TEXT, NOTHING):
            raise InputError(
                f"{flag}: column {'.'.join(found)} of {source} holds {kind}; give --text_column_name "
                f"{'.'.join(found)} to read them, or name another column; there is "
                f"{_listed(columns, found)}"
            )
    references = [(REFERENCES,) in columns for _, columns, _ in tables]
    if any(references) and not all(references):
        source = tables[references.index(False)][0]
        raise InputError(f"{flag}: {source} has no column {REFERENCES}, which other files have; give it one")
    return Column(found, references[0], lists=name is not None)


# Names of columns that are hardly the text, such as `id`, `news_id`, `page-url`. They are read where they are named.
_IDENTIFIER = re.compile(r"(^|[_\W])(id|uuid|guid|key|hash|url|uri)$", re.IGNORECASE)


def _named(tables: Sequence[tuple[str, dict[Keys, str], bool]], name: str) -> Keys:
    """The way to a column of this name: `a.b` is the column `a.b`, or else the field `b` of `a`."""
    ways = {keys for _, columns, _ in tables for keys in columns if ".".join(keys) == name}
    return min(ways, key=len, default=(name,))


def _only_one(tables: Sequence[tuple[str, dict[Keys, str], bool]], flag: str) -> Keys:
    """The column `text`, or the only one that could be the text."""
    rivals: dict[Keys, str] = {}
    for source, columns, is_document in tables:
        if ("text",) in columns:
            return ("text",)
        for keys, kind in columns.items():
            in_list = is_document and any(columns.get(keys[:depth]) == OBJECTS for depth in range(1, len(keys)))
            if kind in (TEXT, TEXTS) and (len(keys) == 1 or in_list) and keys != (REFERENCES,):
                rivals.setdefault(keys, source)
    source, columns, _ = tables[0]
    if not columns:
        raise InputError(f"{flag}: {source} has no text in it; give a file with one text to a row")
    alone = next(iter(rivals), None)
    if alone is not None and len(rivals) == 1 and any(columns.get(alone) == TEXT for _, columns, _ in tables):
        if _IDENTIFIER.search(alone[-1]):
            raise InputError(
                f"{flag}: {source} has no other column of texts than {'.'.join(alone)}, and that looks like an "
                f"identifier; choose the text with --text_column_name: {_listed(columns)}"
            )
        return alone
    if len(rivals) > 1:
        raise InputError(
            f"{flag}: {source} has several columns that could be the text; choose one with --text_column_name: "
            f"{_names(rivals)}"
        )
    raise InputError(
        f"{flag}: {source} has no column of texts, but {_listed(columns)}; choose what is the text with "
        "--text_column_name"
    )


def _names(columns: Mapping[Keys, Any]) -> str:
    names = [".".join(keys) or "(a column without a name)" for keys in columns]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _listed(columns: Mapping[Keys, str], but: Keys | None = None) -> str:
    """What there is to choose from: what can be read, or else everything."""
    others = {keys: kind for keys, kind in columns.items() if keys != but}
    return _names({keys: kind for keys, kind in others.items() if kind in READABLE} or others) or "no other"


def values_at(node: Any, keys: Keys) -> Any:
    """What lies at the end of a way; a list of what lies there where the way goes through lists. `None` if nothing."""
    for depth, key in enumerate(keys):
        if isinstance(node, list):
            return [values_at(item, keys[depth:]) for item in node]
        if not isinstance(node, dict):
            return None
        node = node.get(key)
    return node


_SENTENCE = re.compile(r"[.!?:;,…][\"'”’)»]*$|[\n\r]|[。！？，；：]")
_HAN_RUN = re.compile("[\u3400-\u9fff]{7}")


def looks_like_text(name: str) -> bool:
    """Whether the first row of a table that may lack a header holds a text, or a number, instead of a name."""
    name = name.strip()
    is_number = name[-1:].isdigit() and name.lstrip("+-")[:1].isdigit() and len(name.split()) == 1
    return bool(
        is_number or len(name) > 80 or len(name.split()) > 3 or _SENTENCE.search(name) or _HAN_RUN.search(name)
    )


def flattened(value: Any) -> Iterator[Any]:
    """The texts in a list of any depth, one by one; `None` in it is a blank text."""
    for item in value:
        if isinstance(item, list):
            yield from flattened(item)
        else:
            yield item
