"""Micro-batches: the parts of a batch that go through the model in turn, with the same gradients in less memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.data.collator import positions_of

FIXED_COST = 1 / 16  # of a micro-batch of any size, as a share of the cost of the largest one


def divide_batch(batch: dict[str, torch.Tensor], tokens: int, pad_to_multiple_of: int = 1) -> Iterator[dict[str, Any]]:
    """Divide a batch into micro-batches of sequences of similar length, each cut to its longest sequence.

    Padding may stand on either side. Each has `positions` and `is_padded`, as a whole batch has from the collator. If
    the batch is pinned, so are they.

    Args:
        batch: tensors (batch, length), `attention_mask` and `labels` among them.
        tokens: the most tokens in a micro-batch, padding included. A longer sequence makes one by itself.
        pad_to_multiple_of: the length of a micro-batch is a multiple of this, unless the batch is shorter.
    """
    lengths = batch["attention_mask"].sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    pads_left, start = bool((batch["attention_mask"][:, 0] < batch["attention_mask"][:, -1]).any()), 0
    for size, width in micro_batch_shapes(lengths[order].cpu().numpy(), tokens, pad_to_multiple_of):
        columns, rows = slice(-width, None) if pads_left else slice(width), order[start : start + size]
        part = {name: tensor[rows, columns] for name, tensor in batch.items()}
        part["positions"] = torch.from_numpy(positions_of(part["labels"].numpy()))
        if batch["labels"].is_pinned():
            part = {name: tensor.pin_memory() for name, tensor in part.items()}
        yield {**part, "is_padded": not part["attention_mask"].all()}
        start += size


def micro_batch_shapes(
    lengths: NDArray[np.int64], tokens: int, pad_to_multiple_of: int = 1
) -> Iterator[tuple[int, int]]:
    """The sequences of each micro-batch and their length with padding.

    Args:
        lengths: (sequences,) the tokens of each sequence of a batch, the longest first.
        tokens, pad_to_multiple_of: see `divide_batch`.
    """
    widths, start = -(-np.maximum(lengths, 1) // pad_to_multiple_of) * pad_to_multiple_of, 0
    for size in cheapest_sizes(widths, tokens, int(tokens * FIXED_COST)):
        yield size, int(widths[start])
        start += size


def cheapest_sizes(widths: NDArray[np.int64], most: int, fixed_cost: int) -> list[int]:
    """How many sequences, in order, make each micro-batch, so that all together cost as little as possible.

    A micro-batch costs its tokens, padded to its longest sequence, plus a fixed cost.

    Args:
        widths: (sequences,) the tokens of each sequence, the longest first.
        most: the most tokens in a micro-batch of several sequences.
        fixed_cost: the fixed cost of a micro-batch, in tokens.
    """
    # costs[i] is the least cost of the sequences from i on, computed from the last one backwards; sizes[i] is the size
    # of the micro-batch that begins at i. Example: widths 8 8 2 2, at most 16 tokens, a fixed cost of 1. Two
    # micro-batches of 2 sequences cost 16 + 1 + 4 + 1 = 22; four of 1 cost 8 + 1 + 8 + 1 + 2 + 1 + 2 + 1 = 24.
    count = len(widths)
    costs, sizes = np.zeros(count + 1), np.zeros(count, int)
    for start in reversed(range(count)):
        options = np.arange(1, min(max(1, most // int(widths[start])), count - start) + 1)
        totals = options * widths[start] + costs[start + options]
        sizes[start] = options[totals.argmin()]
        costs[start] = totals.min() + fixed_cost
    chosen, start = [], 0
    while start < count:
        chosen.append(int(sizes[start]))
        start += chosen[-1]
    return chosen
