"""--prepared_dir: texts that are tokenized before training, because they are large or used many times.

The texts of each split are divided into parts of equal size, see `wordmask.utils.parts`. Each part becomes one file of
tokens. Only a few batches of texts are in memory at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import datasets
import pyarrow as pa

from wordmask.config.data_arguments import DataArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.corpora import Corpus
from wordmask.data.data_report import DATA_REPORT, DataReport
from wordmask.data.file_source import ContentDigest
from wordmask.data.findings import SplitFindings, SplitText, findings_in, total
from wordmask.data.prepared_record import ADVICE, RECORD, Part, PreparedRecord, checked
from wordmask.data.sources import Source, Texts
from wordmask.data.text_tokenizer import TextTokenizer, tokens_of_split
from wordmask.data.token_store import StoredTokens, Tokenization, token_schema, tokenized, write_tokens
from wordmask.tokenization.backend import tokenizer_digest
from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import write_json
from wordmask.utils.parts import PartsDirectory, PartSource, Work
from wordmask.utils.progress import Update, bar
from wordmask.utils.quantities import as_written, counted
from wordmask.utils.write_errors import output_of_workers

logger = logging.getLogger(__name__)
T = TypeVar("T")

TEXT_FLAGS = (
    "dataset_name",
    "dataset_config_name",
    "train_file",
    "validation_file",
    "text_column_name",
    "train_ref_file",
    "validation_ref_file",
    "validation_split_percentage",
)


def _given_flags(data: DataArguments, segmentation: SegmentationArguments) -> dict[str, Any]:
    """The flags about the text and its words that do not have their default values."""
    known: list[tuple[Any, Any]] = [(data, flag) for flag in fields(data) if flag.name in TEXT_FLAGS]
    known += [(segmentation, flag) for flag in fields(segmentation)]
    values = [(flag, getattr(arguments, flag.name)) for arguments, flag in known]
    return {flag.name: value for flag, value in values if value != flag.default}


def _parts_directory(path: str | Path) -> PartsDirectory:
    return PartsDirectory(Path(path), RECORD, "--prepared_dir", "give a new directory")


def prepare(
    texts: Mapping[str, Texts[Source]],
    tokenization: Tokenization,
    segmentation: SegmentationArguments,
    work: Work,
    rate: float,
    shows_text: bool = True,
) -> str:
    """Tokenize texts into `--prepared_dir`: the parts of this shard that are not finished. Report on a complete text.

    Args:
        texts: the text of each split.
        tokenization: how they are tokenized.
        segmentation: the flags about words.
        work: how the work is divided.
        rate: the share of tokens that will be masked, for advice.
        shows_text: whether the report shows words of the texts.

    Returns:
        A line that says what is there now.

    Raises:
        InputError: if the directory holds something else, or cannot be written. Finished parts stay.
    """
    data, name = tokenization.arguments, tokenization.tokenizer.name_or_path
    directory = _parts_directory(str(data.prepared_dir))
    tokenizers = {split: tokenization.of(of_split) for split, of_split in texts.items()}
    record = _record(name, _given_flags(data, segmentation), work.part_lines, texts, tokenizers)
    parts = record.parts[work.shard_index :: work.num_shards]
    schema = token_schema(next(iter(tokenizers.values())).dtype)  # the same for all: the vocabulary decides
    go_on = "run again to continue"
    writing = partial(output_of_workers, "--prepared_dir", directory.path, "--preprocessing_num_workers", go_on)
    with writing():
        directory.claim(asdict(record), lambda earlier: record.differences(checked(earlier, directory.path)))
        with bar("tokenizing", "texts") as update:
            sources = _sources(texts, parts, update)
            tokenize = partial(tokens_of_split, tokenizers)
            directory.make(sources, tokenize, work.num_workers, partial(write_tokens, schema=schema))
    is_complete = all(directory.is_finished(part.file) for part in record.parts)
    parts = record.parts if is_complete else parts
    found = {
        split: SplitFindings(
            total(_read_parts(directory.path, parts, split, findings_in)),
            one.flag,
            one.reference_flag,
            tokenizers[split].words_from,
        )
        for split, one in texts.items()
    }
    reported = {split: SplitText(found[split], len(one.source)) for split, one in texts.items()}
    report = DataReport.of(reported, tokenization.tokenizer, tokenization.segmentation is not None, rate, shows_text)
    if is_complete:
        with writing():
            write_json(directory.path / DATA_REPORT, report.to_json())
        report.show()
    else:
        report.warn()
    return _report(directory, record)


def _record(
    name: str,
    flags: dict[str, Any],
    part_lines: int,
    texts: Mapping[str, Texts[Source]],
    tokenizers: Mapping[str, TextTokenizer],
) -> PreparedRecord:
    """What a directory of tokens is made from; `name` is that of the tokenizer."""
    return PreparedRecord(
        name,
        flags,
        part_lines,
        {split: len(of_split.source) for split, of_split in texts.items()},
        {split: of_split.source.digest for split, of_split in texts.items()},
        {split: tokenizer.identity() for split, tokenizer in tokenizers.items()},
        {split: {corpus.name: corpus.texts for corpus in of_split.corpora} for split, of_split in texts.items()},
        {split: texts[split].words_from or tokenizer.words_from for split, tokenizer in tokenizers.items()},
        {split: of_split.fingerprint for split, of_split in texts.items()},
    )


def _sources(texts: Mapping[str, Texts[Source]], parts: Sequence[Part], update: Update) -> Iterator[PartSource]:
    """The source of each part. `update` gets the number of texts that were read."""
    count, text_count = 0, sum(len(part.texts) for part in parts)

    def read(split: str, tables: Iterable[pa.Table], digest: ContentDigest) -> Iterator[tuple[str, pa.Table]]:
        nonlocal count
        for table in tables:
            digest.add(table)
            yield split, table
            count += len(table)
            update(count, count, text_count)

    for split, group in groupby(parts, attrgetter("split")):
        of_split = list(group)
        for part, tables in zip(of_split, texts[split].tables(part.texts for part in of_split), strict=True):
            digest = ContentDigest()
            yield PartSource(part.file, part.label, read(split, tables, digest), digest)


def _read_parts(directory: Path, parts: Iterable[Part], split: str, read: Callable[[str], T]) -> list[T]:
    """What `read` returns for the file of each part of a split.

    Raises:
        InputError: if a file cannot be read.
    """
    results = []
    for path in (directory / part.file for part in parts if part.split == split):
        try:
            results.append(read(str(path)))
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(
                f"--prepared_dir: {path} cannot be read ({one_line(error)}); remove it and run --prepare_only again"
            ) from None
    return results


def _report(directory: PartsDirectory, record: PreparedRecord) -> str:
    parts = record.parts
    finished = sum(directory.is_finished(part.file) for part in parts)
    if finished < len(parts):
        return f"this shard is done, {finished} of {len(parts)} parts are there: {directory.path}"
    for unfinished in directory.path.glob(".*-of-*"):  # left by a process that was killed
        unfinished.unlink(missing_ok=True)
    splits = ", ".join(f"{counted(count, 'text')} of {split}" for split, count in record.texts.items())
    return f"{splits} in {counted(len(parts), 'part')}: {directory.path}"


@dataclass(frozen=True)
class PreparedTexts:
    """The tokens of one split in a directory.

    Attributes:
        directory, record: the directory and its record.
        split: the name of the split.
        flag: the flag that names the directory, for error messages.
    """

    directory: Path
    record: PreparedRecord
    split: str
    flag: str = "--prepared_dir"

    @property
    def fingerprint(self) -> str:
        """That of the text itself, so that a run may go on with its tokens."""
        return self.record.fingerprints[self.split]

    @property
    def words_from(self) -> str:
        """Where words come from, if not from the text itself."""
        return self.record.words_from[self.split]

    @property
    def corpora(self) -> list[Corpus]:
        """The parts of the text, if the directory knows them."""
        return [Corpus(*item) for item in self.record.corpora.get(self.split, {}).items()]

    def tokens(self, tokenization: Tokenization) -> StoredTokens:
        """The tokens, read from disk.

        Raises:
            InputError: if they were made with another tokenizer, or for lines instead of blocks.
        """
        tokenizer, separator = tokenization.tokenizer, tokenization.separator
        made = self.record.made_with[self.split]
        if made["tokenizer"] != tokenizer_digest(tokenizer):
            raise InputError(
                f"--prepared_dir: {self.directory} was made with another tokenizer ({self.record.tokenizer}) than the "
                f"one given ({tokenizer.name_or_path}); give that one, or prepare the text again"
            )
        if tokenization.segmentation and made.get("without_words"):
            raise InputError(
                f"--prepared_dir: {self.directory} was made for masking tokens and has no words; use run_mlm.py, or "
                "prepare the text again with run_mlm_wwm.py"
            )
        if made["separator"] != separator:
            flag, made_for = (
                ("--line_by_line", "lines") if made["separator"] is None else ("--no_line_by_line", "joined text")
            )
            raise InputError(
                f"--prepared_dir: {self.directory} was made for {made_for}; add {flag}, or prepare the text again"
            )
        parts = self.directory, self.record.parts, self.split
        dataset = datasets.concatenate_datasets(_read_parts(*parts, datasets.Dataset.from_file))
        segmented_by = self.words_from if self.record.flags.get("segmenter") else ""
        findings = SplitFindings(total(_read_parts(*parts, findings_in)), self.flag, self.flag, segmented_by)
        return StoredTokens(dataset, separator is not None, findings)


RunTexts: TypeAlias = Mapping[str, "Texts[Any] | PreparedTexts"]  # by split


def load_prepared(arguments: DataArguments, segmentation: SegmentationArguments) -> dict[str, PreparedTexts]:
    """The splits in `--prepared_dir`.

    Raises:
        InputError: if a part is missing, or a flag says that the text is another.
    """
    parts = _parts_directory(str(arguments.prepared_dir))
    directory = parts.path
    try:
        record = checked(parts.read(), directory)
    except FileNotFoundError:
        problem = "was not made with --prepare_only" if directory.is_dir() else "is no directory"
        raise InputError(f"--prepared_dir: {directory} {problem}; {ADVICE} first") from None
    defaults = {flag.name: flag.default for flag in (*fields(arguments), *fields(segmentation))}
    for name, value in _given_flags(arguments, segmentation).items():
        prepared = record.flags.get(name, defaults[name])
        if prepared != value:
            raise InputError(
                f"--{name}: {as_written(value)} is not what {directory} was made with ({as_written(prepared)}); "
                "drop the flag, or give another --prepared_dir"
            )
    missing = [part for part in record.parts if not parts.is_finished(part.file)]
    if missing:
        more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        first = f"{missing[0].label} ({missing[0].file})"
        raise InputError(
            f"--prepared_dir: {directory} is not complete, {first}{more} missing; run --prepare_only again"
        )
    for split, count in record.texts.items():
        logger.warning("--prepared_dir: %s of %s, tokenized before, from %s", counted(count, "text"), split, directory)
    return {split: PreparedTexts(directory, record, split) for split in record.texts}


def word_flags(texts: RunTexts) -> dict[str, Any]:
    """The flags about words that --prepared_dir was made with; none for texts that come as they are."""
    known = {flag.name for flag in fields(SegmentationArguments)}
    records = [text.record for text in texts.values() if isinstance(text, PreparedTexts)]
    return {name: value for record in records[:1] for name, value in record.flags.items() if name in known}


def tokens_of(texts: Texts[Source] | PreparedTexts, tokenization: Tokenization) -> StoredTokens:
    """The tokens of a text, from `--prepared_dir`, or made now and kept in the cache."""
    return texts.tokens(tokenization) if isinstance(texts, PreparedTexts) else tokenized(texts, tokenization)
