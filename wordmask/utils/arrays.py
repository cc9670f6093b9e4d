"""Types of arrays, and pieces of an array: where each one starts, and the indices of its elements."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]
Integers: TypeAlias = NDArray[np.signedinteger[Any]]  # of 32 bits or 64


def index_type(count: int) -> type[np.signedinteger]:
    """The smallest type for the numbers below `count`: there may be a thousand million sequences on a machine."""
    return np.int32 if count < 2**31 else np.int64


def starts_of(lengths: Integers) -> IntArray:
    """Where each piece starts when pieces of these lengths follow each other.

    Lengths [2, 0, 3] give the starts [0, 2, 2].
    """
    return np.cumsum(lengths) - lengths


def places_of(starts: IntArray, lengths: IntArray) -> IntArray:
    """The indices of all elements of some pieces of an array, one piece after the other.

    Starts [7, 2] and lengths [2, 3] give [7, 8, 2, 3, 4]: the pieces start at [0, 2] in the result, so we repeat
    [7, 2] - [0, 2] = [7, 0] as [7, 7, 0, 0, 0], and add [0, 1, 2, 3, 4].
    """
    return np.repeat(starts - starts_of(lengths), lengths) + np.arange(lengths.sum())
