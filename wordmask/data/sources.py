"""The text of a run: from local files, from the hub, or from a dataset on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

import datasets
import numpy as np
import pyarrow as pa

from wordmask.config.data_arguments import LONGEST, DataArguments
from wordmask.data.corpora import Corpus, corpus_names, within
from wordmask.data.dataset_source import (
    FLAG,
    DatasetSource,
    DatasetStream,
    evaluated,
    loaded_dataset,
    with_text_column,
)
from wordmask.data.file_source import FileSource, FileStream, count_texts, stream_texts
from wordmask.data.split_files import SplitFiles, warn_of_repeats
from wordmask.data.text_counts import REPORTED, spread
from wordmask.references.content import described
from wordmask.references.provenance import Provenance, read_provenance, warn_of_other_words
from wordmask.utils.cache import cache_directory
from wordmask.utils.errors import InputError
from wordmask.utils.progress import tracked
from wordmask.utils.quantities import counted
from wordmask.utils.readers import check_column_name, choose_column, summary
from wordmask.utils.readers.paths import expand_files, find_text_files

SPLITS = ("train", "validation")
logger = logging.getLogger(__name__)


class Source(Protocol):
    """Texts of known number, in tables with the column `text`, and `chinese_ref` if there are references.

    Attributes:
        digest: that of the content of files; `None` for datasets.
        fingerprint: what tells these texts from others.
    """

    @property
    def digest(self) -> str | None: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def select(self, spans: Sequence[range]) -> Source:
        """The texts of some spans, in order."""
        ...

    def tables(self, spans: Iterable[range]) -> Iterator[Iterator[pa.Table]]:
        """The texts of each span, in tables of a thousand, or fewer if texts are long.

        Spans are in order and do not overlap. Read each one to its end before you ask for the next one.
        """
        ...


class Stream(Protocol):
    """Texts of unknown number, in tables as `Source` has them.

    Attributes:
        fingerprint: what tells these texts from others, as far as is known without reading them; `None` if nothing is.
        shard_sizes: how large each shard is, in any unit. Different processes can read different shards.
    """

    @property
    def fingerprint(self) -> str | None: ...

    @property
    def shard_sizes(self) -> Sequence[int]: ...

    def take(self, limit: int) -> Stream:
        """The first `limit` texts, as one shard."""
        ...

    def tables(self, shard: int, size: int) -> Iterator[pa.Table]:
        """The texts of a shard, `size` at a time, or fewer if they are long."""
        ...


AnySource = TypeVar("AnySource", bound=Source | Stream)


@dataclass
class Texts(Generic[AnySource]):
    """The text of one split before it is tokenized.

    Attributes:
        source: a `Source`, or a `Stream` if the text is streamed.
        flag: the flag that names the text, for error messages.
        reference_flag: the flag that names the references; empty if there are none.
        references: the files with the references. The column `file` of a table is an index of this list.
        corpora: the parts of the text, one for each entry of the flag; empty for streams and datasets.
        segmented_by: where a segmenter's words come from; known when the text was tokenized.
    """

    source: AnySource
    flag: str
    reference_flag: str = ""
    references: Sequence[str] = ()
    corpora: Sequence[Corpus] = ()
    segmented_by: str = ""

    @cached_property
    def provenance(self) -> dict[str, Provenance]:
        """The provenance of each reference file that has one."""
        of_all = {path: read_provenance(described(path), self.reference_flag) for path in self.references}
        return {path: provenance for path, provenance in of_all.items() if provenance}

    @property
    def words_from(self) -> str:
        """Where words come from; empty if they come from the text itself, or if that is not known yet."""
        found = [made.words if (made := self.provenance.get(path)) else "a reference file" for path in self.references]
        return " and ".join(dict.fromkeys(found)) or self.segmented_by

    @property
    def is_stream(self) -> bool:
        """Whether the number of texts is not known."""
        return not isinstance(self.source, Sized)

    @property
    def fingerprint(self) -> Any:
        """What tells these texts from others; of a stream `None` if that is not known."""
        return self.source.fingerprint

    def tables(self: Texts[Source], spans: Iterable[range]) -> Iterator[Iterator[pa.Table]]:
        """The texts of each span, see `Source`; a column says which the data report counts. Not for streams."""
        spans = list(spans)
        for span, tables in zip(spans, self.source.tables(spans), strict=True):
            yield self._with_reported(tables, span.start)

    def _with_reported(self: Texts[Source], tables: Iterable[pa.Table], number: int) -> Iterator[pa.Table]:
        for table in tables:
            reported = spread(number, len(table), len(self.source))
            number += len(table)
            # `take` copies, because pickle sends a slice with its whole table.
            yield table.take(np.arange(len(table))).append_column(REPORTED, pa.array(reported))

    def batches(self: Texts[Source]) -> Iterator[pa.Table]:
        """All texts in order. Not for streams."""
        return chain.from_iterable(self.tables([range(len(self.source))]))

    def lines(self: Texts[Source], doing: str) -> Iterator[list[str]]:
        """The same without references, as lists of strings, with a bar that says what is being done."""
        for table in tracked(self.batches(), doing, "texts", len(self.source)):
            yield [text or "" for text in table["text"].to_pylist()]


def load_texts(
    arguments: DataArguments, cache_dir: str | None, token: str | None, evaluate: bool, if_possible: bool = False
) -> dict[str, Texts[Any]]:
    """The texts of the splits `train` and `validation`, if given. The log says in one line what was read.

    Args:
        arguments: where the text is.
        cache_dir: the directory that remembers what was read.
        token: the access token of the hub.
        evaluate: whether we need validation data. Without it, a part of the training text is set apart.
        if_possible: the same, but a single text is only trained on.

    Raises:
        InputError: naming the flag, if text is missing or cannot be read.
    """
    if arguments.dataset_name:
        texts = _from_dataset(arguments, cache_dir, token, evaluate or if_possible)
    else:
        texts = _from_files(arguments, cache_dir)
    warn_of_other_words((each.reference_flag, *item) for each in texts.values() for item in each.provenance.items())
    percentage = arguments.validation_split_percentage
    splits = percentage and "train" in texts and "validation" not in texts and not arguments.streaming
    if splits and (evaluate or if_possible and len(texts["train"].source) > 1):
        texts |= _split(texts["train"], percentage, arguments.train_weights is not None)
    return texts


def _split(texts: Texts[Source], percentage: int, by_corpus: bool) -> dict[str, Texts[Any]]:
    """Set the first part of a text apart for evaluation, or the first part of each corpus."""
    train: list[range] = []
    validation: list[range] = []
    start = 0
    for corpus in texts.corpora if by_corpus else [Corpus("", len(texts.source))]:
        part = max(1, round(corpus.texts * percentage / 100))
        if part >= corpus.texts:
            of_corpus = f" of {corpus.name}" if by_corpus else ""
            raise InputError(
                f"{texts.flag}: {counted(corpus.texts, 'text')}{of_corpus} is too few to set {percentage} % apart for "
                "evaluation; give --validation_file, or --validation_split_percentage 0"
            )
        validation.append(range(start, start + part))
        train.append(range(start + part, start + corpus.texts))
        start += corpus.texts
    corpora = within(texts.corpora, train), within(texts.corpora, validation) if by_corpus else []
    return {
        split: replace(texts, source=texts.source.select(spans), corpora=of_split)
        for split, spans, of_split in zip(SPLITS, (train, validation), corpora, strict=True)
    }


def _from_files(arguments: DataArguments, cache_dir: str | None) -> dict[str, Texts[Any]]:
    """The text of local files, with its references if there are any."""
    files = {split: _files(arguments, split) for split in SPLITS if getattr(arguments, f"{split}_file")}
    all_files = list(files.values())
    warn_of_repeats(all_files)
    check_column_name([each.column for each in all_files], arguments.text_column_name, all_files[0].paths[0])
    texts = {}
    for split, given in files.items():
        if arguments.streaming and split == "train":  # validation text is always read once and kept
            source: FileStream | FileSource = stream_texts(given)
            sentence = summary(None, 0, len(given.paths), given.column)
        else:
            source = count_texts(given, cache_directory(cache_dir), arguments.overwrite_cache)
            sentence = summary(len(source), source.blank_count, len(given.paths), given.column)
        logger.warning("%s: %s", given.flag, sentence)
        in_tables = given.column and given.column.references and not given.references
        files_of_words = given.paths if in_tables else given.references
        flag_of_words = given.flag if in_tables else given.reference_flag if files_of_words else ""
        corpora = source.corpora if isinstance(source, FileSource) else []
        texts[split] = Texts(source, given.flag, flag_of_words, files_of_words, corpora)
    return texts


def _files(arguments: DataArguments, split: str) -> SplitFiles:
    """The files of a split."""
    flag, reference_flag = f"--{split}_file", f"--{split}_ref_file"
    entries = getattr(arguments, f"{split}_file")
    files = find_text_files(entries, flag)
    references = expand_files(getattr(arguments, f"{split}_ref_file") or [], reference_flag)
    if references and len(references) != len(files):
        raise InputError(
            f"{reference_flag}: {len(references)} reference files for {len(files)} text files; give one for each"
        )
    column = choose_column(files, flag, arguments.text_column_name)
    counts = [len(expand_files([entry], flag, directories=True)) for entry in entries]
    corpora = dict(zip(corpus_names(entries), counts, strict=True))
    directories = tuple(filter(os.path.isdir, entries))
    return SplitFiles(tuple(files), flag, column, tuple(references), reference_flag, corpora, directories)


def _from_dataset(
    arguments: DataArguments, cache_dir: str | None, token: str | None, evaluate: bool
) -> dict[str, Texts[Any]]:
    """The splits of a dataset of the hub, or of one saved on disk."""
    name, flag = str(arguments.dataset_name), FLAG
    loaded = loaded_dataset(arguments, name, cache_dir, token)
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    texts = {}
    for split in filter(splits.__contains__, SPLITS):
        dataset, column = with_text_column(splits[split], arguments.text_column_name, flag, name)
        if arguments.streaming and split == "validation":  # validation text is always read once and kept
            # A text has a token at least, so a block needs no more texts than it has tokens.
            texts_of_one = 1 if arguments.line_by_line else arguments.max_seq_length or LONGEST
            dataset = evaluated(dataset, name, (arguments.max_eval_samples or 10**9) * texts_of_one)
        source: DatasetStream | DatasetSource
        if isinstance(dataset, datasets.IterableDataset):
            source, count = DatasetStream(dataset, name), "a stream of texts"
        else:
            source, count = DatasetSource(dataset, name), counted(len(dataset), "text")
            if not source.has_text():
                if split == "validation" and not evaluate:
                    continue
                raise InputError(f"{flag}: {name} holds no text in the split {split}; give one with texts")
        logger.warning("%s: %s from column %s of the split %s of %s", flag, count, column, split, name)
        texts[split] = Texts(source, flag, *((flag, [name]) if column.references else ()))
    if not texts:
        raise InputError(f"--dataset_name: {name} has no split named train or validation, but {', '.join(splits)}")
    return texts
