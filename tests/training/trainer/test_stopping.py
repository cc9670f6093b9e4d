"""Ctrl-C and SIGTERM lose nothing: the step is finished and saved, and the run that goes on ends as if nothing was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import active_children, get_context
from multiprocessing.context import ForkServerProcess, _default_context
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, Trainer, TrainerCallback

import run_mlm_wwm
import wordmask
from conftest import HANGS, free_port, refusal, slow_after
from wordmask.training.records.file_names import MANIFEST
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.lock import locked

ROOT = Path(__file__).parents[3]
LINES = 24  # 6 steps of 4 in an epoch


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"line {number} of a text with some words\n" for number in range(LINES)))
    return str(path)


@pytest.fixture
def command(english_model, text, tmp_path) -> Callable[..., list[str]]:
    """A command line that trains for two epochs; each epoch has six steps."""

    def command(*more: str, out: str = "out") -> list[str]:
        return [
            *("--model_name_or_path", english_model, "--train_file", text, "--output_dir", str(tmp_path / out)),
            *("--cache_dir", str(Path(text).parent / "cache"), "--num_train_epochs", "2", "--use_cpu", "--do_train"),
            *"--per_device_train_batch_size 4 --max_seq_length 32 --logging_steps 1 --save_strategy no".split(),
            *more,
        ]

    return command


def send_at(monkeypatch, method: str, number: int, step: int, call: int = 1) -> list[int]:
    """Send this process a signal before a method of the Trainer runs in a step, at its n-th call there.

    Returns:
        The steps in which the signal was sent: exactly one, if the test tests something.
    """
    calls, sent, original = [], [], getattr(MlmTrainer, method)

    def signalled(self, *args, **kwargs):
        if self.state.global_step == step and not sent:
            calls.append(step)
            if len(calls) == call:
                sent.append(step)
                os.kill(os.getpid(), number)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MlmTrainer, method, signalled)
    return sent


def stopped(argv: list[str], status: int = 130) -> None:
    """Run a command line that a signal ends."""
    with pytest.raises(SystemExit) as ended:
        run_mlm_wwm.main(argv)
    assert ended.value.code == status


def test_a_run_that_was_stopped_once_is_not_trained_again_when_it_is_over(command, monkeypatch, tmp_path, caplog):
    """Without a last checkpoint, only that of the signal would be there, and a new start would go on from it."""
    send_at(monkeypatch, "training_step", signal.SIGTERM, 3)
    stopped(command(), 143)
    run_mlm_wwm.main(command())
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-12"}
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    run_mlm_wwm.main(command("--learning_rate", "1e-2"))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights


def test_a_run_that_saves_nothing_and_goes_on_from_another_directory_saves_nothing(command, tmp_path):
    run_mlm_wwm.main(command("--max_steps", "1", "--save_strategy", "steps", "--save_steps", "1", out="first"))
    checkpoint = str(tmp_path / "first" / "checkpoint-1")
    run_mlm_wwm.main(command("--max_steps", "2", "--resume_from_checkpoint", checkpoint))
    assert (tmp_path / "out" / "model.safetensors").exists() and not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_second_training_of_the_same_trainer_saves_its_checkpoints_too(english_model, tmp_path):
    args = wordmask.RunArguments(output_dir=str(tmp_path), max_steps=1, save_steps=1, use_cpu=True, report_to="none")
    model, tokenizer = (one.from_pretrained(english_model) for one in (AutoModelForMaskedLM, AutoTokenizer))
    trainer = wordmask.MlmTrainer(model, args, [{"input_ids": [2, 40, 41, 3]}] * 8, processing_class=tokenizer)
    for _ in range(2):
        trainer.train()
        shutil.rmtree(tmp_path / "checkpoint-1")


def final_state(out: Path) -> dict[str, object]:
    """All that must be the same after an interruption: the last checkpoint, the results, and the log without times."""
    last = max(out.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    files = {name: (last / name).read_bytes() for name in ("model.safetensors", "scheduler.pt", "rng_state.pth")}
    optimizer = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    values = {key: [value.tolist() for value in moments.values()] for key, moments in optimizer.items()}
    files["trained"] = (out / "model.safetensors").read_bytes()
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    history.append(json.loads((out / "train_results.json").read_text()))
    timed = ("runtime", "per_second", "flos", "data_share")
    log = [{key: value for key, value in entry.items() if not key.endswith(timed)} for entry in history]
    return {"step": last.name, "files": files, "optimizer": values, "log": log}


class Killed(Exception):
    """What ends a run as a signal would that cannot be handled."""


SAVED = "--save_strategy", "epoch"
EVALUATED = "--do_eval", "--eval_strategy"
PLACES = {
    "a step": ((), "training_step", 3, 1, 4),
    "an evaluation": ((*EVALUATED, "steps", "--eval_steps", "4"), "prediction_step", 4, 2, 4),
    "a step that two epochs share": ((*EVALUATED, "epoch", "--tokens_per_step", "70"), "training_step", 4, 1, 5),
    "a checkpoint": (("--save_strategy", "steps", "--save_steps", "2"), "_save_optimizer_and_scheduler", 4, 1, 4),
    "a step whose evaluation is due": ((*EVALUATED, "steps", "--eval_steps", "4"), "training_step", 3, 1, 4),
    "the last step of an epoch": ((*EVALUATED, "epoch"), "training_step", 5, 1, 6),
    "an evaluation at the end of an epoch": ((*EVALUATED, "epoch"), "prediction_step", 6, 1, 6),
    "the last step, within an epoch": ((*EVALUATED, "epoch", "--max_steps", "8"), "training_step", 7, 1, 8),
    "an evaluation after the last step": ((*EVALUATED, "epoch"), "prediction_step", 12, 1, 12),
}


@pytest.mark.parametrize("place", slow_after(2, PLACES))
def test_a_run_that_is_interrupted_goes_on_as_if_it_was_not(place, command, text, tmp_path, monkeypatch, capsys):
    more, method, step, call, saved = PLACES[place]
    if "--do_eval" in more:
        more = (*more, "--validation_file", text, "--per_device_eval_batch_size", "8", "--eval_on_start", "False")
    saving = () if "--save_strategy" in more else SAVED
    run_mlm_wwm.main(command(*saving, *more, out="whole"))
    with pytest.MonkeyPatch.context() as patch:
        sent = send_at(patch, method, signal.SIGINT, step, call)
        capsys.readouterr()
        stopped(command(*saving, *more))
    assert sent == [step]
    out = tmp_path / "out"
    assert (out / f"checkpoint-{saved}" / MANIFEST).exists() and not (out / f"checkpoint-{saved + 1}").exists()
    assert not (out / "train_results.json").exists() and not (out / "model.safetensors").exists()
    printed = capsys.readouterr().err
    assert "interrupted; to resume from the last checkpoint: " in printed and "trained " not in printed
    assert "Traceback" not in printed
    run_mlm_wwm.main(command(*saving, *more))
    assert f"going on from {out}/checkpoint-{saved}" in capsys.readouterr().err
    assert final_state(out) == final_state(tmp_path / "whole")


@pytest.mark.parametrize("method", slow_after(1, ["save_model", "_finalize_training", "save_metrics"]))
def test_a_run_that_is_killed_after_its_last_step_has_its_results_when_it_goes_on(
    method, command, tmp_path, monkeypatch
):
    """They were left out, and so was the best model, if the results were not there."""
    run_mlm_wwm.main(command(*SAVED, out="whole"))
    original = getattr(MlmTrainer, method)

    def killed(self, *args, **kwargs):
        if self.state.global_step == 12 and not self._rotates_later:  # not in a checkpoint
            raise Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(MlmTrainer, method, killed)
        run_mlm_wwm.main(command(*SAVED))
    assert not (tmp_path / "out" / "train_results.json").exists()
    run_mlm_wwm.main(command(*SAVED))
    assert final_state(tmp_path / "out") == final_state(tmp_path / "whole")


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_with_its_own_status(number, status, command, tmp_path, monkeypatch, capsys):
    """A terminal that closed ended a run without a checkpoint."""
    assert send_at(monkeypatch, "training_step", number, 1) == []
    stopped(command(), status)
    assert (tmp_path / "out" / "checkpoint-2" / MANIFEST).exists()
    assert "interrupted; to resume from the last checkpoint: " in capsys.readouterr().err


def test_the_checkpoint_of_transformers_for_sigterm_is_not_needed(command, tmp_path, monkeypatch, caplog):
    """It would wait for three seconds, and end as if the run was finished."""
    send_at(monkeypatch, "training_step", signal.SIGTERM, 1)
    stopped(command("--enable_jit_checkpoint"), 143)
    assert "--enable_jit_checkpoint does nothing" in caplog.text
    assert (tmp_path / "out" / "checkpoint-2" / MANIFEST).exists()


def test_a_signal_before_the_first_step_ends_the_evaluation_there(command, text, tmp_path, monkeypatch, capsys):
    sent = send_at(monkeypatch, "prediction_step", signal.SIGINT, 0)
    stopped(command("--do_eval", "--validation_file", text, "--per_device_eval_batch_size", "8"))
    assert sent == [0] and not list((tmp_path / "out").glob("checkpoint-*"))
    assert "interrupted; to start again: " in capsys.readouterr().err


def test_an_evaluation_is_left_at_the_batch_in_which_a_signal_comes(command, text, monkeypatch, tmp_path):
    """What is left of it would take longer than a scheduler waits."""
    batches, original = [], MlmTrainer.prediction_step

    def counted(self, *args, **kwargs):
        batches.append(self.state.global_step)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MlmTrainer, "prediction_step", counted)
    sent = send_at(monkeypatch, "prediction_step", signal.SIGTERM, 4, 2)
    more = ("--do_eval", "--validation_file", text, "--per_device_eval_batch_size", "4", "--eval_on_start", "False")
    stopped(command(*more, "--eval_strategy", "steps", "--eval_steps", "4"), 143)
    assert sent == [4] and batches == [4, 4]
    assert json.loads((tmp_path / "out" / "checkpoint-4" / "wordmask_progress.json").read_text())["owes_evaluation"]


def test_a_run_that_is_stopped_within_an_epoch_saves_once_and_logs_no_end_of_the_epoch(command, monkeypatch):
    """To save a step again removes its checkpoint first, and a scheduler may kill the run then."""
    saved, logged = [], []
    write, log = MlmTrainer._write_checkpoint, MlmTrainer.log
    monkeypatch.setattr(MlmTrainer, "_write_checkpoint", lambda self, *args: saved.append(1) or write(self, *args))
    monkeypatch.setattr(MlmTrainer, "log", lambda self, logs, *more: logged.append(logs) or log(self, logs, *more))
    send_at(monkeypatch, "training_step", signal.SIGTERM, 3)
    stopped(command("--logging_strategy", "epoch"), 143)
    assert saved == [1] and logged == []


def test_a_signal_after_training_ends_the_run_at_once(command, text, tmp_path, monkeypatch, capsys):
    """The evaluation at the end is made by the next run."""
    argv = command("--do_eval", "--validation_file", text, "--eval_on_start", "False", *SAVED)
    sent = send_at(monkeypatch, "prediction_step", signal.SIGINT, 12)
    stopped(argv)
    assert sent == [12] and not (tmp_path / "out" / "eval_results.json").exists()
    run_mlm_wwm.main(argv)
    assert (tmp_path / "out" / "eval_results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["training_step", "prediction_step"], ids=["training", "evaluation"])
def test_a_worker_that_dies_is_one_sentence(method, command, text, monkeypatch, capsys):
    original, killed = getattr(MlmTrainer, method), []

    def kill(self, *args, **kwargs):
        for child in active_children() if not killed else ():
            killed.append(child.pid)
            child.kill()
            child.join()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MlmTrainer, method, kill)
    evaluation = ("--do_eval", "--validation_file", text, "--per_device_eval_batch_size", "2")
    argv = command("--dataloader_num_workers", "1", "--dataloader_prefetch_factor", "1", *evaluation)
    sentence = refusal(capsys, run_mlm_wwm.main, *argv)
    assert killed and sentence.startswith("--dataloader_num_workers: a worker process died, perhaps because memory")


def test_what_is_not_a_death_keeps_its_own_error(command, monkeypatch):
    def fails(self, *args, **kwargs):
        raise FileNotFoundError("of a tracker")

    monkeypatch.setattr(Trainer, "floating_point_ops", fails)
    with pytest.raises(FileNotFoundError, match="of a tracker"):
        run_mlm_wwm.main(command("--dataloader_num_workers", "1"))


def start(argv: list[str], launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A run in processes of its own."""
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "run_mlm_wwm.py"), *argv],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(process: subprocess.Popen[str]) -> str:
    """Wait until a run has logged a step, and return what it has printed."""
    printed = ""
    for line in process.stderr:
        printed += line
        if line.startswith("step 3 of"):
            return printed
    raise AssertionError(printed)


