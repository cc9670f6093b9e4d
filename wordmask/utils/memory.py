"""How the C library treats memory that a program has given back."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST = 2**30  # bytes of a tensor


def keep_freed_memory() -> None:
    """Keep the memory of tensors that are gone for those to come.

    glibc gives large blocks back to the system at once, which then has to fill them with zeros for every new tensor: a
    tenth of the time that two cores train. Other C libraries are left as they are.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
