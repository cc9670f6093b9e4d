"""A batch in parts that go through the model one after the other: the same gradients in less memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

PRICE = 16  # a pass costs as much as this part of the tokens that it may have, however few it has


def divide_batch(
    batch: dict[str, torch.Tensor], tokens: int, multiple_of: int = 1
) -> Iterator[dict[str, torch.Tensor]]:
    """Parts of a batch, the longest rows first, each cut to its longest row, so that little of it is padding.

    Args:
        batch: tensors (batch, length), `attention_mask` among them.
        tokens: the most in a part, padding included; a row that is longer makes a part of its own.
        multiple_of: parts stay as long as a multiple of this, as far as the batch is.
    """
    lengths = batch["attention_mask"].sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    widths = -(-lengths[order].clamp(min=1).cpu().numpy() // multiple_of) * multiple_of
    start = 0
    for rows in cheapest_parts(widths, tokens, tokens // PRICE):
        yield {name: tensor[order[start : start + rows], : widths[start]] for name, tensor in batch.items()}
        start += rows


def cheapest_parts(widths: NDArray[np.int64], most: int, price: int) -> list[int]:
    """How many rows in turn make a part, so that all parts cost as little as can be.

    A part costs its tokens, padded to its longest row, and a price of its own; found from the last row backwards.

    Args:
        widths: (rows,) the tokens of each row, the longest first.
        most: the most tokens in a part of several rows.
        price: what a part costs besides, in tokens.
    """
    # cost[r] is that of the rows from r on, found for the last row first; taken[r] is the size of the part at r.
    # Widths 8, 8, 2, 2 with 16 tokens at most and a price of 1: parts of 2 and 2 rows cost 16 + 1 + 4 + 1 = 22, a
    # part for each 8 + 1 + 8 + 1 + 2 + 1 + 2 + 1 = 24.
    rows = len(widths)
    cost, taken = np.zeros(rows + 1), np.zeros(rows, int)
    for first in reversed(range(rows)):
        counts = np.arange(1, min(max(1, most // int(widths[first])), rows - first) + 1)
        costs = counts * widths[first] + cost[first + counts]
        taken[first] = counts[costs.argmin()]
        cost[first] = costs.min() + price
    parts, first = [], 0
    while first < rows:
        parts.append(int(taken[first]))
        first += parts[-1]
    return parts