LONG = ("--num_train_epochs", "5000", "--logging_steps", "1")


@pytest.fixture
def with_workers(tmp_path) -> tuple[str, ...]:
    """Flags of a run whose two workers live through one long epoch, as those of short epochs do not."""
    text = tmp_path / "long.txt"
    text.write_text("".join(f"line {number} of a text\n" for number in range(100_000)), encoding="utf-8")
    return "--train_file", str(text), *"--num_train_epochs 1 --logging_steps 1 --dataloader_num_workers 2".split()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_is_left_behind(number, command, with_workers, tmp_path):
    process = start(command(*with_workers))
    wait_for_steps(process)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    for worker in workers:  # a scheduler signals all processes
        worker.send_signal(number if number == signal.SIGTERM else signal.SIGINT)
    process.send_signal(number)
    printed = process.communicate(timeout=HANGS)[1]
    assert process.returncode == (143 if number == signal.SIGTERM else -9), printed
    assert not psutil.wait_procs(workers, timeout=60)[1]
    with locked(tmp_path / "out" / ".wordmask", "x"):
        pass  # workers that live on would hold it
    if number == signal.SIGTERM:
        assert "Traceback" not in printed and len(list((tmp_path / "out").glob(f"checkpoint-*/{MANIFEST}"))) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can fork such a process")
