"""Loops over tokens, compiled to machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function of numbers and arrays when it is first called, and keep the result for other processes.

    It is kept beside the source, else in the user's cache, else, where neither can be written, nowhere. An index out
    of bounds raises an `IndexError`, as in numpy.
    """
    loop: Any
    try:
        loop = njit(cache=True, boundscheck=True)(function)
    except RuntimeError:  # no place to keep it
        loop = njit(boundscheck=True)(function)
    return loop
