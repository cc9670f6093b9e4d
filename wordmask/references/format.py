"""Chinese reference files: which tokens of a line continue the word of the token before them.

A reference file has one line for each line of its text: a JSON list of the positions, special tokens counted, of
the tokens that would carry `##` if Chinese words were split like English ones. With the words 我 / 喜欢 / 你, the
line 我喜欢你 has the reference `[3]`. A blank line of text has a blank line of reference.

Beside it lies `<name>.meta.json`, which says what the file was made from; a file without one is read all the same.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json  # noqa: F401  # makes pa.json
from numpy.typing import NDArray

from wordmask.tokenization.encoding import TokenizedLines, backend_state
from wordmask.utils.batches import batches
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank, write_atomically
from wordmask.utils.readers import Column, TextFiles, read_lines


@dataclass
class Provenance:
    """What a reference file was made from.

    Attributes:
        lines: the number of lines of the text, blank ones included.
        text_sha256: the digest of its lines, whatever their ends and the file's compression and format.
        tokenizer_sha256: the digest of what decides where tokens lie, see `tokenizer_digest`.
        tokenizer, segmenter: names and versions, for people.
        mixed_words: whether words of mixed script count.
    """

    lines: int = 0
    text_sha256: str = ""
    tokenizer_sha256: str = ""
    tokenizer: str = ""
    segmenter: dict[str, str] = field(default_factory=dict)
    mixed_words: bool = False


def sidecar(path: str | Path) -> Path:
    """Where the provenance of a reference file lies."""
    return Path(f"{str(path).rstrip('/')}.meta.json")


def read_provenance(path: str | Path, flag: str) -> Provenance | None:
    """The provenance of a reference file, `None` for a classic file without one."""
    try:
        return Provenance(**json.loads(sidecar(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f"{flag}: {sidecar(path)} is not a provenance file ({error}); make the references again, or remove it"
        ) from None


def write_provenance(path: str | Path, provenance: Provenance) -> None:
    """Write what a reference file was made from beside it."""
    with write_atomically(sidecar(path)) as file:
        json.dump(asdict(provenance), file, ensure_ascii=False, indent=2)
        file.write("\n")


def tokenizer_digest(tokenizer) -> str:
    """The digest of a fast tokenizer's vocabulary, added tokens, normalizer and pre-tokenizer."""
    state = backend_state(tokenizer) or {"model": [type(tokenizer).__name__, tokenizer.get_vocab()]}
    decisive = {name: state.get(name) for name in ("model", "added_tokens", "normalizer", "pre_tokenizer")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


class TextDigest:
    """A running digest of texts, one to a line.

    Attributes:
        lines: how many there were.
        blank: how many of these were blank.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.lines = self.blank = 0

    def add(self, lines: Sequence[str]) -> None:
        """Take the next texts into account."""
        joined = "\n".join([*lines, ""])
        if joined.count("\n") > len(lines):  # a table's text may hold line ends: a byte that UTF-8 never has
            self._hash.update(b"".join(_encoded(line).replace(b"\n", b"\xff") + b"\n" for line in lines))
        else:
            self._hash.update(_encoded(joined))
        self.lines += len(lines)
        self.blank += sum(map(is_blank, lines))

    def hexdigest(self) -> str:
        """The digest of the texts so far."""
        return self._hash.hexdigest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def read_reference_arrays(path: str, flag: str) -> Iterator[pa.ListArray]:
    """The references of a file's lines, a thousand at a time, blank lines passed over.

    Raises:
        InputError: naming the line that is not a JSON list of integers, or holds one that is out of range.
    """
    numbered = ((number, line) for number, line in enumerate(read_lines(path, flag), 1) if not is_blank(line))
    for batch in batches(numbered, weight=lambda item: len(item[1])):
        array = _parse([line for _, line in batch])
        if array is None:
            number, line = next((number, line) for number, line in batch if _parse([line]) is None)
            wrong = (
                "holds a position that is out of range" if _is_reference(line) else "is not a JSON list of integers"
            )
            raise InputError(
                f"{flag}: {path}, line {number}: {line[:40]!r} {wrong} such as [2, 5]; "
                "make the file with run_chinese_ref.py"
            )
        yield array


def _parse(lines: Sequence[str]) -> pa.ListArray | None:
    """The lists in JSON lines, `None` where one of them is not a list of integers of 32 bits."""
    # One list to a line, so that what is put together below comes apart where the lines do.
    if not all(line.count("[") == line.count("]") == 1 and line.strip()[-1] == "]" for line in lines):
        return None
    try:
        rows = "".join(f'{{"r":{line}}}\n' for line in lines).encode("utf-8", "surrogatepass")
        whole = pa.json.ReadOptions(block_size=max(len(rows), 2**20))  # a line longer than a block ends the reader
        column = pa.json.read_json(pa.py_buffer(rows), whole, _ONE_LIST)["r"].combine_chunks()
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
    texts: TextFiles, reference_path: str, flag: str, digest: TextDigest | None = None
) -> Iterator[pa.Table]:
    """The texts of a file with their numbers and references, blank ones left out, as tables with the columns `line`,
    `text` and `chinese_ref`.

    Args:
        texts: the texts of one file.
        reference_path: its reference file.
        flag: the flag that names that.
        digest: takes in the texts.

    Raises:
        InputError: where there are too few or too many references, where a blank text has positions, or where the
            provenance beside the reference file says that it was made from another text.
    """
    text_path, digest = texts.paths[0], digest or TextDigest()
    provenance = read_provenance(reference_path, flag)
    every_line = provenance is None and pairs_blank_lines(texts, reference_path, flag)
    arrays = read_reference_arrays(reference_path, flag)
    waiting, pairs, missing = pa.array([], pa.list_(pa.int32())), 0, 0
    for batch in batches(texts):
        first = digest.lines + 1
        digest.add(batch)
        numbered = [(number, line) for number, line in enumerate(batch, first) if every_line or not is_blank(line)]
        while len(waiting) < len(numbered) and (array := next(arrays, None)) is not None:
            waiting = pa.concat_arrays([waiting, array])
        found = min(len(numbered), len(waiting))
        missing += len(numbered) - found
        if found and not missing:
            numbers, lines = zip(*numbered, strict=True)
            columns = [pa.array(numbers, pa.int64()), pa.array(lines, pa.string()), waiting[:found]]
            table = pa.table(columns, ["line", "text", "chinese_ref"])
            yield _without_blank_lines(table, text_path, reference_path, flag) if every_line else table
        waiting, pairs = waiting[found:], pairs + found
    surplus = len(waiting) + sum(map(len, arrays))
    _check_counts(text_path, pairs + missing, reference_path, pairs + surplus, flag)
    if provenance:
        check_text(provenance, digest, text_path, reference_path, flag)


def pairs_blank_lines(text: TextFiles, reference_path: str, flag: str) -> bool:
    """Whether a classic file has references for the blank lines of its text, too, by the number of both.

    Raises:
        InputError: where there are too few or too many references, counted either way.
    """
    lines, texts = _count_lines(text)
    _, references = _count_lines(TextFiles([reference_path], flag))
    if references != lines:
        _check_counts(text.paths[0], texts, reference_path, references, flag)
    return references == lines > texts


def _count_lines(text: TextFiles) -> tuple[int, int]:
    """The number of texts of a file, and of those that are not blank."""
    status = os.stat(text.paths[0])
    return _count_lines_of(text.paths[0], text.flag, text.column, status.st_size, status.st_mtime_ns)


@cache  # by size and time, so that each pass of a stream does not count again a file that stays as it is
def _count_lines_of(path: str, flag: str, column: Column | None, _size: int, _changed: int) -> tuple[int, int]:
    lines = texts = 0
    for line in TextFiles([path], flag, column):
        lines += 1
        texts += not is_blank(line)
    return lines, texts


def _check_counts(text_path: str, texts: int, reference_path: str, references: int, flag: str) -> None:
    """Raise an `InputError` where a text and its references differ in number."""
    if references != texts:
        raise InputError(
            f"{flag}: {reference_path} has {references} references and {text_path} has {texts} lines of text; make "
            "the references again with run_chinese_ref.py from this text"
        )


def _without_blank_lines(table: pa.Table, text_path: str, reference_path: str, flag: str) -> pa.Table:
    """Leave out blank lines, the references of which must be empty."""
    blank = np.fromiter(map(is_blank, table["text"].to_pylist()), bool, len(table))
    wrong = blank & (pc.list_value_length(table["chinese_ref"]).to_numpy() > 0)
    if wrong.any():
        row = table.slice(int(np.argmax(wrong)), 1).to_pylist()[0]
        raise InputError(
            f"{flag}: {reference_path} has the reference {row['chinese_ref']} for line {row['line']} of {text_path}, "
            "which is blank; make the references again with run_chinese_ref.py from this text"
        )
    return table.filter(pa.array(~blank))


def check_text(provenance: Provenance, digest: TextDigest, text_path: str, reference_path: str, flag: str) -> None:
    """Raise an `InputError` where a text, all of which is in the digest, is not that of its reference file."""
    if provenance.text_sha256 != digest.hexdigest():
        found = (
            f"{provenance.lines} lines where this one has {digest.lines}"
            if provenance.lines != digest.lines
            else f"of as many lines, {digest.lines}, but with other characters in them"
        )
        raise InputError(
            f"{flag}: {reference_path} was made from another text than {text_path} ({found}); make the references "
            "again with run_chinese_ref.py"
        )


def check_tokenizer(provenance: Provenance, tokenizer, path: str, flag: str) -> None:
    """Raise an `InputError` where a reference file was made with a tokenizer that divides text differently."""
    if provenance.tokenizer_sha256 != tokenizer_digest(tokenizer):
        name = tokenizer.name_or_path
        found = (
            f"another tokenizer ({provenance.tokenizer}) than the one given ({name})"
            if provenance.tokenizer != name
            else "the tokenizer given here, but that has changed since (for instance, tokens were added)"
        )
        raise InputError(f"{flag}: {path} was made with {found}; make the references again with --bert {name}")


@dataclass(frozen=True)
class LineReferences:
    """The references of a batch of lines.

    Attributes:
        positions: for each line its positions.
        numbers: the number of each line in its text, or where else it is from, for an error message.
        classic: (lines,) whether a reference is from a file without provenance. The classic script matched words
            against tokens, and so could join over white space and over characters that the tokenizer drops; such
            positions are left out.
        mixed: whether words may be other than Chinese.
        where: the flag and the file, for an error message.
    """

    positions: Sequence[Sequence[int]]
    numbers: Sequence[int | str]
    classic: NDArray[np.bool_]
    mixed: bool
    where: str

    def place(self, index: int) -> str:
        """Where the position of this number, counted over all lines, is from."""
        line = bisect.bisect_right([*accumulate(map(len, self.positions))], index)
        number, position = self.numbers[line], [*chain(*self.positions)][index]
        place = number if isinstance(number, str) else f"{number} of the text"
        return f"position {position} of the reference for line {place}"

    def refuse(self, wrong: NDArray[np.bool_], why: str) -> None:
        """Raise an `InputError` where one of the positions is wrong."""
        if wrong.any():
            raise InputError(
                f"{self.where}: {self.place(int(np.argmax(wrong)))} {why}; "
                "make the references again with run_chinese_ref.py and the tokenizer given here"
            )


def continuations(
    tokens: TokenizedLines, references: LineReferences, prefix: int, special: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which tokens continue a word by the references of their lines.

    Args:
        tokens: the tokenized lines.
        references: theirs.
        prefix: the number of special tokens before a text, which positions count.
        special: (tokens,) which tokens are special and belong to no word.

    Returns:
        (tokens,) Whether each continues a word, and the numbers of the positions that are left out.

    Raises:
        InputError: naming the line and the position that cannot be: out of range, special, the first of its line, or,
            where the line is not classic, behind white space (not joined to the token before it), or not Chinese where
            words of mixed script do not count.
    """
    counts = np.fromiter(map(len, references.positions), np.int64, len(references.positions))
    largest = 2**63 - 1  # JSON knows no bounds, arrays do
    flat = (max(min(position, largest), -largest) for position in chain(*references.positions))
    positions = np.fromiter(flat, np.int64, counts.sum())
    line = np.repeat(np.arange(len(counts)), counts)
    exact, refuse = ~references.classic[line], references.refuse

    index = positions - prefix
    refuse((positions < 0) | (index > tokens.lengths[line]), "is out of range")
    refuse((index < 0) | (index == tokens.lengths[line]), "is a special token")
    token = tokens.line_first[line] + index
    refuse(special[token], "is a special token")
    refuse(index == 0, "is the first token of its line, so not joined to a token before it")
    spaces_before = np.cumsum(tokens.characters.white_space)
    apart = spaces_before[tokens.first[token]] != spaces_before[tokens.last[token - 1]]
    apart |= special[token - 1]
    refuse(apart & exact, "is not joined to the token before it")
    if not references.mixed:
        foreign_before = np.concatenate([[0], np.cumsum(tokens.characters.foreign)])
        foreign = foreign_before[tokens.last[token] + 1] != foreign_before[tokens.first[token - 1]]
        refuse(foreign & exact, "joins text that is not Chinese in a file that does not say that it holds mixed words")
        apart |= foreign
    continues = np.zeros(len(tokens.ids), bool)
    continues[token[~apart]] = True
    return continues, np.flatnonzero(apart)
