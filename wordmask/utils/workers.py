"""Worker processes that share the cores of a machine and end with their parent."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from typing import Any

_CONTEXT = get_context("spawn")  # a process that has used threads must not be forked


@contextmanager
def parallel_map(function: Callable[[Any], Any], workers: int) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """A map over items on several processes. Results come in order, and only a few items are worked on at a time.

    Args:
        function: what to do with an item. We send it to each process once.
        workers: the number of processes. With 1, this process does the work.
    """
    if workers == 1:
        yield partial(map, function)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, _CONTEXT, _set_up, (threads, function)) as pool:

        def in_order(items: Iterable[Any]) -> Iterator[Any]:
            under_way: deque[Future[Any]] = deque()
            for item in items:
                under_way.append(pool.submit(_call, item))
                if len(under_way) > 4 * workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

        yield in_order


_function: Callable[[Any], Any]


def _set_up(threads: int, function: Callable[[Any], Any]) -> None:
    """Prepare a worker process."""
    global _function
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    _function = function


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)
