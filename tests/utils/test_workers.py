"""Worker processes of a `DataLoader`."""

from __future__ import annotations

import operator
import os
import signal
import sys
import time
from functools import partial
from multiprocessing import active_children, get_context

import pytest
from torch.utils.data import DataLoader

from wordmask.utils import forking, workers
from wordmask.utils.errors import InputError
from wordmask.utils.workers import check_workers, loader_context, loader_workers, parallel_map


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_a_worker_that_hangs_in_its_fork_is_forked_again(monkeypatch):
    """Before Python 3.11.10, one that is forked while a thread of torch.distributed takes a lock of Python hangs."""
    monkeypatch.setattr(workers, "FORK_CAN_HANG", True)
    monkeypatch.setattr(forking, "_LONGEST_START", 1.0)
    fork, forked, others = os.fork, [], {*active_children()}  # an earlier test may have left some

    def hangs_at_first() -> int:
        number = fork()
        if not number and not forked:
            time.sleep(1000)
        forked.append(number)
        return number

    monkeypatch.setattr(os, "fork", hangs_at_first)
    loader = DataLoader(range(6), num_workers=2, multiprocessing_context=loader_context(None), timeout=30)
    assert [int(number) for number in loader] == [*range(6)]
    assert len(forked) >= 3  # two workers, and the one that hung
    with pytest.raises(ProcessLookupError):
        os.kill(forked[0], 0)
    assert not {*active_children()} - others


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_a_worker_that_ends_before_it_begins_is_not_forked_again(monkeypatch):
    """Its end is seen at once, so nothing waits for it."""
    monkeypatch.setattr(workers, "FORK_CAN_HANG", True)
    fork, forked = os.fork, []

    def ends() -> int:
        number = fork()
        if not number:
            os._exit(3)
        forked.append(number)
        return number

    monkeypatch.setattr(os, "fork", ends)
    context = loader_context(None)
    assert context is not None and not isinstance(context, str)
    process, begin = context.Process(target=print), time.monotonic()
    process.start()
    process.join()
    assert process.exitcode == 3 and len(forked) == 1
    assert time.monotonic() - begin < forking._LONGEST_START


class CannotBeSent:
    """As a batch for which /dev/shm has no room."""

    def __reduce__(self):
        raise OSError("unable to allocate shared memory")


@pytest.mark.skipif(sys.platform != "linux", reason="a process is forked")
def test_a_worker_that_cannot_send_its_batch_ends_the_run_with_a_sentence():
    """It only said so, and the run waited for ever."""
    loader = DataLoader(
        [1],
        collate_fn=lambda rows: CannotBeSent(),
        num_workers=1,
        multiprocessing_context="fork",
        worker_init_fn=workers.prepare_loader_worker,
        timeout=60,
    )
    with pytest.raises(InputError, match="a worker process died, perhaps .* or room in /dev/shm"), loader_workers(1):
        next(iter(loader))


def test_workers_start_as_the_user_chose(monkeypatch):
    monkeypatch.setattr(workers, "FORK_CAN_HANG", False)
    assert [loader_context(chosen) for chosen in ("spawn", "forkserver", "fork")] == ["spawn", "forkserver", "fork"]
    monkeypatch.setattr(workers, "FORK_CAN_HANG", True)
    assert loader_context("spawn") == "spawn"


def test_more_than_four_processes_for_each_core_are_refused(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    check_workers("--x", 40)
    with pytest.raises(InputError, match="--x: 41 processes are too many for 10 cores; give 40 or less"):
        check_workers("--x", 41)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    check_workers("--x", 32)


@pytest.mark.parametrize("cores, threads", [(6, "3"), (1, "1")])
def test_processes_share_the_cores_and_get_a_few_items_at_a_time(cores, threads, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    items = iter(["OMP_NUM_THREADS", "RAYON_NUM_THREADS"] * 20)
    with parallel_map(os.getenv, 2) as run:
        results = run(items)
        assert [next(results), next(results)] == [threads] * 2
        assert len([*items]) >= 40 - 2 - 4 * 2, "the others are not taken yet"


@pytest.mark.skipif(sys.platform != "linux", reason="a process is forked")
def test_after_an_error_processes_end_at_once_and_others_live_on():
    """They leave Ctrl-C and a terminal that closes to their parent, and take SIGTERM."""
    own = get_context("fork").Process(target=time.sleep, args=(60,))
    own.start()
    others = {*active_children()}  # an earlier test may have left some, too
    asked = [partial(signal.getsignal, signal.SIGINT), partial(signal.pthread_sigmask, signal.SIG_BLOCK, [])]
    begin = time.monotonic()
    with pytest.raises(ZeroDivisionError), parallel_map(operator.call, 2) as run:
        results = run([*asked, partial(time.sleep, 60), partial(time.sleep, 60), partial(time.sleep, 60)])
        assert [next(results), next(results)] == [signal.SIG_IGN, {signal.SIGINT, signal.SIGHUP}]
        processes = {*active_children()} - others
        raise ZeroDivisionError
    for process in processes:
        process.join(20)
    own.join(0.1)
    assert time.monotonic() - begin < 20 and own.is_alive()
    own.kill()


DIED = "DataLoader worker (pid 7) is killed by signal: Killed."
ITS_OWN = "Caught FileNotFoundError in DataLoader worker process 0."


@pytest.mark.parametrize(
    "error, count, reads, is_death",
    [
        (RuntimeError(DIED), 1, False, True),
        (RuntimeError("Pin memory thread exited unexpectedly"), 1, False, True),
        (RuntimeError("CUDA error"), 1, True, False),
        (EOFError(), 1, True, True),
        (ConnectionResetError(), 1, True, True),
        (FileNotFoundError("a socket"), 1, True, True),
        (EOFError(), 1, False, False),
        (EOFError(), 0, True, False),
        (FileNotFoundError(ITS_OWN), 1, True, False),
        (InputError("a mistake"), 1, True, False),
    ],
)
def test_the_death_of_a_worker_is_told_from_other_errors(error, count, reads, is_death):
    earlier = signal.signal(signal.SIGCHLD, lambda *_: None)  # torch's handler, which raises for each that is gone
    try:
        with pytest.raises(InputError if is_death else type(error)) as caught, loader_workers(count, reads):
            raise error
        assert (signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL) == is_death
    finally:
        signal.signal(signal.SIGCHLD, earlier)
    assert caught.value.__cause__ is (error if is_death else None) and (is_death or caught.value is error)
