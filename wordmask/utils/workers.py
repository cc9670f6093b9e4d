"""Worker processes that share the cores of a machine and end with their parent, and only with it."""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue
from typing import Any

from wordmask.utils.errors import InputError, from_worker
from wordmask.utils.forking import WatchedForkContext
from wordmask.utils.signals import SIGNALS, held_back, leave_to_parent, take_terminations

# What torch says of a worker that is gone. The parent may also meet the end of a pipe, or a socket that is gone.
_DEATH = re.compile(r"DataLoader worker \(pid|in pin memory thread|Pin memory thread exited")
_CONTEXT = get_context("spawn")  # a process that has used threads must not be forked
FORK_CAN_HANG = sys.version_info < (3, 11, 10)  # see forking.py


def check_workers(flag: str, count: int) -> None:
    """Raise an `InputError` for far more processes than there are cores: they start for minutes, and fill the memory.

    Args:
        flag: the flag that asks for them.
        count: their number.
    """
    cores = os.cpu_count() or 1
    if count > (most := max(32, 4 * cores)):
        raise InputError(f"{flag}: {count} processes are too many for {cores} cores; give {most} or less")


@contextmanager
def parallel_map(function: Callable[[Any], Any], workers: int) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """A map over items on several processes. Results come in order, and only a few items are worked on at a time.

    Args:
        function: what to do with an item. We send it to each process once.
        workers: the number of processes. With 1, this process does the work.

    After an error or Ctrl-C, the processes end at once, in the middle of their work.
    """
    if workers == 1:
        yield partial(map, function)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    others = {*active_children()}
    with ProcessPoolExecutor(workers, _CONTEXT, _set_up, (threads, function)) as pool:

        def in_order(items: Iterable[Any]) -> Iterator[Any]:
            under_way: deque[Future[Any]] = deque()
            for item in items:
                with held_back():  # this may start a process
                    under_way.append(pool.submit(_call, item))
                if len(under_way) > 4 * workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

        try:
            yield in_order
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in {*active_children()} - others:
                process.kill()
            raise


_function: Callable[[Any], Any]


def _set_up(threads: int, function: Callable[[Any], Any]) -> None:
    """Prepare a worker process."""
    global _function
    leave_to_parent(signal.SIGINT, signal.SIGHUP)
    take_terminations()  # the pool sends them to its processes
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


def prepare_loader_worker(number: int) -> None:
    """Prepare a worker process of a `DataLoader`."""
    leave_to_parent(*SIGNALS)
    sys.excepthook = partial(_unless_parent_ends, sys.excepthook)
    Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]


def _give_up(error: BaseException, batch: object) -> None:
    """End a worker that cannot send its batch. By default it only says so, and its parent waits for it for ever."""
    os._exit(1)


def _unless_parent_ends(hook: Callable[..., Any], *error: Any) -> None:
    """Show the error of a thread, unless it has lost its parent: that also ends this process in a moment."""
    time.sleep(1)
    hook(*error)


def loader_context(chosen: str | None) -> str | BaseContext | None:
    """How the workers of a `DataLoader` start: as the user chose, or forked where Linux can.

    From Python 3.14 on, another process starts them by default. A scheduler's SIGTERM, which all processes get, ends
    that process, and with it the run, before there is a checkpoint; and workers live on when the run is killed. A
    forked worker also starts at once.
    """
    method = chosen or ("fork" if sys.platform == "linux" else None)
    return WatchedForkContext() if method == "fork" and FORK_CAN_HANG else method


@cache
def end_loader_workers_at_exit() -> None:
    """End the workers of a `DataLoader` when this process ends, if they are still there, for example after an error.

    They ignore the SIGTERM by which Python ends them, so it would wait for them for ever.
    """
    atexit.register(_end_loader_workers)  # what is registered last is called first


def _let_them_die() -> None:
    """Have torch raise no further error, anywhere in the program, for each worker that is gone."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _end_loader_workers() -> None:
    _let_them_die()
    for child in active_children():
        if child.daemon:
            child.kill()


@contextmanager
def loader_workers(count: int, reads: bool = True) -> Iterator[None]:
    """Turn the death of a `DataLoader`'s worker into one sentence, and a mistake that it finds into its own sentence.

    Args:
        count: the number of workers, the value of --dataloader_num_workers.
        reads: whether the code in here does little more than read from them. Then the end of a pipe is a death, too.

    Raises:
        InputError: if one has died, or has raised it.
    """
    try:
        yield
    except InputError as error:
        if (found := from_worker(error)) is error:
            raise
        raise found from error
    except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
        is_its_own = "in DataLoader worker process" in str(error)  # what a worker meets, torch raises here again
        is_death = _DEATH.search(str(error)) if isinstance(error, RuntimeError) else reads and not is_its_own
        if not (count and is_death):
            raise
        _let_them_die()
        raise InputError(
            "--dataloader_num_workers: a worker process died, perhaps because memory ran out, or room in /dev/shm; "
            "give fewer workers, or 0, and run again to go on from the last checkpoint"
        ) from error
