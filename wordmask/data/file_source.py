"""The text of local files, as a source and as a stream. Files are read whenever their text is needed, never copied."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_hexdigest

from wordmask.data.corpora import Corpus
from wordmask.data.split_files import SplitFiles
from wordmask.references.provenance import TextDigest
from wordmask.utils.batches import rebatched
from wordmask.utils.cache import found_once, hashed, stamps
from wordmask.utils.errors import InputError
from wordmask.utils.progress import tracked

ENDS = 2**16  # bytes at each end of a file, that tell it from another one


def _changed(files: SplitFiles) -> InputError:
    names = ", ".join(files.paths[:3])
    return InputError(f"{files.flag}: {names} changed while it was read; run again when it is complete")


@contextlib.contextmanager
def _still_there(files: SplitFiles) -> Iterator[None]:
    """Raise an `InputError` if a file is gone since it was found."""
    try:
        yield
    except OSError:
        raise _changed(files) from None


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
        texts = _TextsInOrder(self.files.tables(), partial(_changed, self.files))
        for span in spans:
            yield rebatched(chain.from_iterable(map(texts.read, self._numbers(span))))
        self._check_files()

    def _check_files(self) -> None:
        with _still_there(self.files):
            now = stamps(self.files.all)
        if now != self.stamps:
            raise _changed(self.files)


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
        files.check_contents()
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

    @property
    def shard_sizes(self) -> list[int]:
        with _still_there(self.files):
            return [1] if self.limit is not None else list(map(os.path.getsize, self.files.paths))

    @property
    def fingerprint(self) -> str:
        """The digest of the size, the beginning and the end of each file, since reading all of them takes long."""
        with _still_there(self.files):
            return hashed([_ends(path) for path in self.files.all])

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


def _ends(path: str) -> tuple[int, str, str]:
    """The size of a file, and the digests of its first and its last bytes."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        first = file.read(ENDS)
        file.seek(max(size - ENDS, 0))
        return size, xxh3_128_hexdigest(first), xxh3_128_hexdigest(file.read(ENDS))


def stream_texts(files: SplitFiles) -> FileStream:
    """The text of files as a stream.

    Raises:
        InputError: if there is no text, or the references belong to another text.
    """
    files.check_contents(read=bool(files.references))  # tables may be large, and only the stream reads them
    files.require_text()
    files.check()
    return FileStream(files)
