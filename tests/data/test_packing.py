"""Which lines share a row: every line lies in one, none overflows, and rows are full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordmask.data.packing import pack


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=200), more=st.integers(0, 30))
def test_every_line_lies_in_one_row_and_no_row_overflows(lengths, more):
    sizes = np.array(lengths, np.int64)
    capacity = max(lengths, default=1) + more
    packs = pack(sizes, capacity)
    assert sorted(packs.documents.tolist()) == list(range(len(lengths)))
    rows = [packs[row] for row in range(len(packs))]
    assert sum(map(len, rows)) == len(lengths) and all(0 < sizes[row].sum() <= capacity for row in rows)
    assert len(rows) <= 2 * sizes.sum() // capacity + 1, "two rows less than half full could have been one"


@pytest.mark.parametrize("capacity, padding", [(128, 0.001), (512, 0.001)])
def test_rows_of_many_lines_are_full(capacity, padding):
    lengths = np.clip(np.random.default_rng(0).lognormal(3, 1, 20_000).astype(int), 1, capacity)
    packs = pack(lengths, capacity)
    assert 1 - lengths.sum() / (len(packs) * capacity) < padding


def test_lines_of_one_length_share_rows_at_random_but_always_in_the_same_way():
    first, again = (pack(np.full(100, 10), 40).documents.tolist() for _ in range(2))
    assert first == again != sorted(first)


def test_a_line_longer_than_a_row_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="41 tokens does not fit"):
        pack(np.array([3, 41]), 40)
