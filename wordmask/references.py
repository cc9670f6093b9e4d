"""Chinese reference files: which tokens of a line continue the word of the token before them.

A reference file has one line for each line of its text: a JSON list of the positions, special tokens counted, of
the tokens that would carry `##` if Chinese words were split like English ones. With the words 我 / 喜欢 / 你, the
line 我喜欢你 has the reference `[3]`. A blank line of text has a blank line of reference.

Beside it lies `<name>.meta.json`, which says what the file was made from; a file without one is read all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json  # noqa: F401  # makes pa.json
from numpy.typing import NDArray

from wordmask.errors import InputError
from wordmask.textfiles import is_blank, read_lines, write_atomically
from wordmask.tokens import TokenizedLines, backend_state
from wordmask.words import CHINESE, EXTEND

BATCH = 1000  # lines


@dataclass
class Provenance:
    """What a reference file was made from.

    Attributes:
        lines: the number of lines of the text, blank ones included.
        text_sha256: the digest of its lines, whatever their ends and the file's compression.
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
    """A running digest of lines."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.lines = 0

    def add(self, lines: Sequence[str]) -> None:
        """Take the next lines into account."""
        self._hash.update("\n".join([*lines, ""]).encode("utf-8", "surrogatepass"))
        self.lines += len(lines)

    def hexdigest(self) -> str:
        """The digest of the lines so far."""
        return self._hash.hexdigest()


def batches(items: Iterable[Any], size: int = BATCH) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def read_reference_arrays(path: str, flag: str) -> Iterator[pa.ListArray]:
    """The references of a file's lines, a thousand at a time, blank lines passed over.

    Raises:
        InputError: naming the line that is not a JSON list of integers, or holds one that is out of range.
    """
    numbered = ((number, line) for number, line in enumerate(read_lines(path, flag), 1) if not is_blank(line))
    for batch in batches(numbered):
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
        column = pa.json.read_json(pa.py_buffer(rows), parse_options=_ONE_LIST)["r"].combine_chunks()
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


def pair_tables(text_path: str, reference_path: str, text_flag: str, flag: str) -> Iterator[pa.Table]:
    """The lines of a text with their numbers and references, blank lines passed over on both sides, as tables with the
    columns `line`, `text` and `chinese_ref`.

    Raises:
        InputError: where there are too few or too many references, or where the provenance beside the reference file
            says that it was made from another text.
    """
    digest = TextDigest()
    arrays = read_reference_arrays(reference_path, flag)
    waiting, pairs, missing = pa.array([], pa.list_(pa.int32())), 0, 0
    for batch in batches(read_lines(text_path, text_flag)):
        first = digest.lines + 1
        digest.add(batch)
        numbered = [(number, line) for number, line in enumerate(batch, first) if not is_blank(line)]
        while len(waiting) < len(numbered) and (array := next(arrays, None)) is not None:
            waiting = pa.concat_arrays([waiting, array])
        found = min(len(numbered), len(waiting))
        missing += len(numbered) - found
        if found and not missing:
            numbers, lines = zip(*numbered, strict=True)
            columns = [pa.array(numbers, pa.int64()), pa.array(lines, pa.string()), waiting[:found]]
            yield pa.table(columns, ["line", "text", "chinese_ref"])
        waiting, pairs = waiting[found:], pairs + found
    surplus = len(waiting) + sum(map(len, arrays))
    if missing or surplus:
        raise InputError(
            f"{flag}: {reference_path} has {pairs + surplus} references and {text_path} has {pairs + missing} lines "
            "of text; make the references again with run_chinese_ref.py from this text"
        )
    provenance = read_provenance(reference_path, flag)
    if provenance and provenance.text_sha256 != digest.hexdigest():
        raise InputError(
            f"{flag}: {reference_path} was made from another text than {text_path} ({provenance.lines} lines where "
            f"this one has {digest.lines}, or other words in them); make the references again with run_chinese_ref.py"
        )


def check_tokenizer(provenance: Provenance, tokenizer, path: str, flag: str) -> None:
    """Raise an `InputError` where a reference file was made with a tokenizer that divides text differently."""
    if provenance.tokenizer_sha256 != tokenizer_digest(tokenizer):
        raise InputError(
            f"{flag}: {path} was made with another tokenizer ({provenance.tokenizer}) than the one given "
            f"({tokenizer.name_or_path}); make the references again with --bert {tokenizer.name_or_path}"
        )


def continuations(
    tokens: TokenizedLines,
    references: Sequence[Sequence[int]],
    prefix: int,
    special_ids: NDArray[np.int64],
    mixed: bool,
    where: str,
    numbers: Sequence[int | str],
) -> NDArray[np.bool_]:
    """(tokens,) Which tokens continue a word by the references of their lines.

    Args:
        tokens: the tokenized lines.
        references: for each line its positions.
        prefix: the number of special tokens before a text, which positions count.
        special_ids: the ids of special tokens, which belong to no word.
        mixed: whether words may be other than Chinese.
        where: the flag and the file, for an error message.
        numbers: the number of each line in its text, or where else it is from, for an error message.

    Raises:
        InputError: naming the line and the position that cannot be: out of range, special, the first of its line or
            behind white space (not joined to the token before it), or not Chinese where `mixed` does not hold.
    """
    counts = np.fromiter(map(len, references), np.int64, len(references))
    largest = 2**63 - 1  # JSON knows no bounds, arrays do
    flat = (max(min(position, largest), -largest) for reference in references for position in reference)
    positions = np.fromiter(flat, np.int64, counts.sum())
    line = np.repeat(np.arange(len(references)), counts)

    def refuse(wrong: NDArray[np.bool_], why: str) -> None:
        if wrong.any():
            at = int(np.argmax(wrong))
            position, number = list(chain(*references))[at], numbers[line[at]]
            place = number if isinstance(number, str) else f"{number} of the text"
            raise InputError(
                f"{where}: position {position} of the reference for line {place} {why}; "
                "make the references again with run_chinese_ref.py and the tokenizer given here"
            )

    index = positions - prefix
    refuse((positions < 0) | (index > tokens.lengths[line]), "is out of range")
    refuse((index < 0) | (index == tokens.lengths[line]), "is a special token")
    token = tokens.line_first[line] + index
    refuse(np.isin(tokens.ids[token], special_ids), "is a special token")
    refuse(index == 0, "is the first token of its line, so not joined to a token before it")
    spaces_before = np.cumsum(tokens.characters.classes == 0)
    gap = spaces_before[tokens.first[token]] != spaces_before[tokens.last[token - 1]]
    refuse(gap | np.isin(tokens.ids[token - 1], special_ids), "is not joined to the token before it")
    if not mixed:
        other = ~np.isin(tokens.characters.classes, (CHINESE, EXTEND))
        others = np.concatenate([[0], np.cumsum(other)])
        refuse(
            others[tokens.last[token] + 1] != others[tokens.first[token - 1]],
            "joins text that is not Chinese in a file that does not say that it holds mixed words",
        )
    continues = np.zeros(len(tokens.ids), bool)
    continues[token] = True
    return continues
