"""The command that the short form and an interrupted run print resumes the run, in a real shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from conftest import free_port, uneven_text

ROOT = Path(__file__).parent.parent.parent


def start(folder: Path, model: str, launcher: list[str]) -> subprocess.Popen[bytes]:
    """Start a run of 600 steps that saves ten times."""
    argv = [*launcher, str(ROOT / "run_mlm_wwm.py"), model, uneven_text(folder, 40), "--use_cpu", "--max_steps", "600"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with open(folder / "stderr", "wb") as stderr:
        return subprocess.Popen(argv, cwd=folder, env=environment, stderr=stderr, start_new_session=True)


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a second checkpoint is there, so that the first one is whole."""
    end = time.monotonic() + 300
    while len(list(folder.glob("output/*/checkpoint-*/trainer_state.json"))) < 2:
        assert process.poll() is None and time.monotonic() < end, (folder / "stderr").read_text()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher, sent, beginning",
    [
        (["python"], signal.SIGINT, "interrupted; to resume from the last checkpoint: python "),
        (["torchrun", "--nproc_per_node", "2", "--master_port"], signal.SIGKILL, "output: "),
        (
            ["torchrun", "--nproc_per_node", "2", "--master_port"],
            signal.SIGINT,
            "interrupted; to resume from the last",
        ),
    ],
    ids=["Ctrl-C", "two processes, killed", "two processes, Ctrl-C"],
)
def test_the_printed_command_resumes_the_run(english_model, tmp_path, launcher, sent, beginning):
    """Of several processes, the first one chooses the directory, and all write there."""
    if launcher[0] == "torchrun":
        launcher = [*launcher, free_port()]
    process = start(tmp_path, english_model, launcher)
    wait_for_checkpoint(tmp_path, process)
    # A launcher passes Ctrl-C on to its workers, which have process groups of their own.
    family = [process, *psutil.Process(process.pid).children(recursive=True)] if sent == signal.SIGKILL else [process]
    for member in family:
        member.send_signal(sent)
    status, printed = process.wait(120), (tmp_path / "stderr").read_text()
    if launcher[0] == "python":
        assert status == 130 and "Traceback" not in printed
    line = next(line for line in printed.splitlines() if line.startswith(beginning))
    command = line.split("to resume: " if sent == signal.SIGKILL else "checkpoint: ")[1]
    assert command.startswith(launcher[0])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    resumed = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stderr
    [directory] = (tmp_path / "output").iterdir()
    assert json.loads((directory / "trainer_state.json").read_text())["global_step"] == 600
    processes = json.loads((directory / "wordmask_run.json").read_text())["processes"]
    assert processes == (2 if launcher[0] == "torchrun" else 1)
