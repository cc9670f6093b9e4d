"""The text of a dataset of the hub, or of one on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa

from wordmask.utils.batches import BATCH, divided, rebatched
from wordmask.utils.readers.columns import REFERENCES


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
