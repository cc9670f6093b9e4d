"""A batch in micro-batches that go through the model one after the other: the same gradients in less memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

PRICE = 16  # a micro-batch costs this part of the tokens that it may have, however few it has


def divide_batch(
    batch: dict[str, torch.Tensor], tokens: int, multiple_of: int = 1
) -> Iterator[dict[str, torch.Tensor]]:
    """Micro-batches of a batch, the longest sequences first. Each is cut to its longest sequence, to save padding.

    Args:
        batch: tensors (batch, length), `attention_mask` among them.
        tokens: the most tokens in a micro-batch, padding included. A longer sequence is a micro-batch of its own.
        multiple_of: a micro-batch is as long as a multiple of this, if the batch is that long.
    """
    lengths = batch["attention_mask"].sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    widths = -(-lengths[order].clamp(min=1).cpu().numpy() // multiple_of) * multiple_of
    start = 0
    for size in cheapest_sizes(widths, tokens, tokens // PRICE):
        yield {name: tensor[order[start : start + size], : widths[start]] for name, tensor in batch.items()}
        start += size


def cheapest_sizes(widths: NDArray[np.int64], most: int, price: int) -> list[int]:
    """The sizes of micro-batches that together cost least.

    A micro-batch costs its tokens, padded to its longest sequence, and a price of its own.

    Args:
        widths: (sequences,) the tokens of each sequence, the longest first.
        most: the most tokens in a micro-batch of several sequences.
        price: what each micro-batch costs on top, in tokens.
    """
    # cost[s] is that of the sequences from s on, found for the last one first; best[s] is the size of the micro-batch
    # at s. Widths 8, 8, 2, 2 with 16 tokens at most and a price of 1: sizes 2 and 2 cost 16 + 1 + 4 + 1 = 22, sizes
    # 1, 1, 1, 1 cost 8 + 1 + 8 + 1 + 2 + 1 + 2 + 1 = 24.
    sequences = len(widths)
    cost, best = np.zeros(sequences + 1), np.zeros(sequences, int)
    for start in reversed(range(sequences)):
        sizes = np.arange(1, min(max(1, most // int(widths[start])), sequences - start) + 1)
        costs = sizes * widths[start] + cost[start + sizes]
        best[start] = sizes[costs.argmin()]
        cost[start] = costs.min() + price
    chosen, start = [], 0
    while start < sequences:
        chosen.append(int(best[start]))
        start += chosen[-1]
    return chosen
