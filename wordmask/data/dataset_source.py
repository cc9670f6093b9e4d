"""The text of a dataset of the hub, or of one on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import datasets
import numpy as np
import pyarrow as pa

from wordmask.config.arguments import DataArguments
from wordmask.utils.batches import BATCH, divided, rebatched
from wordmask.utils.errors import InputError, one_line
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

AnyDataset: TypeAlias = datasets.Dataset | datasets.IterableDataset


@dataclass(frozen=True)
class DatasetSource:
    """A `Source` of a dataset with the column `text`."""

    dataset: datasets.Dataset
    is_stream, digest = False, None

    @property
    def fingerprint(self) -> str:
        return self.dataset._fingerprint

    def __len__(self) -> int:
        return len(self.dataset)

    def select(self, spans: Sequence[range]) -> DatasetSource:
        numbers = spans[0] if len(spans) == 1 else np.concatenate([np.arange(span.start, span.stop) for span in spans])
        return DatasetSource(self.dataset.select(numbers))

    def tables(self, spans: Iterable[range]) -> Iterator[Iterator[pa.Table]]:
        dataset = self.dataset.with_format("arrow")
        for span in spans:
            yield rebatched(dataset[numbers.start : numbers.stop] for numbers in divided(span, BATCH))


@dataclass(frozen=True)
class DatasetStream:
    """A `Stream` of a dataset with the column `text`."""

    dataset: datasets.IterableDataset
    limited: bool = False
    is_stream = True

    @property
    def shard_sizes(self) -> list[int]:
        return [1] * (1 if self.limited else self.dataset.num_shards)

    def take(self, limit: int) -> DatasetStream:
        return DatasetStream(self.dataset.take(limit), limited=True)

    def tables(self, shard: int, size: int) -> Iterator[pa.Table]:
        shards = len(self.shard_sizes)
        dataset = self.dataset.shard(shards, shard) if shards > 1 else self.dataset
        names = ("text", REFERENCES)
        return rebatched(
            pa.table({name: batch[name] for name in names if name in batch}) for batch in dataset.iter(batch_size=size)
        )


def loaded_dataset(arguments: DataArguments, name: str, cache_dir: str | None, token: str | None) -> Any:
    """A dataset, or its splits by name; raise an `InputError` if it cannot be loaded."""
    try:
        if is_saved_dataset(name):
            return datasets.load_from_disk(name)
        with quiet_hub():
            return datasets.load_dataset(
                name, arguments.dataset_config_name, cache_dir=cache_dir, token=token, streaming=arguments.streaming
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--dataset_name: {name} cannot be loaded ({one_line(error)}); give a dataset of the hub that the network "
            "or the cache has, or a directory that save_to_disk wrote"
        ) from None


def with_text_column(dataset: AnyDataset, name: str | None, flag: str, source: str) -> tuple[AnyDataset, Column]:
    """A dataset with only the columns `text` and, if there is one, `chinese_ref`; and the column that was the text."""
    if dataset.features is None:
        seen: dict[Keys, set[str]] = {}
        for row in dataset.take(BATCH):
            observe(row, seen)
        kinds = summarized(seen)
    else:
        kinds = kinds_of(dataset.features.arrow_schema)
    column = choose([TableColumns(source, kinds)], name, flag)
    outer, names = column.keys[0], dataset.column_names or [keys[0] for keys in kinds if len(keys) == 1]
    if len(column.keys) > 1 or kinds[column.keys] != Kind.TEXT:
        return dataset.map(partial(_flatten, keys=column.keys), batched=True, remove_columns=names), column
    dataset = dataset.select_columns([outer, *([REFERENCES] if column.references else [])])
    return dataset if outer == "text" else dataset.rename_column(outer, "text"), column


def _flatten(batch: dict[str, list[Any]], keys: Keys) -> dict[str, list[Any]]:
    """The texts that a batch of rows has at the end of a way. Each string of a list is a text."""
    return {"text": list(flattened(values_at(value, keys[1:]) for value in batch[keys[0]]))}
