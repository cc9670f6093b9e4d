"""Let the C library keep freed memory for the next tensors."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST = 2**30  # bytes of a tensor


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors for new ones.

    glibc gives large blocks back to the system at once. The system then fills them with zeros for every new tensor,
    which takes a tenth of the time of training on two cores. Other C libraries are left as they are.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
