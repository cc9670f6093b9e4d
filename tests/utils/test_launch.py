"""How a process leaves the group of its run."""

from pathlib import Path

import pytest
import torch

from wordmask.utils.launch import leave

THREADS = Path("/proc/self/task")


def gloo_threads() -> set[str]:
    """The ids of the threads that gloo runs in this process."""
    return {thread.name for thread in THREADS.iterdir() if "gloo" in (thread / "comm").read_text()}


@pytest.mark.skipif(not THREADS.exists(), reason="only Linux lists the threads of a process in /proc")
def test_no_thread_of_a_group_lives_on_until_python_ends(tmp_path):
    """Such a thread aborted a process that had trained and saved: "terminate called without an active exception"."""
    earlier = gloo_threads()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model.trainer = [model]  # as a Trainer and its callbacks know each other, so that only `gc` frees them
    model(torch.ones(1, 2)).sum().backward()
    assert gloo_threads() - earlier
    del model
    leave()
    assert not gloo_threads() - earlier