def test_workers_have_no_process_beside_them_that_a_signal_to_all_processes_would_end(command, monkeypatch):
    """Python 3.14 starts them by a server, unless one says otherwise."""

    class Served(ForkServerProcess):
        @staticmethod
        def _Popen(process):
            raise AssertionError("a worker is not forked")

    monkeypatch.setattr(_default_context, "_actual_context", get_context("forkserver"))
    monkeypatch.setattr(get_context("forkserver"), "Process", Served)
    workers = ("--dataloader_num_workers", "1", "--max_steps", "1")
    assert run_mlm_wwm.main(command(*workers))["train_samples"] == LINES
    with pytest.raises(AssertionError, match="a worker is not forked"):
        run_mlm_wwm.main(command(*workers, "--dataloader_multiprocessing_context", "forkserver", out="served"))


@pytest.mark.slow
def test_a_worker_that_is_killed_does_not_keep_the_run_from_ending(command, with_workers):
    """Python waits at the end for the workers that live on, and these ignore the SIGTERM that it sends."""
    process = start(command(*with_workers))
    printed = wait_for_steps(process)
    workers = psutil.Process(process.pid).children(recursive=True)
    workers[-1].kill()
    printed += process.communicate(timeout=HANGS)[1]
    assert process.returncode == 2 and "--dataloader_num_workers: a worker process died" in printed, printed
    assert "Traceback" not in printed
    assert not psutil.wait_procs(workers, timeout=60)[1]


