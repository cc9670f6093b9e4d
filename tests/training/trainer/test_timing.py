"""What a Trainer records of its tokens and its time, step by step, with each checkpoint and at the end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import run_mlm_wwm
from conftest import training_steps
from wordmask.training.records.speed_record import SpeedRecord, read_speed
from wordmask.training.trainer.timing import TimedTrainer, add_speed


@pytest.fixture
def command(needed_flags) -> list[str]:
    return [
        *needed_flags,
        *"--use_cpu --do_train --max_steps 6 --max_seq_length 32 --per_device_train_batch_size 4".split(),
    ]


def test_each_log_and_each_checkpoint_is_a_moment_of_its_step(command, tmp_path, monkeypatch):
    """Checkpoints after steps 3 and 6, logs after 2, 4 and 6; the end of a training counts no more tokens."""
    written, write = [], SpeedRecord.write
    monkeypatch.setattr(
        SpeedRecord,
        "write",
        lambda self, directory: (written.append([moment.step for moment in self.moments]), write(self, directory)),
    )
    run_mlm_wwm.main([*command, "--logging_steps", "2", "--save_steps", "3"])
    moments = read_speed(tmp_path / "out")
    assert [moment.step for moment in moments] == [0, 2, 3, 4, 6]
    assert written[0] == [0, 2, 3] and written[-1] == [0, 2, 3, 4, 6], "at a checkpoint, and at the end"
    tokens = [moment.tokens for moment in moments]
    assert tokens == sorted({*tokens}) and tokens[0] == 0
    assert training_steps(tmp_path / "out")[-1]["step"] == 6


def test_without_checkpoints_the_record_is_written_at_the_end(command, tmp_path):
    run_mlm_wwm.main([*command, "--logging_steps", "2", "--save_strategy", "no"])
    assert [moment.step for moment in read_speed(tmp_path / "out")] == [0, 2, 4, 6]


def test_evaluations_are_no_time_of_training(command, english_file, tmp_path, monkeypatch):
    """As if each took 1,000 seconds."""
    log = TimedTrainer.log

    def slow(self, logs, start_time=None):
        log(self, {**logs, "eval_runtime": 1000.0} if "eval_runtime" in logs else logs, start_time)

    monkeypatch.setattr(TimedTrainer, "log", slow)
    evaluation = ["--do_eval", "--validation_file", english_file, "--eval_strategy", "steps", "--eval_steps", "2"]
    run_mlm_wwm.main([*command, *evaluation, "--no_eval_on_start", "--logging_steps", "1", "--save_strategy", "no"])
    moments = {moment.step: moment.evaluation_seconds for moment in read_speed(tmp_path / "out")}
    assert moments[1] == 0 and moments[3] == moments[4] == 1000 and moments[5] == 2000


def test_tokens_are_those_of_all_processes_and_one_of_them_writes(tmp_path):
    """Here it is one of three with as many tokens, and not the one that writes."""
    process = SimpleNamespace(
        tokens=SimpleNamespace(total=torch.tensor(5)),
        accelerator=SimpleNamespace(reduce=lambda tokens, how: {"sum": 3 * tokens, "mean": tokens}[how]),
        args=SimpleNamespace(device="cpu", should_save=False, output_dir=tmp_path),
        state=SimpleNamespace(global_step=4),
        speed=SpeedRecord(),
    )
    assert TimedTrainer._record_speed(process) == 15
    assert [(moment.step, moment.tokens) for moment in process.speed.moments] == [(4, 15)]
    TimedTrainer._write_speed(process)
    assert not [*tmp_path.iterdir()]


def test_speed_is_of_all_tokens_and_of_the_time_of_this_training():
    metrics = {"train_runtime": 8.0}
    add_speed(metrics, 100, 2.0)
    assert metrics == {"train_runtime": 8.0, "train_data_share": 0.25, "train_tokens_per_second": 12.5}
    add_speed(nothing := {"train_runtime": 0.0}, 100, 2.0)
    assert nothing == {"train_runtime": 0.0}
