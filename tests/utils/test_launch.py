"""How processes wait for each other, and how one leaves the group of its run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import HANGS, free_port
from wordmask.utils.errors import InputError
from wordmask.utils.launch import leave, waits_reported

THREADS = Path("/proc/self/task")


def gloo_threads() -> set[str]:
    """The ids of the threads that gloo runs in this process."""
    return {thread.name for thread in THREADS.iterdir() if "gloo" in (thread / "comm").read_text()}


BUSY = """
import os, sys, time, torch, wordmask
from pathlib import Path
from wordmask.utils.launch import waits_reported
from wordmask.utils.script import one_line_endings

rank, RunArguments = int(os.environ["RANK"]), wordmask.RunArguments  # it imports transformers
Path(sys.argv[1], str(rank)).touch()
while not Path(sys.argv[1], str(1 - rank)).exists():  # until the other one has imported all this
    time.sleep(0.1)
args = RunArguments("out", use_cpu=True, ddp_timeout=5)
with one_line_endings(), waits_reported(args.ddp_timeout):
    time.sleep(0 if rank else 20)
    torch.distributed.barrier()
"""


@pytest.mark.slow
def test_a_process_on_cpus_waits_no_longer_than_it_is_told(tmp_path):
    """transformers passes --ddp_timeout on for GPUs only, so processes on CPUs waited for half an hour."""
    script = tmp_path / "busy.py"
    script.write_text(BUSY)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    paths = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], env=os.environ | paths, capture_output=True, text=True, timeout=HANGS
    )
    assert "error: rank 1: --ddp_timeout 5: a process waited so many seconds for another one" in done.stderr


@pytest.mark.slow
def test_a_process_that_waits_for_others_says_so_and_ends_by_a_signal(tmp_path):
    """It waited in silence for half an hour, and only SIGKILL ended it."""
    program = "import wordmask.utils.launch as launch, run_mlm\nlaunch.LONG_WAIT = 0.1\nrun_mlm.main()\n"
    argv = ["--model_type", "bert", "--vocab_size", "100", "--train_file", __file__, "--use_cpu"]
    argv += ["--ddp_timeout", "60"]
    others = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    with subprocess.Popen(
        [sys.executable, "-c", program, *argv, "--output_dir", str(tmp_path)],
        env=os.environ | others | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:
            if "waiting for the other processes (RANK=0, WORLD_SIZE=2, MASTER_ADDR=127.0.0.1" in line:
                process.send_signal(signal.SIGTERM)
                break
        try:
            assert process.wait(20) in (-signal.SIGTERM, 128 + signal.SIGTERM)
        finally:
            process.kill()


def test_a_process_that_is_gone_is_one_sentence():
    """The others showed a traceback of gloo."""
    with pytest.raises(InputError, match="^another process of this launch has ended; .* run again"), waits_reported(5):
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]")
    with pytest.raises(RuntimeError, match="of peers"), waits_reported(5):
        raise RuntimeError("of peers")


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
