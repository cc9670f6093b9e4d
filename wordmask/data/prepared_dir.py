"""Text tokenized ahead of training, for corpora that outgrow a machine, or that are trained on many times.

The texts of a split are divided into parts of equal number. A part is tokenized in batches that its content alone
decides, is written under a temporary name and then renamed: one part of the text in, one file out. So the files do not
depend on the number of processes, on interruptions, or on how parts were divided over machines. Texts pass to them one
batch after the other, so that no more than a few batches are held.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from wordmask.config.arguments import Arguments, DataArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.findings import Findings, Found, TokenBatch, findings_in, total, warn_of_findings
from wordmask.data.sources import Source, Texts, divided
from wordmask.data.text_files import ContentDigest
from wordmask.data.token_store import TokenStream, token_schema, tokenized, write_tokens
from wordmask.data.tokenize import VERSION, Preparation, separator, tokenizer_identity, tokens_of_split
from wordmask.references.writer import Work
from wordmask.tokenization.encoding import require_fast
from wordmask.utils.cache import hashed
from wordmask.utils.errors import InputError, one_line, output_of_workers
from wordmask.utils.files import write_atomically
from wordmask.utils.progress import bar
from wordmask.utils.workers import parallel_map

logger = logging.getLogger(__name__)

RECORD = "wordmask_prepared.json"
SOURCE = b"wordmask.source"  # in the schema of a part, the digest of what it was made from
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


@dataclass(frozen=True)
class Part:
    """Some texts of a split, which are tokenized into one file.

    Attributes:
        split: which one.
        number: the part's, of so many `parts`.
        texts: the numbers of its texts.
    """

    split: str
    number: int
    parts: int
    texts: range

    @property
    def file(self) -> str:
        return f"{self.split}-{self.number:05d}-of-{self.parts:05d}.arrow"

    def __str__(self) -> str:
        return f"part {self.number + 1} of {self.parts} of {self.split}"


@dataclass(frozen=True)
class Record:
    """What a directory of tokenized text was made from.

    Attributes:
        tokenizer: the tokenizer's name, for people.
        flags: the flags that say what is text and what are words, as far as they were given.
        part_lines: the texts in a part.
        texts: the number of texts of each split.
        digests: those of the files of each split; `None` for datasets.
        made_with: for each split what its tokens depend on besides, see `Preparation.identity`.
    """

    tokenizer: str
    flags: dict[str, Any]
    part_lines: int
    texts: dict[str, int]
    digests: dict[str, str | None]
    made_with: dict[str, dict[str, Any]]

    def parts(self, split: str) -> list[Part]:
        """The parts of a split, in order."""
        spans = divided(range(self.texts[split]), self.part_lines)
        return [Part(split, number, len(spans), span) for number, span in enumerate(spans)]

    @property
    def all_parts(self) -> list[Part]:
        """The parts of all splits."""
        return [part for split in self.texts for part in self.parts(split)]

    def differences(self, other: Record) -> list[str]:
        """The names of what makes other parts, or others of the same name."""
        if self.texts.keys() != other.texts.keys():
            return ["choice of splits"]
        names = {name for made in self.made_with.values() for name in made}
        different = ["--part_lines"] * (self.part_lines != other.part_lines)
        different += ["text"] * ((self.texts, self.digests) != (other.texts, other.digests))
        return different + [
            "--line_by_line" if name == "separator" else name
            for name in sorted(names)
            if any(made.get(name) != other.made_with[split].get(name) for split, made in self.made_with.items())
        ]


def _given_flags(data: DataArguments, segmentation: SegmentationArguments) -> dict[str, Any]:
    """The flags that say what is text and what are words, without those that are left at their defaults."""
    known: list[tuple[Any, Any]] = [(data, flag) for flag in fields(data) if flag.name in TEXT_FLAGS]
    known += [(segmentation, flag) for flag in fields(segmentation)]
    values = [(flag, getattr(concern, flag.name)) for concern, flag in known]
    return {flag.name: value for flag, value in values if value != flag.default}


def _read_record(directory: Path) -> Record:
    try:
        record = Record(**json.loads((directory / RECORD).read_text(encoding="utf-8")))
        versions = {made["version"] for made in record.made_with.values()}
    except FileNotFoundError:
        what = "was not made with --prepare_only" if directory.is_dir() else "is no directory"
        raise InputError(
            f"--prepared_dir: {directory} {what}; tokenize the text into a new directory with --prepare_only first"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise InputError(f"--prepared_dir: {directory / RECORD} cannot be read ({one_line(error)})") from None
    if versions - {VERSION}:
        raise InputError(
            f"--prepared_dir: {directory} was made by another version of this suite, which tells words apart by "
            "another rule; tokenize the text again into a new directory with --prepare_only"
        )
    return record


@dataclass(frozen=True)
class PartWriter:
    """Tokenizes parts into their files.

    Attributes:
        directory: where they go.
        texts: the text of each split.
        preparations: what tokenizes each split.
        made_with: their identities.
        advance: is told how many texts more are done.
    """

    directory: Path
    texts: Mapping[str, Texts[Source]]
    preparations: Mapping[str, Preparation]
    made_with: Mapping[str, dict[str, Any]]
    advance: Callable[[int], Any]

    def __call__(self, parts: Sequence[Part], workers: int) -> None:
        """Write the parts that are not there yet, in order, and check those that are.

        Args:
            parts: a share of all parts, in order.
            workers: the processes that tokenize.

        Raises:
            InputError: where a part is there and was made from something else.
        """
        missing = [part for part in parts if not self._path(part).exists()]
        digests = {part: self._digest(part) for part in parts}
        with parallel_map(partial(tokens_of_split, self.preparations), workers) as tokenize:
            tokens = tokenize(self._read(parts, set(missing), digests))
            for part in missing:
                own = _take(tokens, len(part.texts), lambda batch: len(batch.tokens))
                self._write(part, own, digests[part])
            deque(tokens, maxlen=0)  # so that what is there behind the last missing one is checked, too

    def _path(self, part: Part) -> Path:
        return self.directory / part.file

    def _digest(self, part: Part) -> ContentDigest:
        """The digest of what tokenizes a part, to which its texts are to be added."""
        return ContentDigest(json.dumps(self.made_with[part.split], sort_keys=True))

    def _read(
        self, parts: Sequence[Part], missing: Set[Part], digests: Mapping[Part, Any]
    ) -> Iterator[tuple[str, pa.Table]]:
        """The texts of missing parts, batch by batch, with their split; all texts are added to the digests."""
        for split, group in groupby(parts, attrgetter("split")):
            own = list(group)
            tables = self.texts[split].tables(part.texts for part in own)
            for part in own:
                for table in _take(tables, len(part.texts)):
                    digests[part].add(table)
                    if part in missing:
                        yield split, table
                    else:
                        self.advance(len(table))
                if part not in missing and _source(self._path(part)) != digests[part].hexdigest().encode():
                    raise InputError(
                        f"--prepared_dir: {part} in {self.directory} was made from another text; give a new directory"
                    )

    def _write(self, part: Part, tokens: Iterable[TokenBatch], digest: Any) -> None:
        """Write a part. Its digest, which stands at the beginning, is whole when the last of its tokens have come."""
        schema = token_schema(self.preparations[part.split].dtype)

        def with_source() -> pa.Schema:
            return schema.with_metadata({**schema.metadata, SOURCE: digest.hexdigest().encode()})

        with write_atomically(self._path(part), binary=True) as file:
            write_tokens(file, with_source(), tokens, self.advance)
            file.seek(0)
            file.write(with_source().serialize())  # which is as long as before


def _take(batches: Iterator[Any], count: int, size: Callable[[Any], int] = len) -> Iterator[Any]:
    """The next batches, which have so many texts together; none goes beyond them."""
    while count:
        batch = next(batches)
        count -= size(batch)
        yield batch


def _source(path: Path) -> bytes | None:
    """The digest of what a part was made from."""
    with _reads(path), pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        return (stream.schema.metadata or {}).get(SOURCE)


@contextmanager
def _reads(path: Path) -> Iterator[None]:
    """Report a part that cannot be read."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"--prepared_dir: {path} cannot be read ({one_line(error)}); remove it and run --prepare_only again"
        ) from None


