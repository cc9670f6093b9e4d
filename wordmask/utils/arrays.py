"""Small helpers for arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def starts_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each piece starts when pieces of these lengths follow each other.

    Lengths [2, 0, 3] give the starts [0, 2, 2].
    """
    return np.cumsum(lengths) - lengths
