"""Where a run writes: one run at a time, tried before training, and nothing lost when the disk is full."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import run_mlm_wwm
from conftest import refusal
from wordmask.training.dry_run import forecast
from wordmask.training.records.manifest import find_damage
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.lock import locked

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def command(english_model, english_file) -> list[str]:
    return [
        *("--model_name_or_path", english_model, "--train_file", english_file),
        *"--use_cpu --do_train --max_steps 4 --max_seq_length 32 --per_device_train_batch_size 4".split(),
    ]


def untouched(monkeypatch) -> None:
    """Make sure that a run is refused before it trains."""
    monkeypatch.setattr(MlmTrainer, "train", lambda *_, **__: pytest.fail("it has trained"))


def test_a_second_run_into_a_directory_is_refused(command, tmp_path, monkeypatch, capsys):
    """Even with another seed, both ran to the end, over each other."""
    untouched(monkeypatch)
    out = tmp_path / "out"
    for more in (["--seed", "1"], ["--overwrite_output_dir"]):
        with locked(out / ".wordmask", "x"):
            sentence = refusal(capsys, run_mlm_wwm.main, *command, "--output_dir", str(out), *more)
        assert sentence.startswith(f"--output_dir: {out} is in use by process {os.getpid()} on ")


def test_a_run_holds_its_directory_to_the_end(command, tmp_path, monkeypatch):
    out, holders = tmp_path / "out", []

    def noted(method):
        original = getattr(MlmTrainer, method)

        def note(self, *args, **kwargs):
            holders.append(json.loads((out / ".wordmask.holder").read_text())["process"])
            return original(self, *args, **kwargs)

        monkeypatch.setattr(MlmTrainer, method, note)

    noted("continue_from"), noted("training_step"), noted("create_model_card")
    run_mlm_wwm.main([*command, "--output_dir", str(out)])
    assert holders == [os.getpid()] * 5 and not list(out.glob(".*")), "no lock is left"


@pytest.mark.slow
def test_of_two_runs_that_start_together_one_trains(command, tmp_path):
    argv = [sys.executable, "run_mlm_wwm.py", *command, "--max_steps", "100000", "--output_dir", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen([*argv, "--seed", str(seed)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for seed in (1, 2)
    ]
    while all(run.poll() is None for run in runs):
        time.sleep(0.05)
    loser, winner = sorted(runs, key=lambda run: run.poll() is None)
    said = loser.communicate()[1]
    winner.terminate()
    winner.communicate()
    assert (loser.returncode, winner.returncode) == (2, 143), said
    assert f"is in use by process {winner.pid} on " in said or "which has just begun" in said


def test_a_dry_run_beside_a_training_is_allowed(command, tmp_path):
    with locked(tmp_path / "out" / ".wordmask", "x"):
        run_mlm_wwm.main([*command, "--output_dir", str(tmp_path / "out"), "--dry_run"])


@pytest.mark.parametrize("name", ["/proc/x", "/proc/x/y", "/dev/null/x", "", "a" * 300, f"new/{'a' * 300}"])
def test_a_directory_that_cannot_be_is_refused_before_training(name, command, tmp_path, monkeypatch, capsys):
    untouched(monkeypatch)
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    sentence = refusal(capsys, run_mlm_wwm.main, *command, "--output_dir", name)
    assert sentence.startswith("--output_dir: ") and "give a" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("flag", ["--output_dir", "--train_file", "--cache_dir"])
@pytest.mark.parametrize("joined", [False, True], ids=["two words", "one word"])
def test_bytes_that_are_not_utf_8_are_refused(flag, joined, command, capsys):
    value = os.fsdecode(b"out\xff")
    words = [f"{flag}={value}"] if joined else [flag, value]
    sentence = refusal(capsys, run_mlm_wwm.main, *command, *words)
    assert sentence == f"{flag}: out\\udcff has bytes that are not UTF-8; rename it"


def test_a_name_that_the_locale_cannot_read_is_not_called_wrong(command, capsys):
    """As with LC_ALL=C and PYTHONUTF8=0."""
    value = "中.txt".encode().decode("ascii", "surrogateescape")
    sentence = refusal(capsys, run_mlm_wwm.main, *command, "--train_file", value)
    assert sentence.startswith("--train_file: the locale cannot read ") and sentence.endswith("; set PYTHONUTF8=1")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_weights_may_be_read_by_whoever_may_read_the_other_files(umask, command, tmp_path):
    earlier = os.umask(umask)
    try:
        run_mlm_wwm.main([*command, "--output_dir", str(tmp_path / "out"), "--save_steps", "1", "--max_steps", "1"])
    finally:
        os.umask(earlier)
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-1"):
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()}
        assert "model.safetensors" in modes and {*modes.values()} == {0o666 & ~umask}, modes


def test_a_directory_that_takes_no_file_is_refused_before_training(command, tmp_path, monkeypatch, capsys):
    """Not by permissions, which do not hold for root."""
    untouched(monkeypatch)
    monkeypatch.setattr("wordmask.training.records.output_dir.write_atomically", _full)
    sentence = refusal(capsys, run_mlm_wwm.main, *command, "--output_dir", str(tmp_path / "out"))
    assert sentence.startswith(f"--output_dir: {tmp_path / 'out'} cannot be written (No space left on device); ")
    assert not (tmp_path / "out").exists()


def test_too_little_room_is_known_before_training(command, tmp_path, monkeypatch, capsys):
    untouched(monkeypatch)
    needed = []
    for more in ([], ["--save_only_model"], ["--save_strategy", "no"]):
        monkeypatch.setattr(forecast.shutil, "disk_usage", lambda path: SimpleNamespace(free=50_000))
        argv = [*command, "--output_dir", str(tmp_path / "out"), "--save_steps", "2", *more]
        sentence = refusal(capsys, run_mlm_wwm.main, *argv)
        needed.append(
            float(re.match(r"--output_dir: \d checkpoints of .* and the model need ([\d.]+) kB", sentence)[1])
        )
        assert "there, and 50.0 kB are free; give " in sentence
    assert needed == sorted(needed, reverse=True) and len({*needed}) == 3


def _full(*_, **__):
    raise OSError(28, "No space left on device")


# A process whose files may have so many bytes. Writers in Rust and C++ meet this limit, too.
LIMITED = """
import resource, sys
import run_mlm_wwm
from wordmask.training.trainer.mlm_trainer import MlmTrainer
method, call, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
original, calls = getattr(MlmTrainer, method), []
def limited(self, *args, **kwargs):
    calls.append(method)
    if len(calls) == call:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return original(self, *args, **kwargs)