@pytest.mark.slow
def test_two_processes_stop_in_the_same_step(command, tmp_path):
    """One of them gets the signal, twice, as from a terminal and from torchrun."""
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port())
    process = start(command(*LONG), launcher)
    wait_for_steps(process)
    ranks = [
        child for child in psutil.Process(process.pid).children() if "run_mlm_wwm.py" in " ".join(child.cmdline())
    ]
    ranks[1].send_signal(signal.SIGINT)
    with contextlib.suppress(psutil.NoSuchProcess):  # it may be gone already
        ranks[1].send_signal(signal.SIGINT)
    printed = process.communicate(timeout=HANGS)[1]
    [checkpoint] = (tmp_path / "out").glob(f"checkpoint-*/{MANIFEST}")
    files = {path.name for path in checkpoint.parent.iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors"} <= files
    assert "interrupted; to resume from the last checkpoint: " in printed
    assert "exitcode  : 130" in printed and "KeyboardInterrupt" not in printed, printed


FORKS = """
import multiprocessing, os, signal, time
from wordmask.utils.signals import handled
def work(_):
    time.sleep(60)
with handled(), multiprocessing.get_context("fork").Pool(2) as pool:
    running = pool.map_async(work, range(2))
    os.kill(pool._pool[0].pid, signal.SIGINT)
    time.sleep(0.2)
    assert pool._pool[0].is_alive()
print("left")
"""


def test_a_forked_process_ends_when_its_parent_says_so_and_not_by_ctrl_c():
    done = subprocess.run([sys.executable, "-c", FORKS], cwd=ROOT, capture_output=True, text=True, timeout=HANGS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")


DROPPED = """
import ctypes, os, signal, threading, time
Timer = threading.Timer
threading.Timer = lambda seconds, *rest: Timer(1.0, *rest)  # the signal comes again later than here
from wordmask.utils.signals import Interrupted, handled
def compiled():  # as when numba loads a function
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
try:
    with handled():
        ctypes.CFUNCTYPE(None)(compiled)()
        print("goes on", flush=True)
        time.sleep(20)
except Interrupted as error:
    print(error)
"""


def test_a_signal_in_a_callback_from_c_is_not_lost_and_prints_nothing():
    """Python drops an exception there, after it has printed it."""
    done = subprocess.run([sys.executable, "-c", DROPPED], cwd=ROOT, capture_output=True, text=True, timeout=HANGS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\nSIGTERM\n", "")


LOSES_ITS_PARENT = """
import multiprocessing, os, signal, sys, time
from wordmask.utils.workers import prepare_loader_worker
def work(reader, writer):  # as the thread that gives tensors to the parent
    writer.close()
    prepare_loader_worker(0)
    print("ready", flush=True)
    try:
        reader.recv()
    except EOFError:
        sys.excepthook(*sys.exc_info())
if __name__ == "__main__":
    reader, writer = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    context.Process(target=work, args=(reader, writer)).start()
    sys.stdin.readline()
    writer.close()  # as the kernel does first when it kills a process
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_worker_that_loses_its_parent_prints_nothing():
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", LOSES_ITS_PARENT], cwd=ROOT, **options) as process:
        assert process.stdout.readline() == "ready\n"
        assert process.communicate("\n", timeout=HANGS) == ("", "")
    assert process.returncode == -signal.SIGKILL


LEAVES = """
import os, signal, sys, time
from wordmask.utils.signals import deferred, handled, received
with handled():
    with deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the same one, from torchrun
        os.kill(os.getpid(), signal.SIGTERM)
        assert received() == signal.SIGINT
        time.sleep(1.1)
        os.kill(os.getpid(), signal.SIGTERM)  # a second SIGTERM does not hurry
        print("waits", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("never")
"""


def test_a_second_ctrl_c_leaves_at_once():
    done = subprocess.run([sys.executable, "-c", LEAVES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "waits\n"), done.stderr
    assert done.stderr.strip() == (
        "interrupted: the step in progress is finished and saved first; Ctrl-C again leaves at once"
    )


@pytest.mark.slow
def test_in_a_program_sigterm_saves_the_checkpoint_of_transformers(english_model, tmp_path):
    """The flag was turned off there, too, where nothing else saves one."""
    tokenizer = AutoTokenizer.from_pretrained(english_model)
    args = wordmask.RunArguments(
        output_dir=str(tmp_path), max_steps=100_000, use_cpu=True, report_to="none", enable_jit_checkpoint=True
    )

    class Terminates(TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    data = [{"input_ids": [2, 40, 41, 3]}] * 8
    model = AutoModelForMaskedLM.from_pretrained(english_model)
    trainer = wordmask.MlmTrainer(model, args, data, processing_class=tokenizer, callbacks=[Terminates()])
    try:
        trainer.train()
    finally:
        signal.signal(signal.SIGTERM, before)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert 2 <= trainer.state.global_step < 100_000 and (checkpoint / MANIFEST).exists()
