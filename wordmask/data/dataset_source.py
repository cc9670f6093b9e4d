"""The text of a dataset of the hub, or of one on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, TypeAlias

import datasets
import numpy as np
import pyarrow as pa

from wordmask.config.data_arguments import DataArguments
from wordmask.utils.batches import BATCH, divided, rebatched
from wordmask.utils.errors import InputError, one_line, reported
from wordmask.utils.files import is_blank
from wordmask.utils.hub import quiet_hub
from wordmask.utils.readers.arrow_schema import kinds_of
from wordmask.utils.readers.columns import (
    REFERENCES,
    Column,
    Keys,
    Kind,
    TableColumns,
    choose,
    flattened,
    observe,
    summarized,
    values_at,
)
from wordmask.utils.readers.paths import is_saved_dataset
from wordmask.utils.readers.text_reader import as_positions, as_text

AnyDataset: TypeAlias = datasets.Dataset | datasets.IterableDataset


FLAG = "--dataset_name"


def _readable(name: str) -> AbstractContextManager[None]:
    return reported(f"{FLAG}: {name} cannot be read", "; download or write it again")


def _tables(batches: Iterable[Any], name: str) -> Iterator[pa.Table]:
    """Batches of a dataset as tables of texts and, if it has them, references. They are checked as those of files are.

    Args:
        batches: tables, or dicts of lists, with the columns `text` and maybe `chinese_ref`.
        name: the dataset, for sentences.

    Raises:
        InputError: if a batch cannot be read, or holds what is no text or no reference.
    """

    def mistake(what: str) -> InputError:
        return InputError(f"{FLAG}: a row of {name} {what}")

    with _readable(name):
        for batch in batches:
            columns = {"text": _texts(batch["text"], mistake)}
            if REFERENCES in (batch.column_names if isinstance(batch, pa.Table) else batch):
                columns[REFERENCES] = _references(batch[REFERENCES], mistake)
            yield pa.table(columns)


def _texts(column: Any, mistake: Callable[[str], InputError]) -> Any:
    """A column of strings as it is; other values, such as bytes, as texts."""
    if isinstance(column, pa.ChunkedArray):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return column
        column = column.to_pylist()
    return pa.array([as_text(value, mistake) for value in column], pa.string())


def _references(column: Any, mistake: Callable[[str], InputError]) -> Any:
    """A column of lists of integers as it is; other values, such as JSON, as positions."""
    if isinstance(column, pa.ChunkedArray):
        if pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type):
            return column
        column = column.to_pylist()
    return pa.array([as_positions(value, mistake) for value in column], pa.list_(pa.int64()))


@dataclass(frozen=True)
class DatasetSource:
    """A `Source` of a dataset of this name, with the column `text`."""

    dataset: datasets.Dataset
    name: str
    digest = None

    @property
    def fingerprint(self) -> str:
        return self.dataset._fingerprint

    def __len__(self) -> int:
        return len(self.dataset)

    def has_text(self) -> bool:
        """Whether a text is not blank."""
        tables = chain.from_iterable(self.tables([range(len(self))]))
        return any(not is_blank(text or "") for table in tables for text in table["text"].to_pylist())

    def select(self, spans: Sequence[range]) -> DatasetSource:
        numbers = spans[0] if len(spans) == 1 else np.concatenate([np.arange(span.start, span.stop) for span in spans])
        return DatasetSource(self.dataset.select(numbers), self.name)

    def tables(self, spans: Iterable[range]) -> Iterator[Iterator[pa.Table]]:
        dataset = self.dataset.with_format("arrow")
        for span in spans:
            batches = (dataset[numbers.start : numbers.stop] for numbers in divided(span, BATCH))
            yield rebatched(_tables(batches, self.name))


@dataclass(frozen=True)
class DatasetStream:
    """A `Stream` of a dataset of this name, with the column `text`."""

    dataset: datasets.IterableDataset
    name: str
    limited: bool = False
    fingerprint = None

    @property
    def shard_sizes(self) -> list[int]:
        return [1] * (1 if self.limited else self.dataset.num_shards)

    def take(self, limit: int) -> DatasetStream:
        return DatasetStream(self.dataset.take(limit), self.name, limited=True)

    def tables(self, shard: int, size: int) -> Iterator[pa.Table]:
        shards = len(self.shard_sizes)
        dataset = self.dataset.shard(shards, shard) if shards > 1 else self.dataset
        return rebatched(_tables(dataset.iter(batch_size=size), self.name), size)


def loaded_dataset(arguments: DataArguments, name: str, cache_dir: str | None, token: str | None) -> Any:
    """A dataset, or its splits by name; raise an `InputError` if it cannot be loaded."""
    advice = "; give a dataset of the hub that the network or the cache has, or a directory that save_to_disk wrote"

    def sentence(error: Exception, cause: str) -> str:
        """datasets tells the cause of an error as another error."""
        cause = one_line(error.__cause__)[:240] if error.__cause__ else cause
        return f"{FLAG}: {name} cannot be loaded ({cause}){advice}"

    with reported(sentence):
        if is_saved_dataset(name):
            saved = datasets.load_from_disk(name)
            return _as_streams(saved) if arguments.streaming else saved
        with quiet_hub():
            return datasets.load_dataset(
                name, arguments.dataset_config_name, cache_dir=cache_dir, token=token, streaming=arguments.streaming
            )


def _as_streams(saved: datasets.Dataset | datasets.DatasetDict) -> Any:
    """A saved dataset as `load_dataset` gives one that is streamed."""
    if isinstance(saved, dict):
        return {split: dataset.to_iterable_dataset() for split, dataset in saved.items()}
    return saved.to_iterable_dataset()


def evaluated(dataset: datasets.IterableDataset, name: str, limit: int) -> datasets.Dataset:
    """The first texts of a stream that are not blank, at most so many, kept for evaluations."""
    tables = _tables(dataset.iter(batch_size=BATCH), name)
    rows = (row for table in tables for row in table.to_pylist() if not is_blank(row["text"] or ""))
    return datasets.Dataset.from_list(list(islice(rows, limit)))


def with_text_column(dataset: AnyDataset, name: str | None, flag: str, source: str) -> tuple[AnyDataset, Column]:
    """A dataset with only the columns `text` and, if there is one, `chinese_ref`; and the column that was the text."""
    if dataset.features is None:
        seen: dict[Keys, set[str]] = {}
        with _readable(source):
            for row in dataset.take(BATCH):
                observe(row, seen)
        kinds = summarized(seen)
    else:
        kinds = kinds_of(dataset.features.arrow_schema)
    column = choose([TableColumns(source, kinds)], name, flag)
    outer, names = column.keys[0], dataset.column_names or [keys[0] for keys in kinds if len(keys) == 1]
    if len(column.keys) > 1 or kinds[column.keys] == Kind.TEXTS:
        if column.references:
            raise InputError(
                f"{flag}: {source} holds several texts in column {column} and one reference; give each text its own "
                "row"
            )
        return dataset.map(partial(_flatten, keys=column.keys), batched=True, remove_columns=names), column
    dataset = dataset.select_columns([outer, *([REFERENCES] if column.references else [])])
    return dataset if outer == "text" else dataset.rename_column(outer, "text"), column


def _flatten(batch: dict[str, list[Any]], keys: Keys) -> dict[str, list[Any]]:
    """The texts that a batch of rows has at the end of a way. Each string of a list is a text."""
    return {"text": list(flattened(values_at(value, keys[1:]) for value in batch[keys[0]]))}
