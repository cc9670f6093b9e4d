"""Where each piece of an array starts, and the indices of its elements."""

from __future__ import annotations

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wordmask.utils.arrays import places_of, starts_of


@given(st.lists(st.integers(0, 5)))
def test_each_piece_starts_where_the_one_before_it_ends(lengths):
    starts = starts_of(np.array(lengths, np.int64)).tolist()
    assert starts == [sum(lengths[:number]) for number in range(len(lengths))]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5))))
def test_places_are_those_of_all_elements_of_each_piece_in_turn(pieces):
    starts, lengths = np.array(pieces, np.int64).reshape(-1, 2).T
    expected = chain.from_iterable(range(start, start + length) for start, length in pieces)
    assert places_of(starts, lengths).tolist() == list(expected)