setattr(MlmTrainer, method, limited)
run_mlm_wwm.main(sys.argv[4:])
"""


def run_limited(method: str, call: int, limit: int, argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIMITED, method, str(call), str(limit), *argv],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


FULL = {
    "the weights": ("_save_checkpoint", 2, 1000, "checkpoint-4"),
    "the optimizer": ("_save_optimizer_and_scheduler", 2, 2000, "checkpoint-4"),
    "the random state": ("_save_rng_state", 2, 100, "checkpoint-4"),
    "the final model": ("_finalize_training", 1, 1000, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_one_sentence_and_loses_no_checkpoint(what, command, tmp_path, capsys):
    method, call, limit, place = FULL[what]
    out = tmp_path / "out"
    argv = [*command, "--output_dir", str(out), "--save_steps", "2", "--save_total_limit", "1"]
    done = run_limited(method, call, limit, argv)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith(f"error: --output_dir: {out / place} cannot be written ("), sentence
    assert "make room, and run again" in sentence
    kept = [path.name for path in out.glob("checkpoint-*")]
    assert kept == (["checkpoint-2"] if place else ["checkpoint-4"]) and find_damage(out / kept[0]) is None
    assert not (out / "model.safetensors").exists() and not list(out.glob(".*"))
    run_mlm_wwm.main(argv)
    assert (out / "model.safetensors").exists() and f"from {out / kept[0]}" in capsys.readouterr().err or not place


def test_the_limit_is_that_of_the_test_alone():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_an_earlier_model_is_replaced_when_all_of_the_new_one_is_written(command, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    argv = [*command, "--output_dir", str(out), "--save_strategy", "steps", "--save_steps", "4"]
    run_mlm_wwm.main(argv)
    before = (out / "model.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        save = MlmTrainer.save_model

        def fails(self, *args, **kwargs):
            save(self, *args, **kwargs)
            if kwargs.get("_internal_call") and "checkpoint" not in str(args):
                raise OSError(28, "No space left on device")

        patch.setattr(MlmTrainer, "save_model", fails)
        more = refusal(capsys, run_mlm_wwm.main, *argv, "--max_steps", "6")
    assert more.startswith(
        f"--output_dir: {out} cannot be written (No space left on device); make room, and run again"
    )
    assert (out / "model.safetensors").read_bytes() == before
    assert json.loads((out / "train_results.json").read_text())["train_loss"] > 0
