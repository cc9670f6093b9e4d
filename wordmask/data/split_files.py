"""The files of a split: their texts and references in tables, checked while they are read."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from wordmask.references.content import check_complete, check_content, described
from wordmask.references.provenance import TextDigest, check_text, read_provenance, sidecar
from wordmask.references.reader import pair_tables, pairs_blank_lines
from wordmask.utils.batches import batches
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
        directories: those that stand for all files in them.
    """

    paths: tuple[str, ...]
    flag: str
    column: Column | None = None
    references: tuple[str, ...] = ()
    reference_flag: str = ""
    corpora: Mapping[str, int] = field(default_factory=dict)
    directories: tuple[str, ...] = ()

    @property
    def all(self) -> list[str]:
        """All files that the texts depend on, with references and their sidecars."""
        sidecars = dict.fromkeys(str(sidecar(described(path))) for path, _ in self._with_references())
        return [*self.paths, *self.references, *filter(os.path.exists, sidecars)]

    def _with_references(self) -> list[tuple[str, str]]:
        """The files that hold references, each with the flag that names it."""
        if self.references or not (self.column and self.column.references):
            return [(path, self.reference_flag) for path in self.references]
        return [(path, self.flag) for path in self.paths]

    def check_contents(self, read: bool = True) -> None:
        """Raise an `InputError` if references are not what was written.

        Args:
            read: whether to read the files. If not, only missing parts of directories are found.
        """
        inside = [path for path in self.paths if any(Path(one) in Path(path).parents for one in self.directories)]
        of_parts = [made for path in inside if (made := described(path)) != path]
        for directory in dict.fromkeys([*self.directories, *of_parts]):
            if provenance := read_provenance(directory, self.flag):
                check_complete(provenance, directory, self.flag)
        for path, flag in self._with_references() if read else ():
            if provenance := read_provenance(described(path), flag):
                check_content(provenance, path, flag)

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