def _findings(directory: Path, parts: Sequence[Part]) -> Findings:
    """What was found in the texts of some parts."""
    found = []
    for part in parts:
        with _reads(directory / part.file):
            found.append(findings_in(directory / part.file))
    return total(found)


def prepare(texts: Mapping[str, Texts[Source]], tokenizer, arguments: Arguments, work: Work) -> str:
    """Tokenize texts into `--prepared_dir`, as far as they are this run's to do and not done yet.

    Args:
        texts: the text of each split.
        tokenizer: the tokenizer.
        arguments: the run's.
        work: how the parts are divided.

    Returns:
        A line that says what is there now.

    Raises:
        InputError: where the directory holds something else, or cannot be written. Finished parts stay.
    """
    data, directory = arguments.data, Path(str(arguments.data.prepared_dir))
    end = separator(tokenizer, data.line_by_line)
    preparations = {split: Preparation(tokenizer, own, end, arguments.words) for split, own in texts.items()}
    record = Record(
        tokenizer.name_or_path,
        _given_flags(data, arguments.segmentation),
        work.part_lines,
        {split: len(own.source) for split, own in texts.items()},
        {split: own.source.digest for split, own in texts.items()},
        {split: preparation.identity() for split, preparation in preparations.items()},
    )
    own_parts = record.all_parts[work.shard :: work.shards]
    with output_of_workers("--prepared_dir", directory, "--preprocessing_num_workers", "run again to go on"):
        _claim(directory, record)
        total = sum(len(part.texts) for part in own_parts)
        with bar("Tokenizing", " texts", total) as progress:
            PartWriter(directory, texts, preparations, record.made_with, progress.update)(own_parts, work.workers)
    found = [
        Found(_findings(directory, [part for part in own_parts if part.split == split]), own.flag, own.reference_flag)
        for split, own in texts.items()
    ]
    warn_of_findings(found, masks_words=arguments.words is not None)
    return _report(directory, record)


