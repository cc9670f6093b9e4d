"""The text of local files, with its references. Files are read whenever their text is needed, so no copy is made."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wordmask.data.corpora import Corpus
from wordmask.references.provenance import TextDigest, check_text, read_provenance, sidecar
from wordmask.references.reader import pair_tables, pairs_blank_lines
from wordmask.utils.batches import batches, rebatched
from wordmask.utils.cache import found_once, hashed, stamps
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank
from wordmask.utils.progress import tracked
from wordmask.utils.readers import Column, TextReader
from wordmask.utils.readers.paths import format_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split: of its text, in one format, and of its references.

    Attributes:
        paths: the files of the text.
        flag: the flag that names them.
        column: the text column of tables, which may have a column of references, too.
        references: a reference file for each file of text, or none.
        reference_flag: the flag that names the reference files.
        corpora: the number of files of each corpus, by its name.
    """

    paths: tuple[str, ...]
    flag: str
    column: Column | None = None
    references: tuple[str, ...] = ()
    reference_flag: str = ""
    corpora: Mapping[str, int] = field(default_factory=dict)

    @property
    def all(self) -> list[str]:
        """All files that the texts depend on, with references and their sidecars."""
        sidecars = [str(sidecar(path)) for path in self.references if sidecar(path).exists()]
        return [*self.paths, *self.references, *sidecars]

    def tables(self, digests: Sequence[TextDigest] | None = None) -> Iterator[pa.Table]:
        """The texts in tables of about a thousand, in the column `text`. Blank texts are skipped.

        With references there are three more columns: `chinese_ref`, `line` (the number of the text in its file) and
        `file` (the number of the file).

        Args:
            digests: one for each file, to count its lines. They take in the text only if its provenance is checked.
        """
        for index in range(len(self.paths)):
            yield from self.tables_of(index, digests[index] if digests else TextDigest())

    def tables_of(self, index: int, digest: TextDigest) -> Iterator[pa.Table]:
        """The same tables, of one file."""
        reader = TextReader([self.paths[index]], self.flag, self.column)
        if self.references:
            tables = pair_tables(reader, self.references[index], self.reference_flag, digest)
        else:
            tables = _tables_of_reader(reader, digest)
        for table in tables:
            if "chinese_ref" in table.column_names:
                table = table.append_column("file", pa.array([index] * len(table), pa.int32()))
            yield table

    def require_text(self) -> None:
        """Raise an `InputError` if there is no text."""
        if next(self.tables(), None) is None:
            raise InputError(
                f"{self.flag}: {', '.join(self.paths[:3])} has no text in it; give a file with one text on each line, "
                "or in each row of a table"
            )

    def check(self) -> None:
        """Find, before a stream begins, the mistakes that show only at the end of a file.

        Raises:
            InputError: if references belong to another text or differ from it in number, or if TSV is quoted like CSV.
        """
        for index, path in enumerate(self.paths):
            if self.references:
                self._check_pair(TextReader([path], self.flag, self.column), self.references[index])
            elif format_of(path) == "tsv":
                deque(tracked(self.tables_of(index, TextDigest()), "checking"), maxlen=0)

    def _check_pair(self, reader: TextReader, reference: str) -> None:
        provenance = read_provenance(reference, self.reference_flag)
        if provenance is None:
            pairs_blank_lines(reader, reference, self.reference_flag)
            return
        digest = TextDigest()
        for batch in tracked(batches(reader), "checking"):
            digest.add(batch)
        check_text(provenance, digest, reader.paths[0], reference, self.reference_flag)


def warn_of_repeats(splits: Sequence[SplitFiles]) -> None:
    """Log a warning for each file that is given twice, for one split or for two."""
    counts = [Counter(map(os.path.realpath, files.paths)) for files in splits]
    for files, times in zip(splits, counts, strict=True):
        for path, count in times.items():
            if count > 1:
                logger.warning("%s: %s is given %d times, and its examples count as often", files.flag, path, count)
    for path in set.intersection(*map(set, counts)) if len(splits) > 1 else ():
        logger.warning("%s: %s is the training text, too, so evaluations tell little", splits[-1].flag, path)


def _tables_of_reader(reader: TextReader, digest: TextDigest) -> Iterator[pa.Table]:
    """The texts of one file in tables, with the references in its table if there are any. The digest only counts."""
    has_references = reader.column is not None and reader.column.references
    rows = batches(reader.with_references(), weight=lambda row: len(row[0])) if has_references else batches(reader)
    for batch in rows:
        texts = [text for text, _ in batch] if has_references else batch
        columns = {"text": pa.array(texts, pa.string())}
        if has_references:
            columns["line"] = pa.array(range(digest.lines + 1, digest.lines + 1 + len(batch)))
            columns["chinese_ref"] = pa.array([reference for _, reference in batch], pa.list_(pa.int32()))
        visible = [not is_blank(text) for text in texts]
        digest.lines += len(batch)
        digest.blank += visible.count(False)
        if any(visible):
            table = pa.table(columns)
            yield table if all(visible) else table.filter(pa.array(visible))


class ContentDigest:
    """A running digest of texts and their references. It is the same however they are divided into tables."""

    def __init__(self) -> None:
        self._lengths, self._texts, self._references = (hashlib.sha256() for _ in range(3))

    def add(self, table: pa.Table) -> None:
        """Take in the next texts."""
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


