"""The text of a run: from files of any format, from the hub, or from a dataset on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import datasets
import numpy as np
import pyarrow as pa

from wordmask.config.arguments import DataArguments
from wordmask.data.text_files import Files, count_texts, rebatched, stream_texts
from wordmask.references.provenance import Provenance, read_provenance, sidecar
from wordmask.utils.batches import BATCH
from wordmask.utils.cache import cache_directory
from wordmask.utils.errors import InputError, one_line
from wordmask.utils.hub import quiet_hub
from wordmask.utils.readers import check_column_name, choose_column, expand_files, summary, text_files
from wordmask.utils.readers.columns import REFERENCES, Column, Keys, choose, flattened, observe, summarized, values_at
from wordmask.utils.readers.parquet_file import kinds_of

logger = logging.getLogger(__name__)


def divided(numbers: range, size: int) -> list[range]:
    """Ranges of `size` numbers, the last one shorter."""
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


class Source(Protocol):
    """Texts that are all there, in tables with the column `text` and, where there are references, `chinese_ref`.

    Attributes:
        is_stream: `False`.
        digest: that of the content of files; `None` for datasets.
        fingerprint: what tells these texts from others.
    """

    @property
    def is_stream(self) -> bool: ...

    @property
    def digest(self) -> str | None: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def select(self, span: range) -> Source:
        """The texts of a span."""
        ...

    def tables(self, spans: Iterable[range]) -> Iterator[Iterator[pa.Table]]:
        """The texts of each span, in tables of a thousand, or fewer if they are long.

        Spans are in order and do not overlap. Read each one to its end before you ask for the next.
        """
        ...


class Stream(Protocol):
    """Texts of unknown number, in tables as `Source` has them.

    Attributes:
        is_stream: `True`.
        shards: the number of pieces that different processes can read.
    """

    @property
    def is_stream(self) -> bool: ...

    @property
    def shards(self) -> int: ...

    def take(self, limit: int) -> Stream:
        """The first `limit` texts, as one shard."""
        ...

    def tables(self, shard: int, size: int) -> Iterator[pa.Table]:
        """The texts of a shard, `size` at a time, or fewer if they are long."""
        ...


@dataclass(frozen=True)
class DatasetTexts:
    """A `Source` of a dataset with the column `text`."""

    dataset: datasets.Dataset
    is_stream, digest = False, None

    @property
    def fingerprint(self) -> str:
        return self.dataset._fingerprint

    def __len__(self) -> int:
        return len(self.dataset)

    def select(self, span: range) -> DatasetTexts:
        return DatasetTexts(self.dataset.select(span))

    def tables(self, spans: Iterable[range]) -> Iterator[Iterator[pa.Table]]:
        dataset = self.dataset.with_format("arrow")
        for span in spans:
            yield rebatched(dataset[some.start : some.stop] for some in divided(span, BATCH))


@dataclass(frozen=True)
class DatasetStream:
    """A `Stream` of a dataset with the column `text`."""

    dataset: datasets.IterableDataset
    limited: bool = False
    is_stream = True

    @property
    def shards(self) -> int:
        return 1 if self.limited else self.dataset.num_shards

    def take(self, limit: int) -> DatasetStream:
        return DatasetStream(self.dataset.take(limit), limited=True)

    def tables(self, shard: int, size: int) -> Iterator[pa.Table]:
        own = self.dataset.shard(self.shards, shard) if self.shards > 1 else self.dataset
        names = ("text", REFERENCES)
        return rebatched(
            pa.table({name: batch[name] for name in names if name in batch}) for batch in own.iter(batch_size=size)
        )


AnySource = TypeVar("AnySource", bound=Source | Stream)


@dataclass
class Texts(Generic[AnySource]):
    """The text of one split before it is tokenized.

    Attributes:
        source: a `Source`, or a `Stream` where the text is streamed.
        flag: the flag that names the text, for error messages.
        reference_flag: the flag that names the references.
        references: the files that hold the references, each of which `file` counts where tables have that column.
    """

    source: AnySource
    flag: str
    reference_flag: str = ""
    references: Sequence[str] = ()

    @cached_property
    def provenance(self) -> dict[str, Provenance]:
        """The provenance of each reference file that has one."""
        found = {path: read_provenance(_described(path), self.reference_flag) for path in self.references}
        return {path: provenance for path, provenance in found.items() if provenance}

    @property
    def is_stream(self) -> bool:
        """Whether the number of texts is not known."""
        return self.source.is_stream

    @property
    def fingerprint(self: Texts[Source]) -> str:
        """What tells these texts from others. Not for streams."""
        return self.source.fingerprint

    def tables(self: Texts[Source], spans: Iterable[range]) -> Iterator[Iterator[pa.Table]]:
        """The texts of each span, see `Source`. Not for streams."""
        for tables in self.source.tables(spans):  # copied: pickle sends a slice with all of its table
            yield (table.take(np.arange(len(table))) for table in tables)

    def batches(self: Texts[Source]) -> Iterator[pa.Table]:
        """All texts in order. Not for streams."""
        return chain.from_iterable(self.tables([range(len(self.source))]))


def _described(path: str) -> str:
    """What the sidecar lies beside that describes a file: a part of a directory of references has that of all."""
    parent = os.path.dirname(path)
    is_part = fnmatch(os.path.basename(path), "part-*-of-*.parquet") and not sidecar(path).exists()
    return parent if is_part and parent and sidecar(parent).exists() else path


def load_texts(
    arguments: DataArguments, cache_dir: str | None, token: str | None, evaluate: bool, if_possible: bool = False
) -> dict[str, Texts[Any]]:
    """The texts of the splits `train` and `validation`, if there are any. A line of the log says what was read.

    Args:
        arguments: where the text is.
        cache_dir: where what is read is kept.
        token: the hub's access token.
        evaluate: whether validation data is wanted, so that a part of the training text stands in for it.
        if_possible: the same, but a text too short for that is only trained on.

    Raises:
        InputError: naming the flag, where text is missing or cannot be read.
    """
    texts = _from_dataset(arguments, cache_dir, token) if arguments.dataset_name else _from_files(arguments, cache_dir)
    percentage = arguments.validation_split_percentage
    splits = percentage and "train" in texts and "validation" not in texts and not arguments.streaming
    if splits and (evaluate or if_possible and len(texts["train"].source) > 1):
        texts |= _split(texts["train"], percentage)
    return texts


def _split(texts: Texts[Source], percentage: int) -> dict[str, Texts[Any]]:
    """Set the first part of a text apart for evaluation."""
    count = len(texts.source)
    part = max(1, round(count * percentage / 100))
    if part >= count:
        raise InputError(
            f"{texts.flag}: {count} text is too few to set {percentage} % apart for evaluation; give "
            "--validation_file, or --validation_split_percentage 0"
        )

    def cut(start: int, stop: int) -> Texts[Source]:
        return Texts(texts.source.select(range(start, stop)), texts.flag, texts.reference_flag, texts.references)

    return {"train": cut(part, count), "validation": cut(0, part)}


def _from_files(arguments: DataArguments, cache_dir: str | None) -> dict[str, Texts[Any]]:
    """The text of local files, with their references where there are any."""
    splits = [split for split in ("train", "validation") if getattr(arguments, f"{split}_file")]
    files = {split: _files(arguments, split) for split in splits}
    columns = [own.column for own in files.values()]
    check_column_name(columns, arguments.text_column_name, files[splits[0]].paths[0])
    cache, texts = cache_directory(cache_dir), dict[str, Texts[Any]]()
    for split, own in files.items():
        rows: Source | Stream
        if arguments.streaming and split == "train":  # what is evaluated on is read once and kept
            rows, read = stream_texts(own), summary(None, 0, len(own.paths), own.column)
        else:
            rows = counted = count_texts(own, cache, arguments.overwrite_cache)
            read = summary(len(counted), counted.blank, len(own.paths), own.column)
        logger.warning("%s: %s", own.flag, read)
        in_table = own.column and own.column.references and not own.references
        reference_flag, references = (own.flag, own.paths) if in_table else (own.reference_flag, own.references)
        texts[split] = Texts(rows, own.flag, reference_flag, references)
    return texts


def _files(arguments: DataArguments, split: str) -> Files:
    """The files of a split."""
    flag, reference_flag = f"--{split}_file", f"--{split}_ref_file"
    files = text_files(getattr(arguments, f"{split}_file"), flag)
    references = expand_files(getattr(arguments, f"{split}_ref_file") or [], reference_flag)
    if references and len(references) != len(files):
        raise InputError(
            f"{reference_flag}: {len(references)} reference files for {len(files)} text files; give one for each"
        )
    column = choose_column(files, flag, arguments.text_column_name)
    return Files(tuple(files), flag, column, tuple(references), reference_flag)


def _from_dataset(arguments: DataArguments, cache_dir: str | None, token: str | None) -> dict[str, Texts[Any]]:
    """The splits of a dataset of the hub, or of one saved on disk."""
    name, flag = str(arguments.dataset_name), "--dataset_name"
    loaded = _loaded_dataset(arguments, cache_dir, token)
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    texts = {}
    for split in ("train", "validation"):
        if split not in splits:
            continue
        rows, column = _with_text_column(splits[split], arguments.text_column_name, flag, name)
        if arguments.streaming and split == "validation":  # what is evaluated on is read once and kept
            rows = datasets.Dataset.from_list(list(rows.take(arguments.max_eval_samples or 10**9)))
        is_stream = isinstance(rows, datasets.IterableDataset)
        count = "a stream of" if is_stream else f"{len(rows):,}"
        logger.warning("%s: %s texts from column %s of the split %s of %s", flag, count, column, split, name)
        source = DatasetStream(rows) if is_stream else DatasetTexts(rows)
        texts[split] = Texts(source, flag, flag, [name] if column.references else [])
    if not texts:
        raise InputError(f"--dataset_name: {name} has no split named train or validation, but {', '.join(splits)}")
    return texts


def _loaded_dataset(arguments: DataArguments, cache_dir: str | None, token: str | None) -> Any:
    name = str(arguments.dataset_name)
    try:
        if os.path.isdir(name) and any(Path(name, mark).exists() for mark in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(name)
        with quiet_hub():
            return datasets.load_dataset(
                name, arguments.dataset_config_name, cache_dir=cache_dir, token=token, streaming=arguments.streaming
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--dataset_name: {name} cannot be loaded ({one_line(error)}); give a dataset of the hub, with the "
            "network or the cache to reach it, or a directory that save_to_disk wrote"
        ) from None


def _with_text_column(rows: Any, name: str | None, flag: str, source: str) -> tuple[Any, Column]:
    """A dataset with the columns `text` and, where there is one, `chinese_ref`; and the column that the text was."""
    if rows.features is None:
        seen: dict[Keys, set[str]] = {}
        for row in rows.take(BATCH):
            observe(row, seen)
        kinds = summarized(seen)
    else:
        kinds = kinds_of(rows.features.arrow_schema)
    column = choose([(source, kinds, False)], name, flag)
    outer, names = column.keys[0], rows.column_names or [keys[0] for keys in kinds if len(keys) == 1]
    if len(column.keys) > 1 or kinds[column.keys] != "text":
        return rows.map(partial(_texts_at, keys=column.keys), batched=True, remove_columns=names), column
    rows = rows.select_columns([outer, *([REFERENCES] if column.references else [])])
    return rows if outer == "text" else rows.rename_column(outer, "text"), column


def _texts_at(batch: dict[str, list[Any]], keys: Keys) -> dict[str, list[Any]]:
    """What lies at the end of a way in a batch of rows; each text of a list by itself."""
    return {"text": list(flattened(values_at(value, keys[1:]) for value in batch[keys[0]]))}