def _claim(directory: Path, record: Record) -> None:
    """Make a directory this suite's, or check that what is in it was made from the same."""
    path = directory / RECORD
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--prepared_dir: {directory} is a file; give a directory")
    directory.mkdir(parents=True, exist_ok=True)
    others = [other.name for other in directory.iterdir() if not other.name.startswith(f".{RECORD}")]
    if others and not path.exists():
        raise InputError(
            f"--prepared_dir: {directory} holds {min(others)} and no record of this suite; give an empty or a new "
            "directory"
        )
    if not path.exists():  # shards that start together all write the same
        with write_atomically(path) as file:
            json.dump(asdict(record), file, ensure_ascii=False, indent=2)
            file.write("\n")
    different = record.differences(_read_record(directory))
    if different:
        raise InputError(
            f"--prepared_dir: {directory} was made with another {', '.join(different)}; give the same flags, or a new "
            "directory"
        )


def _report(directory: Path, record: Record) -> str:
    parts = record.all_parts
    there = sum((directory / part.file).exists() for part in parts)
    if there < len(parts):
        return f"this shard is done, {there} of all {len(parts)} parts are there: {directory}"
    for left in directory.glob(".*-of-*.arrow.*"):  # by a process that was killed
        left.unlink(missing_ok=True)
    splits = ", ".join(f"{count:,} texts of {split}" for split, count in record.texts.items())
    return f"{splits} in {len(parts)} parts: {directory}"


@dataclass(frozen=True)
class PreparedTexts:
    """The tokenized text of one split.

    Attributes:
        directory, record, split: where it lies, and which it is.
        flag: the flag that names it, for error messages.
    """

    directory: Path
    record: Record
    split: str
    flag: str = "--prepared_dir"

    @property
    def fingerprint(self) -> str:
        """What tells this text from others, as far as the record says."""
        return hashed(self.record.digests[self.split], self.record.texts, self.split)

    def tokens(self, tokenizer, arguments: DataArguments, words: SegmentationArguments | None) -> TokenStream:
        """The tokens, read where they lie on disk.

        Raises:
            InputError: where they were made with another tokenizer, or for other rows.
        """
        if words:
            require_fast(tokenizer, "--tokenizer_name", ", or use --masking_strategy token")
        made, end = self.record.made_with[self.split], separator(tokenizer, arguments.line_by_line)
        if made["tokenizer"] != tokenizer_identity(tokenizer):
            raise InputError(
                f"--prepared_dir: {self.directory} was made with another tokenizer ({self.record.tokenizer}) than the "
                f"one given ({tokenizer.name_or_path}); give that one, or prepare the text again"
            )
        if made["separator"] != end:
            flag, what = (
                ("--line_by_line", "lines") if made["separator"] is None else ("--no_line_by_line", "joined text")
            )
            raise InputError(
                f"--prepared_dir: {self.directory} was made for {what}; add {flag}, or prepare the text again"
            )
        parts = []
        for part in self.record.parts(self.split):
            with _reads(self.directory / part.file):
                parts.append(datasets.Dataset.from_file(str(self.directory / part.file)))
        found = _findings(self.directory, self.record.parts(self.split))
        return TokenStream(datasets.concatenate_datasets(parts), end is not None, Found(found, self.flag, self.flag))


def load_prepared(arguments: DataArguments, segmentation: SegmentationArguments) -> dict[str, PreparedTexts]:
    """The splits in `--prepared_dir`.

    Raises:
        InputError: where a part is missing, or flags say that the text is another.
    """
    directory = Path(str(arguments.prepared_dir))
    record = _read_record(directory)
    defaults = {flag.name: flag.default for flag in (*fields(arguments), *fields(segmentation))}
    for name, value in _given_flags(arguments, segmentation).items():
        before = record.flags.get(name, defaults[name])
        if before != value:
            raise InputError(
                f"--{name}: {_shown(value)} is not what {directory} was made with ({_shown(before)}); drop the flag, "
                "or give another --prepared_dir"
            )
    missing = [part for part in record.all_parts if not (directory / part.file).exists()]
    if missing:
        more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        raise InputError(
            f"--prepared_dir: {directory} is not complete, {missing[0]}{more} missing; run --prepare_only again"
        )
    for split, count in record.texts.items():
        logger.warning("--prepared_dir: %s texts of %s, tokenized before, from %s", f"{count:,}", split, directory)
    return {split: PreparedTexts(directory, record, split) for split in record.texts}


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else "none" if value is None else str(value)


def tokens_of(
    texts: Texts[Source] | PreparedTexts,
    tokenizer,
    arguments: DataArguments,
    words: SegmentationArguments | None,
    cache_dir: str | None,
) -> TokenStream:
    """The tokens of a text, from `--prepared_dir` or made now and kept in the cache."""
    if isinstance(texts, PreparedTexts):
        return texts.tokens(tokenizer, arguments, words)
    return tokenized(texts, tokenizer, arguments, words, cache_dir)