class _TextsInOrder:
    """Texts by their numbers, from tables that are read once and in order.

    Args:
        tables: the tables.
        too_few: makes the error for texts that the tables do not have.
    """

    def __init__(self, tables: Iterator[pa.Table], too_few: Callable[[], Exception]):
        self._tables, self._too_few = tables, too_few
        self._table = pa.table({})  # the one that was read last
        self._begin = self._end = 0  # the number of its first text, and of the first text after it

    def read(self, numbers: range) -> Iterator[pa.Table]:
        """The texts with these numbers, all larger than those that were read before.

        From tables of 4 texts, the numbers 3 to 8 are the last text of the first table, all of the second one, and the
        first text of the third one.
        """
        begin = numbers.start
        while begin < numbers.stop:
            while self._end <= begin:
                self._next_table()
            end = min(self._end, numbers.stop)
            yield self._table.slice(begin - self._begin, end - begin)
            begin = end

    def _next_table(self) -> None:
        table = next(self._tables, None)
        if table is None:
            raise self._too_few()
        self._table, self._begin, self._end = table, self._end, self._end + len(table)


@dataclass(frozen=True)
class FileSource:
    """The text of local files as a `Source`. The files are read from the beginning whenever the text is needed.

    Attributes:
        files: where the texts are.
        spans: the numbers of these texts among all texts of the files.
        counts: the number of all texts in each file.
        blank_count: the number of blank texts, which are skipped.
        digest: that of all texts in the files, with their references.
        stamps: those of the files when their texts were counted.
    """

    files: SplitFiles
    spans: Sequence[range]
    counts: Sequence[int]
    blank_count: int
    digest: str
    stamps: list[tuple[str, int, int, int]]
    is_stream = False

    def __len__(self) -> int:
        return sum(map(len, self.spans))

    @property
    def corpora(self) -> list[Corpus]:
        """The corpora, with all of their texts."""
        ends = list(accumulate(self.files.corpora.values()))
        starts = [0, *ends[:-1]]
        texts = [sum(self.counts[start:end]) for start, end in zip(starts, ends, strict=True)]
        return list(map(Corpus, self.files.corpora, texts))

    @property
    def fingerprint(self) -> str:
        """What tells these texts from others, in any files."""
        return hashed(self.digest, *chain.from_iterable((span.start, span.stop) for span in self.spans))

    def select(self, spans: Sequence[range]) -> FileSource:
        """The texts of some spans, in order."""
        return replace(self, spans=[*chain.from_iterable(map(self._numbers, spans))])

    def _numbers(self, span: range) -> Iterator[range]:
        """The numbers of a span of these texts among all texts: 3 to 7 of spans 0-5 and 9-20 are 3-5 and 9-11."""
        before = 0
        for own in self.spans:
            if part := own[max(span.start - before, 0) : max(span.stop - before, 0)]:
                yield part
            before += len(own)

    def tables(self, spans: Iterable[range]) -> Iterator[Iterator[pa.Table]]:
        """The texts of each span, see `wordmask.data.sources.Source`.

        Raises:
            InputError: if a file has changed since its texts were counted.
        """
        self._check_files()
        texts = _TextsInOrder(self.files.tables(), self._changed)
        for span in spans:
            yield rebatched(chain.from_iterable(map(texts.read, self._numbers(span))))
        self._check_files()

    def _check_files(self) -> None:
        if stamps(self.files.all) != self.stamps:
            raise self._changed()

    def _changed(self) -> InputError:
        files = ", ".join(self.files.paths[:3])
        return InputError(f"{self.files.flag}: {files} changed while it was read; run again when it is complete")


def count_texts(files: SplitFiles, cache: Path, again: bool) -> FileSource:
    """All texts of some files. They are read and checked, unless this was done before.

    Args:
        files: the files.
        cache: the directory that remembers the count.
        again: whether to count even if the count is remembered.

    Raises:
        InputError: if there is no text, or the references belong to another text.
    """

    def count() -> tuple[list[int], int, str]:
        files.require_text()
        content, digests = ContentDigest(), [TextDigest() for _ in files.paths]
        for table in tracked(files.tables(digests), "counting"):
            content.add(table)
        counts = [digest.lines - digest.blank for digest in digests]
        return counts, sum(digest.blank for digest in digests), content.hexdigest()

    stamps_before = stamps(files.all)
    what = f"counts-{hashed(files.column, bool(files.references))[:16]}"
    counts, blank_count, digest = found_once(cache, what, files.all, count, again)
    return FileSource(files, [range(sum(counts))], counts, blank_count, digest, stamps_before)


@dataclass(frozen=True)
class FileStream:
    """The text of local files as a `Stream`. Each file is a shard that another process can read.

    Attributes:
        files: where the texts are.
        limit: how many of the first texts are read, as one shard; all if `None`.
    """

    files: SplitFiles
    limit: int | None = None
    is_stream = True

    @property
    def shard_sizes(self) -> list[int]:
        return [1] if self.limit is not None else list(map(os.path.getsize, self.files.paths))

    def take(self, limit: int) -> FileStream:
        """The first `limit` texts."""
        return replace(self, limit=limit)

    def tables(self, shard: int, size: int) -> Iterator[pa.Table]:
        """The texts of a shard, `size` at a time."""
        if self.limit is None:
            yield from rebatched(self.files.tables_of(shard, TextDigest()), size)
            return
        remaining = self.limit
        for table in rebatched(self.files.tables(), size):
            yield table.slice(0, remaining)
            remaining -= len(table)
            if remaining <= 0:
                return


def stream_texts(files: SplitFiles) -> FileStream:
    """The text of files as a stream.

    Raises:
        InputError: if there is no text, or the references belong to another text.
    """
    files.require_text()
    files.check()
    return FileStream(files)
