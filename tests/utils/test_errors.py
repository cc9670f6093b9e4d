"""A user's mistake is said once, whichever process meets it."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import run_mlm
from conftest import free_port
from wordmask.training.records.output_dir import written
from wordmask.utils import said_once
from wordmask.utils.errors import InputError, naming_parameters, with_article
from wordmask.utils.script import reports_input_errors
from wordmask.utils.write_errors import why_not_written, write_reported

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Be a process of a launch: a function that chooses which one, and other circumstances."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(said_once, "PATIENCE", 0.2)

    def launch(rank: int, **environment: str) -> None:
        values = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "11",
            "MASTER_PORT": "29500",
            **environment,
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("os.getpid", lambda: 1000 + rank)

    return launch


def said(capsys, sentence: str) -> str:
    """What a script prints that fails with this sentence."""

    @reports_input_errors
    def main() -> None:
        raise InputError(sentence)

    with pytest.raises(SystemExit) as status:
        main()
    assert status.value.code == 2
    return capsys.readouterr().err


def test_what_all_processes_meet_is_said_once(launched, capsys):
    launched(0)
    assert said(capsys, "--seed: wrong") == "error: --seed: wrong\n"
    launched(1)
    assert said(capsys, "--seed: wrong") == ""


def test_what_one_process_meets_is_said_with_its_rank(launched, capsys):
    launched(1)
    assert said(capsys, "line 5") == "error: rank 1: line 5\n"
    launched(0)
    assert said(capsys, "line 5") == "", "the first process comes late"
    assert said(capsys, "line 7") == "error: line 7\n"
    launched(2, RANK="10")
    assert said(capsys, "line 9") == "error: rank 10: line 9\n", "its rank among all machines"


@pytest.mark.parametrize(
    "other", [{"MASTER_PORT": "29501"}, {"TORCHELASTIC_RESTART_COUNT": "1"}, {"TORCHELASTIC_RUN_ID": "b"}], ids=str
)
def test_another_launch_says_it_again(launched, capsys, other):
    launched(0)
    said(capsys, "--seed: wrong")
    launched(1, **other)
    assert said(capsys, "--seed: wrong") == "error: rank 1: --seed: wrong\n"


def test_a_process_says_a_thing_again_when_it_happens_again(launched, capsys):
    """Several runs in one process, as in a notebook or a test."""
    launched(0)
    assert said(capsys, "--seed: wrong") == said(capsys, "--seed: wrong") == "error: --seed: wrong\n"


def test_a_mark_of_long_ago_silences_nobody(launched, capsys, tmp_path):
    """Its process id may have come again."""
    launched(0)
    said(capsys, "--seed: wrong")
    [mark] = tmp_path.iterdir()
    os.utime(mark, (0, 0))
    launched(1)
    assert said(capsys, "--seed: wrong") == "error: rank 1: --seed: wrong\n"
    os.utime(mark, (0, 0))
    said(capsys, "--other")
    assert len([*tmp_path.iterdir()]) == 1, "old marks are removed"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process began")
def test_a_launcher_with_the_process_id_of_an_earlier_one_is_another(launched, capsys, monkeypatch):
    """A container that is started again: torchrun is process 1. A RuntimeError ended its run without a word."""
    children = [subprocess.Popen(["sleep", "60"])]
    time.sleep(0.03)  # the beginning is counted in hundredths of a second
    children.append(subprocess.Popen(["sleep", "60"]))
    try:
        stats = [Path(f"/proc/{child.pid}/stat").read_bytes().replace(b"sleep", b"\xe8) \xae") for child in children]
        monkeypatch.setattr("os.getppid", lambda: 1)
        for stat in stats:
            monkeypatch.setattr(Path, "read_bytes", lambda self, stat=stat: stat)
            launched(0)
            with pytest.raises(RuntimeError):
                fail()
            assert said(capsys, "line 5") == "error: line 5\n"
            launched(1)
            assert said(capsys, "line 5") == ""
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_a_process_without_others_says_all_each_time(launched, capsys):
    """A job of one worker, started again from one shell: its second mistake, and each Ctrl-C, came without a word."""

    @reports_input_errors
    def interrupted() -> None:
        raise KeyboardInterrupt

    launched(0, WORLD_SIZE="1")
    assert said(capsys, "line 5") == "error: line 5\n"
    launched(0, WORLD_SIZE="1", LOCAL_RANK="7")  # of another process id
    assert said(capsys, "line 5") != ""
    with pytest.raises(SystemExit):
        interrupted()
    with pytest.raises(RuntimeError):
        fail()


def test_marks_from_before_this_process_began_do_not_count(launched, capsys, tmp_path, monkeypatch):
    """Processes on several machines, each started by hand, have a shell as their launcher, which lives on."""
    launched(1)
    said(capsys, "line 5")
    monkeypatch.setattr(said_once, "BEGAN", time.time() + 1)
    launched(0)
    with pytest.raises(RuntimeError):
        fail()
    assert said(capsys, "line 5") == "error: line 5\n"


def test_without_a_place_for_marks_nothing_is_silenced(launched, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    launched(1)
    assert said(capsys, "--seed: wrong") == said(capsys, "--seed: wrong") == "error: rank 1: --seed: wrong\n"


@reports_input_errors
def fail() -> None:
    raise RuntimeError("Connection closed by peer")


def test_a_process_that_is_left_alone_by_a_mistake_adds_no_traceback(launched, capsys):
    launched(0)
    with pytest.raises(RuntimeError):
        fail()
    launched(1)
    said(capsys, "line 5")
    launched(0)
    with pytest.raises(SystemExit) as status:
        fail()
    assert status.value.code == 2 and capsys.readouterr().err == ""


def test_without_a_launcher_every_run_says_it(capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert said(capsys, "--seed: wrong") == said(capsys, "--seed: wrong") == "error: --seed: wrong\n"


@pytest.mark.parametrize("numbers", [1, 100, 1000])
def test_whatever_torch_raises_on_a_full_disk_is_known(numbers, tmp_path):
    """Small files fail as they are closed, with another message: a scheduler's state ended a run with a traceback."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(RuntimeError) as error:
            torch.save({str(number): torch.zeros(numbers) for number in range(6)}, tmp_path / "state.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert why_not_written(error.value) == "no room is left, or files may not be so large"


def test_from_python_parameters_have_no_dashes():
    with pytest.raises(InputError, match="^seed: 1 - 2 and mask-prob"), naming_parameters():
        raise InputError("--seed: 1 - 2 and mask-prob")


def torchrun(script: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Two processes of a script."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
        + [str(script), *argv],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_under_torchrun_a_mistake_of_all_is_said_once():
    done = torchrun(Path(run_mlm.__file__), "--model_type", "bert", "--train_file", "x", "--mlm_probability", "2")
    assert done.returncode == 1 and done.stderr.count("error: ") == done.stderr.count("--mlm_probability: 2 is") == 1


@pytest.mark.slow
def test_under_torchrun_a_line_that_one_process_reads_is_said_with_its_rank(tmp_path, english_model):
    """Of a stream of two files, the second process takes the smaller one."""
    first, path = tmp_path / "first.txt", tmp_path / "text.txt"
    first.write_bytes(b"a line\n" * 2200)
    path.write_bytes(b"a line\n" * 1500 + b"caf\xe9\n" + b"a line\n" * 600)
    argv = ["--model_name_or_path", english_model, "--train_file", str(first), str(path), "--streaming"]
    argv += ["--max_steps", "30"]
    argv += ["--per_device_train_batch_size", "64", "--use_cpu", "--report_to", "none"]
    done = torchrun(Path(run_mlm.__file__), *argv, "--line_by_line", "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith(f"error: rank 1: --train_file: {path}, line 1501: byte 0xe9"), lines
    assert "RuntimeError" not in done.stderr, "of the process that was left alone"


def test_a_full_disk_of_others_is_not_called_the_output_directory(tmp_path):
    for name, what in ((f"{tmp_path}/cache/x", f"{tmp_path}/cache/x"), (f"{tmp_path}/out/x", "--output_dir: .*/out")):
        with pytest.raises(InputError, match=rf"^{what} cannot be written \(No space left"), written(tmp_path / "out"):
            raise OSError(28, "No space left on device", name)


def test_stdout_writes_what_its_encoding_lacks(monkeypatch):
    """A preview, or the path of a report, ended with a traceback."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    reports_input_errors(print)("中 · é")
    assert stdout.buffer.getvalue() == b"\\u4e2d \\xb7 \\xe9\n" and stdout.errors == "strict"


def test_a_process_that_a_mistake_of_another_ends_says_nothing(launched, capsys):
    """It said "interrupted", and the training how to resume: torchrun sends SIGTERM after a mistake."""

    @reports_input_errors
    def interrupted() -> None:
        raise KeyboardInterrupt

    def printed() -> str:
        launched(0)
        with pytest.raises(SystemExit) as status:
            interrupted()
        assert status.value.code == 130
        return capsys.readouterr().err

    assert printed() == printed() == "\ninterrupted\n", "its own mark is no mistake"
    launched(1)
    said(capsys, "line 5")
    assert printed() == ""


def test_what_tokenizers_raises_on_a_full_disk_is_known():
    """Rust raises a plain exception. An error without a number says what it can."""
    for error, reason in (
        (Exception("No space left on device (os error 28)"), "No space left on device"),
        (OSError("the quota"), "the quota"),
        (PermissionError(13, "Permission denied", "x"), "Permission denied"),
    ):
        with pytest.raises(InputError) as found, write_reported("--bert: x", "give another"):
            raise error
        assert str(found.value) == f"--bert: x cannot be written ({reason}); give another"
    with pytest.raises(KeyError), write_reported("--bert: x", "give another"):
        raise KeyError("a bug")


def test_ctrl_c_ends_a_script_with_one_line(capsys):
    @reports_input_errors
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and capsys.readouterr().err == "\ninterrupted\n"


# Runs a script as Python does, and sends it a signal as it imports transformers.
INTERRUPTED_IMPORT = """
import os, runpy, sys

class SendsSignal:
    def find_spec(name, path=None, target=None):
        if name == "transformers":
            os.kill(os.getpid(), int(sys.argv.pop()))

sys.meta_path.insert(0, SendsSignal)
if sys.argv[1].endswith(".py"):
    runpy.run_path(sys.argv[1], run_name="__main__")
else:
    runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("script", ["run_mlm_wwm.py", "run_chinese_ref.py", "wordmask.cluster"])
def test_a_signal_while_a_script_imports_ends_it_with_one_line(script, number, status):
    argv = [sys.executable, "-c", INTERRUPTED_IMPORT, script, "--train_file", "text.txt", str(int(number))]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in run.stderr.splitlines() if line and not line.startswith("importing")]
    assert (run.returncode, lines, run.stdout) == (status, ["interrupted"], "")


def test_sigterm_while_a_class_is_made_ends_a_script_with_one_line(capsys):
    """Until 3.11, Python makes a RuntimeError of an exception there."""

    class Made:
        def __set_name__(self, owner, name):
            os.kill(os.getpid(), signal.SIGTERM)

    @reports_input_errors
    def main():
        type("Arguments", (), {"file_name": Made()})

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 143 and capsys.readouterr().err == "\ninterrupted\n"


def test_a_mistake_without_a_signal_is_no_interruption(capsys):
    @reports_input_errors
    def main():
        try:
            raise KeyError("x")
        except KeyError as error:
            raise InputError("--x: it is missing; give it") from error

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and capsys.readouterr().err == "error: --x: it is missing; give it\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BertForMaskedLM", "a BertForMaskedLM"),
        ("RobertaForMaskedLM", "a RobertaForMaskedLM"),
        ("ElectraForMaskedLM", "an ElectraForMaskedLM"),
        ("IBertForMaskedLM", "an IBertForMaskedLM"),
        ("XLMRobertaForMaskedLM", "an XLMRobertaForMaskedLM"),
        ("FNetForMaskedLM", "an FNetForMaskedLM"),
        ("FunnelForMaskedLM", "a FunnelForMaskedLM"),
        ("int", "an int"),
        ("NoneType", "a NoneType"),
    ],
)
def test_a_name_has_its_article(name, expected):
    assert with_article(name) == expected
