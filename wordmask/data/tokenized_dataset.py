"""A user's tokenized dataset (Python API): each example gets its number, epoch and masking rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from wordmask.data.plan import Draw
from wordmask.utils.errors import InputError, kind_of

Iterables = torch.utils.data.IterableDataset | datasets.IterableDataset


class TokenizedDataset(torch.utils.data.Dataset):
    """The examples of any dataset, each with what its mask depends on, for a `WholeWordMaskCollator`.

    Example 7, drawn in epoch 1 at a rate of 0.15, gets `{"example_id": 7, "epoch": 1, "mlm_probability": 0.15}`. If it
    has a rate of its own, it keeps that.

    Args:
        dataset: gives dicts with `input_ids` by index, and has a length.
        name: the parameter that gave the dataset, for an error message.
    """

    length = 1  # all examples count the same: a step has a fixed number of examples of any length

    def __init__(self, dataset: Any, name: str):
        kind = kind_of(dataset)
        if isinstance(dataset, str | Mapping):
            raise InputError(f"{name}: {kind} is no dataset; give one of tokenized examples, such as one split")
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or isinstance(dataset, Iterables):
            raise InputError(f"{name}: {kind} has no length, or no examples by index; give a dataset that has both")
        if not len(dataset):
            raise InputError(f"{name}: {kind} without any example; give some")
        try:
            first = dataset[0]
        except (KeyError, TypeError):
            raise InputError(
                f"{name}: {kind} gives no example for the index 0; give a dataset, such as one of "
                "datasets.Dataset.from_pandas"
            ) from None
        if not isinstance(first, Mapping) or first.get("input_ids") is None:
            found = f"the columns {', '.join(first)}" if isinstance(first, Mapping) else kind_of(first)
            raise InputError(
                f"{name}: its first example is {found}, without input_ids; give each as a dict with input_ids, as a "
                "tokenizer makes it"
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def document_count(self) -> int:
        """The number of examples. Each is a sequence."""
        return len(self)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(examples,) The number of tokens of each example."""
        if isinstance(self.dataset, datasets.Dataset) and self.dataset.format["type"] != "custom":  # no transform
            # In Arrow, thousands of times as fast.
            batches = self.dataset.select_columns(["input_ids"]).with_format("arrow").iter(10_000)
            lengths = [pc.list_value_length(batch["input_ids"]).to_numpy() for batch in batches]
            return np.concatenate(lengths).astype(np.int64)
        return np.fromiter((len(self.dataset[index]["input_ids"]) for index in range(len(self))), np.int64, len(self))

    def __getitems__(self, draws: Sequence[Draw], offset: int = 0) -> list[dict[str, Any]]:
        """The examples of a batch. A `DataLoader` calls this. The dataset is the only stage, so `offset` is 0."""
        found = []
        for draw in draws:
            example = self.dataset[draw.index]
            # An example's own rate counts; but a rate of 0 fills a batch up, and stays.
            own = example.get("mlm_probability")
            rate = draw.rate if own is None or not draw.rate else own
            found.append({**example, "example_id": draw.index, "epoch": draw.epoch, "mlm_probability": rate})
        return found
