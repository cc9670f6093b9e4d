"""Read reference files, and pair them with the texts that they belong to.

A reference file has one line for each line of its text: a JSON list of positions, see `positions`. A blank line of
text has a blank line of reference. Beside the file lies `<name>.meta.json`, see `provenance`. Files of the classic
script have no such file next to them; we read them, too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wordmask.references.provenance import TextDigest, check_text, read_provenance
from wordmask.utils.batches import batches
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank
from wordmask.utils.readers import Column, TextReader, read_lines


def numbered_references(path: str, flag: str) -> Iterator[tuple[int, str]]:
    """The lines of a reference file that are not blank, each with its number."""
    return ((number, line) for number, line in enumerate(read_lines(path, flag), 1) if not is_blank(line))


def parse_references(numbered: Sequence[tuple[int, str]], path: str, flag: str) -> pa.ListArray:
    """The references in some lines of a file, from `numbered_references`.

    Raises:
        InputError: if a line is not a JSON list of 32-bit integers. It names the line.
    """
    references = _parse([line for _, line in numbered])
    if references is None:
        number, line = next((number, line) for number, line in numbered if _parse([line]) is None)
        raise InputError(
            f"{flag}: {path}, line {number}: {line[:40]!r} is not a JSON list of integers below 2147483648, such as "
            "[2, 5]; make the file with run_chinese_ref.py"
        )
    return references


def _parse(lines: Sequence[str]) -> pa.ListArray | None:
    """The lists in JSON lines; `None` if one of them is not a list of 32-bit integers."""
    # Each line must be one list, since all lines are parsed at once: `[1],[2` and `3]` would also be two lists.
    if not all(map(re.compile(r"\s*\[[^][]*\]\s*").fullmatch, lines)):
        return None
    try:
        references = json.loads(f"[{','.join(lines)}]")
        return pa.array(references, pa.list_(pa.int32())) if {*map(type, chain(*references))} <= {int} else None
    except (ValueError, OverflowError):
        return None


def pair_tables(
    texts: TextReader, reference_path: str, flag: str, digest: TextDigest | None = None
) -> Iterator[pa.Table]:
    """The lines of a text with their references, without blank lines.

    Args:
        texts: the text of one file.
        reference_path: its reference file.
        flag: the flag that names the reference file.
        digest: a digest that the text is added to.

    Returns:
        Tables with the columns `line` (the number of the line, from 1), `text` and `chinese_ref`.

    Raises:
        InputError: if there are too few or too many references, if a blank line has positions, or if the provenance
            says that the references were made from another text.
    """
    text_path, digest = texts.paths[0], digest or TextDigest()
    provenance = read_provenance(reference_path, flag)
    pairs_blank = provenance is None and pairs_blank_lines(texts, reference_path, flag)
    references = numbered_references(reference_path, flag)
    text_count = reference_count = 0
    for batch in batches(texts):
        start = digest.lines + 1
        digest.add(batch)
        numbered = [(number, line) for number, line in enumerate(batch, start) if pairs_blank or not is_blank(line)]
        of_batch = [*islice(references, len(numbered))]
        text_count, reference_count = text_count + len(numbered), reference_count + len(of_batch)
        if of_batch and reference_count == text_count:
            numbers, lines = zip(*numbered, strict=True)
            positions = parse_references(of_batch, reference_path, flag)
            columns = [pa.array(numbers, pa.int64()), pa.array(lines, pa.string()), positions]
            table = pa.table(columns, ["line", "text", "chinese_ref"])
            yield _without_blank_lines(table, text_path, reference_path, flag) if pairs_blank else table
    reference_count += sum(1 for _ in references)
    _check_counts(text_path, text_count, reference_path, reference_count, flag)
    if provenance:
        check_text(provenance, digest, text_path, reference_path, flag)


def pairs_blank_lines(text: TextReader, reference_path: str, flag: str) -> bool:
    """Whether a classic file has references for blank lines of its text as well. The number of lines tells.

    Raises:
        InputError: if there are too few or too many references, with or without blank lines.
    """
    lines, visible = _count_lines(text)
    _, references = _count_lines(TextReader([reference_path], flag))
    if references != lines:
        _check_counts(text.paths[0], visible, reference_path, references, flag)
    return references == lines > visible


def _count_lines(text: TextReader) -> tuple[int, int]:
    """The number of lines of a file, and of those that are not blank."""
    status = os.stat(text.paths[0])
    return _count_lines_of(text.paths[0], text.flag, text.column, status.st_size, status.st_ctime_ns)


@cache  # by size and time: each epoch of a stream asks again, and an unchanged file is counted once
def _count_lines_of(path: str, flag: str, column: Column | None, _size: int, _changed: int) -> tuple[int, int]:
    lines = visible = 0
    for line in TextReader([path], flag, column):
        lines += 1
        visible += not is_blank(line)
    return lines, visible


def _check_counts(text_path: str, texts: int, reference_path: str, references: int, flag: str) -> None:
    """Raise an `InputError` if a text and its references differ in number."""
    if references != texts:
        raise InputError(
            f"{flag}: {reference_path} has {references} references and {text_path} has {texts} lines of text, "
            "without blank ones; make the references again with run_chinese_ref.py from this text"
        )


def _without_blank_lines(table: pa.Table, text_path: str, reference_path: str, flag: str) -> pa.Table:
    """Leave out blank lines. Their references must be empty."""
    blank = np.fromiter(map(is_blank, table["text"].to_pylist()), bool, len(table))
    wrong = blank & (pc.list_value_length(table["chinese_ref"]).to_numpy() > 0)
    if wrong.any():
        example = table.slice(int(np.argmax(wrong)), 1).to_pylist()[0]
        raise InputError(
            f"{flag}: {reference_path} has the reference {example['chinese_ref']} for line {example['line']} of "
            f"{text_path}, which is blank; make the references again with run_chinese_ref.py from this text"
        )
    return table.filter(pa.array(~blank))
