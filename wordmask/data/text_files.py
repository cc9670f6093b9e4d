"""Text files, a text to a line, with their reference files: read as they are, without a copy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from wordmask.references.format import (
    TextDigest,
    batches,
    check_text,
    pair_tables,
    pairs_blank_lines,
    read_provenance,
    sidecar,
)
from wordmask.utils.cache import found_once, hashed, stamps
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank, read_lines
from wordmask.utils.progress import tracked


@dataclass(frozen=True)
class FileTexts:
    """The texts of text files, of which no copy is made: they are read from the beginning whenever they are needed.

    Attributes:
        files, references, flags: as `text_tables` takes them.
        numbers: which of the texts in the files these are.
        digest: that of all texts in the files, with their references.
        stamps: those of the files and references when they were counted.
    """

    files: tuple[str, ...]
    references: tuple[str, ...]
    flags: tuple[str, str]
    numbers: range
    digest: str
    stamps: list[tuple[str, int, int]]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def fingerprint(self) -> str:
        """What tells these texts from others, wherever they lie."""
        return hashed(self.digest, self.numbers.start, self.numbers.stop)

    def select(self, span: range) -> FileTexts:
        """Some of the texts, one behind the other."""
        return replace(self, numbers=self.numbers[span.start : span.stop])

    def tables(self, spans: Iterable[range]) -> Iterator[pa.Table]:
        """The texts of each span, of which none begins before the end of the one before it.

        Raises:
            InputError: where files are no longer what was counted.
        """
        self._check_files()
        read = text_tables(self.files, self.references, self.flags)
        held, first = next(read, None), 0  # some texts, and the number of the first of them
        for span in spans:
            own = self.numbers[span.start : span.stop]
            while held is not None and first + len(held) < own.stop:
                kept, more = held[own.start - first :], next(read, None)
                first += len(held) - len(kept)
                held = None if more is None else pa.concat_tables([kept, more])
            if held is None:
                raise self._changed()
            yield held[own.start - first : own.stop - first]
        self._check_files()

    def _check_files(self) -> None:
        if stamps([*self.files, *self.references]) != self.stamps:
            raise self._changed()

    def _changed(self) -> InputError:
        files = ", ".join(self.files)
        return InputError(f"{self.flags[0]}: {files} was changed while it was read; run again when it stays as it is")


def count_texts(
    files: Sequence[str], references: Sequence[str], flags: tuple[str, str], cache: Path, again: bool
) -> FileTexts:
    """All texts of text files; they are read for that, and checked, unless that was done before.

    Args:
        files, references, flags: as `text_tables` takes them.
        cache: where the count is remembered.
        again: whether to count even where it is.

    Raises:
        InputError: where there is no text, or references are those of another one.
    """

    def count() -> tuple[int, str]:
        _require_text(files, references, flags)
        digest, number = hashlib.sha256(), 0
        for table in tracked(text_tables(files, references, flags), "Counting"):
            add_texts(digest, table)
            number += len(table)
        return number, digest.hexdigest()

    counted = stamps([*files, *references])
    sidecars = [str(sidecar(path)) for path in references if sidecar(path).exists()]
    what = "pairs" if references else "texts"
    number, digest = found_once(cache, what, [*files, *references, *sidecars], count, again)
    return FileTexts(tuple(files), tuple(references), flags, range(number), digest, counted)


def add_texts(digest: Any, batch: pa.Table) -> None:
    """Add texts, and their references where there are any, to a digest."""
    texts = pc.fill_null(batch["text"].cast(pa.large_binary()), b"").combine_chunks()
    digest.update(pc.binary_length(texts).to_numpy(zero_copy_only=False).tobytes())
    digest.update(b"".join(texts.to_pylist()))
    if "chinese_ref" in batch.column_names:
        digest.update(json.dumps(batch["chinese_ref"].to_pylist()).encode())


def text_tables(
    files: Sequence[str], references: Sequence[str], flags: tuple[str, str], first: int = 0
) -> Iterator[pa.Table]:
    """The lines of text files, blank ones passed over, with their references where there are any.

    The files, the number of the first of which is given, are counted in the column `file` if there are references.
    """
    flag, reference_flag = flags
    for position, file in enumerate(files, first):
        if references:
            for table in pair_tables(file, references[position - first], flag, reference_flag):
                yield table.append_column("file", pa.array([position] * len(table), pa.int16()))
        else:
            for batch in batches(line for line in read_lines(file, flag) if not is_blank(line)):
                yield pa.table({"text": pa.array(batch, pa.string())})


def stream_texts(files: Sequence[str], references: Sequence[str], flags: tuple[str, str]) -> datasets.IterableDataset:
    """The texts of text files as a stream, of which each file can be read by another process.

    Args:
        files, references, flags: as `text_tables` takes them.

    Raises:
        InputError: where there is no text, or references are those of another one.
    """
    _require_text(files, references, flags)
    features = {"text": datasets.Value("string")}
    if references:
        _check_pairs(files, references, *flags)
        more = {"chinese_ref": datasets.List(datasets.Value("int32")), "line": datasets.Value("int64")}
        features |= more | {"file": datasets.Value("int16")}
    shards = {"positions": list(range(len(files))), "files": list(files), "references": list(references or files)}
    settings = {"flags": flags, "paired": bool(references)}
    return datasets.IterableDataset.from_generator(
        _text_rows, features=datasets.Features(features), gen_kwargs=shards | settings
    )


def _require_text(files: Sequence[str], references: Sequence[str], flags: tuple[str, str]) -> None:
    if next(text_tables(files, references, flags), None) is None:
        raise InputError(f"{flags[0]}: {', '.join(files)} has no text in it; give a file with one text to a line")


def _check_pairs(files: Sequence[str], references: Sequence[str], flag: str, reference_flag: str) -> None:
    """Check before a stream begins what else would be known only when a file has been read to its end.

    Raises:
        InputError: where a text is not the one that its references were made from, as far as that is known, or differs
            from them in number.
    """
    for file, reference in zip(files, references, strict=True):
        provenance = read_provenance(reference, reference_flag)
        if provenance is None:
            pairs_blank_lines(file, reference, flag, reference_flag)
            continue
        digest = TextDigest()
        for batch in tracked(batches(read_lines(file, flag)), "Checking"):
            digest.add(batch)
        check_text(provenance, digest, file, reference, reference_flag)


def _text_rows(
    positions: Sequence[int], files: Sequence[str], references: Sequence[str], flags: tuple[str, str], paired: bool
) -> Iterator[dict[str, Any]]:
    """The same, row by row, for a stream of some of the files."""
    for position, file, reference in zip(positions, files, references, strict=True):
        for table in text_tables([file], [reference] if paired else [], flags, position):
            yield from table.to_pylist()
