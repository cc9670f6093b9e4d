"""Read reference files, and pair them with the texts that they belong to.

A reference file has one line for each line of its text: a JSON list of positions, see `positions`. A blank line of
text has a blank line of reference. Beside the file lies `<name>.meta.json`, see `provenance`. Files of the classic
script have none; they are read, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json  # noqa: F401  # makes pa.json

from wordmask.references.provenance import TextDigest, check_text, read_provenance
from wordmask.utils.batches import batches
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank
from wordmask.utils.readers import Column, TextReader, read_lines


def read_reference_arrays(path: str, flag: str) -> Iterator[pa.ListArray]:
    """The references of a file, a thousand at a time. Blank lines are skipped.

    Raises:
        InputError: if a line is not a JSON list of integers, or an integer is out of range. It names the line.
    """
    numbered = ((number, line) for number, line in enumerate(read_lines(path, flag), 1) if not is_blank(line))
    for batch in batches(numbered, weight=lambda item: len(item[1])):
        array = _parse([line for _, line in batch])
        if array is None:
            number, line = next((number, line) for number, line in batch if _parse([line]) is None)
            mistake = (
                "holds a position that is out of range" if _is_reference(line) else "is not a JSON list of integers"
            )
            raise InputError(
                f"{flag}: {path}, line {number}: {line[:40]!r} {mistake} such as [2, 5]; "
                "make the file with run_chinese_ref.py"
            )
        yield array


def _parse(lines: Sequence[str]) -> pa.ListArray | None:
    """The lists in JSON lines; `None` if one of them is not a list of 32-bit integers."""
    # Each line must hold exactly one list, since all lines are parsed as one document: `[1]` and `[2]` become
    # `{"r":[1]}\n{"r":[2]}\n`, and a line `[1]} {"r":[2]` would otherwise pass as two.
    if not all(line.count("[") == line.count("]") == 1 and line.strip()[-1] == "]" for line in lines):
        return None
    try:
        document = "".join(f'{{"r":{line}}}\n' for line in lines).encode("utf-8", "surrogatepass")
        one_block = pa.json.ReadOptions(block_size=max(len(document), 2**20))  # a longer line would end the reader
        column = pa.json.read_json(pa.py_buffer(document), one_block, _ONE_LIST)["r"].combine_chunks()
        values = column.values.cast(pa.int32())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if len(column) != len(lines) or column.null_count or values.null_count:
        return None
    return pa.ListArray.from_arrays(column.offsets, values)


_ONE_LIST = pa.json.ParseOptions(
    explicit_schema=pa.schema([("r", pa.list_(pa.int64()))]), unexpected_field_behavior="error"
)


def _is_reference(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(type(position) is int for position in value)


def pair_tables(
    texts: TextReader, reference_path: str, flag: str, digest: TextDigest | None = None
) -> Iterator[pa.Table]:
    """The lines of a text with their references, without blank lines.

    Args:
        texts: the text of one file.
        reference_path: its reference file.
        flag: the flag that names the reference file.
        digest: takes in the text.

    Returns:
        Tables with the columns `line` (the number of the line, from 1), `text` and `chinese_ref`.

    Raises:
        InputError: if there are too few or too many references, if a blank line has positions, or if the provenance
            says that the references were made from another text.
    """
    text_path, digest = texts.paths[0], digest or TextDigest()
    provenance = read_provenance(reference_path, flag)
    pairs_blank = provenance is None and pairs_blank_lines(texts, reference_path, flag)
    arrays = read_reference_arrays(reference_path, flag)
    # Lines and references come in batches that end at different places, so references wait for their lines.
    waiting, paired, missing = pa.array([], pa.list_(pa.int32())), 0, 0
    for batch in batches(texts):
        start = digest.lines + 1
        digest.add(batch)
        numbered = [(number, line) for number, line in enumerate(batch, start) if pairs_blank or not is_blank(line)]
        while len(waiting) < len(numbered) and (array := next(arrays, None)) is not None:
            waiting = pa.concat_arrays([waiting, array])
        count = min(len(numbered), len(waiting))
        missing += len(numbered) - count
        if count and not missing:
            numbers, lines = zip(*numbered, strict=True)
            columns = [pa.array(numbers, pa.int64()), pa.array(lines, pa.string()), waiting[:count]]
            table = pa.table(columns, ["line", "text", "chinese_ref"])
            yield _without_blank_lines(table, text_path, reference_path, flag) if pairs_blank else table
        waiting, paired = waiting[count:], paired + count
    surplus = len(waiting) + sum(map(len, arrays))
    _check_counts(text_path, paired + missing, reference_path, paired + surplus, flag)
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
            f"{flag}: {reference_path} has {references} references and {text_path} has {texts} lines of text; make "
            "the references again with run_chinese_ref.py from this text"
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
