"""Worker processes that share the cores of a machine and end with their parent."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any

CONTEXT = get_context("spawn")  # a process that has used threads must not be forked


def worker_pool(workers: int, set_up: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    """A pool of processes.

    Args:
        workers: their number.
        set_up: called once in each of them, with `arguments`.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    return ProcessPoolExecutor(workers, CONTEXT, _start, (threads, set_up, *arguments))


def _start(threads: int, set_up: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    set_up(*arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
