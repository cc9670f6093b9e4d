"""The texts of local files with their references: read as they are whenever they are needed, without a copy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wordmask.references.provenance import TextDigest, check_text, read_provenance, sidecar
from wordmask.references.reader import pair_tables, pairs_blank_lines
from wordmask.utils.batches import BATCH, CHARACTERS, batches
from wordmask.utils.cache import found_once, hashed, stamps
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank
from wordmask.utils.progress import tracked
from wordmask.utils.readers import Column, TextFiles
from wordmask.utils.readers.paths import format_of


@dataclass(frozen=True)
class Files:
    """Files of one format, and where their references are.

    Attributes:
        paths: the files.
        flag: the flag that names them.
        column: the text column of tables, which may have one of references beside it.
        references: a reference file for each, or none.
        reference_flag: the flag that names those.
    """

    paths: tuple[str, ...]
    flag: str
    column: Column | None = None
    references: tuple[str, ...] = ()
    reference_flag: str = ""

    @property
    def all(self) -> list[str]:
        """All files that the texts depend on: with references and their sidecars."""
        sidecars = [str(sidecar(path)) for path in self.references if sidecar(path).exists()]
        return [*self.paths, *self.references, *sidecars]

    def tables(self, digest: TextDigest | None = None) -> Iterator[pa.Table]:
        """The texts in tables of about a thousand, in the column `text`. Blank texts are skipped.

        With references there are three more columns: `chinese_ref`, `line` (the number of the text in its file) and
        `file` (the number of the file).

        Args:
            digest: counts what is read; it takes in no texts where nothing needs that.
        """
        for number in range(len(self.paths)):
            yield from self.tables_of(number, digest)

    def tables_of(self, number: int, digest: TextDigest | None = None) -> Iterator[pa.Table]:
        """The same of the file of this number."""
        texts, digest = TextFiles([self.paths[number]], self.flag, self.column), digest or TextDigest()
        if self.references:
            own = TextDigest()
            tables = pair_tables(texts, self.references[number], self.reference_flag, own)
        elif self.column and self.column.references:
            own, tables = digest, _tables_with_references(texts, digest)
        else:
            own, tables = digest, _tables_of_texts(texts, digest)
        for table in tables:
            if "chinese_ref" in table.column_names:
                table = table.append_column("file", pa.array([number] * len(table), pa.int32()))
            yield table
        if own is not digest:
            digest.lines, digest.blank = digest.lines + own.lines, digest.blank + own.blank

    def require_text(self) -> None:
        """Raise an `InputError` where there is no text."""
        if next(self.tables(), None) is None:
            raise InputError(
                f"{self.flag}: {', '.join(self.paths[:3])} has no text in it; give a file with one text to a line, or "
                "to a row of a table"
            )

    def check(self) -> None:
        """Check before a stream begins what else would be known only when a file has been read to its end.

        Raises:
            InputError: where a text is not the one that its references were made from, as far as that is known, or
                differs from them in number, or where quotation marks of TSV are those of CSV.
        """
        for number, path in enumerate(self.paths):
            texts = TextFiles([path], self.flag, self.column)
            if self.references:
                self._check_pair(texts, self.references[number])
            elif format_of(path) == "tsv":
                for _ in tracked(batches(texts), "Checking"):
                    pass

    def _check_pair(self, texts: TextFiles, reference: str) -> None:
        provenance = read_provenance(reference, self.reference_flag)
        if provenance is None:
            pairs_blank_lines(texts, reference, self.reference_flag)
            return
        digest = TextDigest()
        for batch in tracked(batches(texts), "Checking"):
            digest.add(batch)
        check_text(provenance, digest, texts.paths[0], reference, self.reference_flag)


def _tables_of_texts(texts: TextFiles, count: TextDigest) -> Iterator[pa.Table]:
    for batch in batches(texts):
        kept = [text for text in batch if not is_blank(text)]
        count.lines += len(batch)
        count.blank += len(batch) - len(kept)
        if kept:
            yield pa.table({"text": pa.array(kept, pa.string())})


def _tables_with_references(texts: TextFiles, count: TextDigest) -> Iterator[pa.Table]:
    """Texts with the references beside them in their table."""
    for batch in batches(texts.with_references(), weight=lambda pair: len(pair[0])):
        kept = [
            (number, text, reference)
            for number, (text, reference) in enumerate(batch, count.lines + 1)
            if not is_blank(text)
        ]
        count.lines += len(batch)
        count.blank += len(batch) - len(kept)
        if kept:
            numbers, own, references = zip(*kept, strict=True)
            try:
                positions = pa.array(references, pa.list_(pa.int32()))
            except (pa.ArrowInvalid, OverflowError):
                raise InputError(
                    f"{texts.flag}: {texts.paths[0]} has a reference with a position that is out of range in row "
                    f"{numbers[0]} or one of the next {BATCH}; make the file with run_chinese_ref.py"
                ) from None
            columns = [pa.array(numbers, pa.int64()), pa.array(own, pa.string()), positions]
            yield pa.table(columns, ["line", "text", "chinese_ref"])


def rebatched(tables: Iterable[pa.Table], size: int = BATCH) -> Iterator[pa.Table]:
    """The same texts in tables of `size`, or fewer: the last table, and tables that reach `CHARACTERS` bytes."""
    held: list[pa.Table] = []
    count = weight = 0
    for table in tables:
        begin = 0
        for row, length in enumerate(pc.binary_length(table["text"]).to_pylist(), 1):
            count, weight = count + 1, weight + (length or 0)
            if count == size or weight >= CHARACTERS:
                yield pa.concat_tables([*held, table.slice(begin, row - begin)])
                held, begin, count, weight = [], row, 0, 0
        if begin < len(table):
            held.append(table.slice(begin))
    if held:
        yield pa.concat_tables(held)


class ContentDigest:
    """A running digest of texts and their references. It does not depend on how tables divide them."""

    def __init__(self) -> None:
        self._lengths, self._texts, self._references = (hashlib.sha256() for _ in range(3))

    def add(self, table: pa.Table) -> None:
        """Take the next texts into account."""
        texts = pc.fill_null(table["text"].cast(pa.large_binary()), b"").combine_chunks()
        lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
        self._lengths.update(lengths.astype(np.int64).tobytes())
        self._texts.update(b"".join(texts.to_pylist()))
        if "chinese_ref" in table.column_names:
            self._references.update("".join(map(json.dumps, table["chinese_ref"].to_pylist())).encode())

    def hexdigest(self) -> str:
        """The digest of the texts so far."""
        parts = (self._lengths, self._texts, self._references)
        return hashlib.sha256(b"".join(part.digest() for part in parts)).hexdigest()


@dataclass(frozen=True)
class FileTexts:
    """The texts of local files, which are read from the beginning whenever they are needed.

    Attributes:
        files: where they are.
        numbers: the numbers of these texts in the files.
        blank: how many blank texts were skipped.
        digest: that of all texts in the files, with their references.
        stamps: those of the files when they were counted.
    """

    files: Files
    numbers: range
    blank: int
    digest: str
    stamps: list[tuple[str, int, int, int]]
    is_stream = False

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def fingerprint(self) -> str:
        """What tells these texts from others, wherever they lie."""
        return hashed(self.digest, self.numbers.start, self.numbers.stop)

    def select(self, span: range) -> FileTexts:
        """Some of the texts, one behind the other."""
        return replace(self, numbers=self.numbers[span.start : span.stop])

    def tables(self, spans: Iterable[range]) -> Iterator[Iterator[pa.Table]]:
        """The texts of each span, see `wordmask.data.sources.Source`.

        Raises:
            InputError: if a file has changed since its texts were counted.
        """
        self._check_files()
        read = self.files.tables()
        held, first = next(read, None), 0  # some texts, and the number of the first of them

        def texts_of(own: range) -> Iterator[pa.Table]:
            nonlocal held, first
            position = own.start
            while position < own.stop:
                while held is not None and first + len(held) <= position:
                    first, held = first + len(held), next(read, None)
                if held is None:
                    raise self._changed()
                yield held.slice(position - first, own.stop - position)
                position = min(own.stop, first + len(held))

        for span in spans:
            yield rebatched(texts_of(self.numbers[span.start : span.stop]))
        self._check_files()

    def _check_files(self) -> None:
        if stamps(self.files.all) != self.stamps:
            raise self._changed()

    def _changed(self) -> InputError:
        files = ", ".join(self.files.paths[:3])
        return InputError(
            f"{self.files.flag}: {files} was changed while it was read; run again when it stays as it is"
        )


def count_texts(files: Files, cache: Path, again: bool) -> FileTexts:
    """All texts of some files. They are read and checked, unless that was done before.

    Args:
        files: the files.
        cache: the directory that remembers the count.
        again: whether to count even if it is remembered.

    Raises:
        InputError: if there is no text, or the references are those of another text.
    """

    def count() -> tuple[int, int, str]:
        files.require_text()
        content, read, number = ContentDigest(), TextDigest(), 0
        for table in tracked(files.tables(read), "Counting"):
            content.add(table)
            number += len(table)
        return number, read.blank, content.hexdigest()

    counted = stamps(files.all)
    what = f"texts-{hashed(files.column, bool(files.references))[:16]}"
    number, blank, digest = found_once(cache, what, files.all, count, again)
    return FileTexts(files, range(number), blank, digest, counted)


@dataclass(frozen=True)
class FileStream:
    """The texts of local files as a stream, of which each file is a shard that another process can read.

    Attributes:
        files: where they are.
        limit: how many of the first texts are read, all if `None`; they are one shard.
    """

    files: Files
    limit: int | None = None
    is_stream = True

    @property
    def shards(self) -> int:
        return len(self.files.paths) if self.limit is None else 1

    def take(self, limit: int) -> FileStream:
        """The first `limit` texts."""
        return replace(self, limit=limit)

    def tables(self, shard: int, size: int) -> Iterator[pa.Table]:
        """The texts of a shard, `size` at a time."""
        if self.limit is None:
            yield from rebatched(self.files.tables_of(shard), size)
            return
        left = self.limit
        for table in rebatched(self.files.tables(), size):
            yield table.slice(0, left)
            left -= len(table)
            if left <= 0:
                return


def stream_texts(files: Files) -> FileStream:
    """The texts of files as a stream.

    Raises:
        InputError: if there is no text, or the references are those of another text.
    """
    files.require_text()
    files.check()
    return FileStream(files)
