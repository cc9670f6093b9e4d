"""`compiled`: a decorator that compiles a function with numba and keeps the result on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

logger = logging.getLogger(__name__)


def compiled(function: Function) -> Function:
    """Compile a function of numbers and arrays when it is first called, and keep the result for other processes.

    It is kept next to the source, else in the user's cache, else, where neither can be written, nowhere. An index out
    of bounds raises an `IndexError`, as in numpy.
    """
    loop: Any
    try:
        loop = njit(cache=True, boundscheck=True)(function)
    except RuntimeError:
        _warn()
        loop = njit(boundscheck=True)(function)
    return loop


@cache
def _warn() -> None:
    logger.warning(
        "there is no place to keep compiled code, so every process takes some seconds to compile its own; set "
        "NUMBA_CACHE_DIR to a directory that can be written"
    )
