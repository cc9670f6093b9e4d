"""Worker processes of a `DataLoader`."""

from __future__ import annotations

import os
import sys
import time
from multiprocessing import active_children

import pytest
from torch.utils.data import DataLoader

from wordmask.utils import forking, workers
from wordmask.utils.workers import loader_context


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


def test_workers_start_as_the_user_chose(monkeypatch):
    monkeypatch.setattr(workers, "FORK_CAN_HANG", False)
    assert [loader_context(chosen) for chosen in ("spawn", "forkserver", "fork")] == ["spawn", "forkserver", "fork"]
    monkeypatch.setattr(workers, "FORK_CAN_HANG", True)
    assert loader_context("spawn") == "spawn"
