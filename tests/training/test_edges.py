"""Runs that are too small, or go on otherwise than they began: a sentence or the right figure, never a wrong one."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import run_mlm
import run_mlm_wwm
from conftest import HANGS, free_port, refusal, sample_tokenizer, save_model, uneven_text

ROOT = Path(__file__).parent.parent.parent
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), sample_tokenizer("bert"), **NO_DROPOUT)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return uneven_text(tmp_path_factory.mktemp("text"), 41)


@pytest.fixture
def command(model, text, tmp_path) -> list[str]:
    argv = f"--model_name_or_path {model} --train_file {text} --do_train --use_cpu --output_dir {tmp_path / 'out'}"
    return [*argv.split(), "--max_steps", "3", "--per_device_train_batch_size", "4"]


@pytest.mark.slow
def test_the_loss_that_two_processes_report_is_that_of_one(command, tmp_path):
    """Without a log in between, where the Trainer alone reports the share of the first process."""
    alone = run_mlm_wwm.main([*command, "--train_sampling_strategy", "random"])
    together = tmp_path / "together"
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
        + [str(ROOT / "run_mlm_wwm.py"), *command, "--train_sampling_strategy", "random"]
        + ["--per_device_train_batch_size", "2", "--output_dir", str(together)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=HANGS,
    )
    found = json.loads((together / "train_results.json").read_text())
    assert found["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        "--per_device_train_batch_size 100",
        "--per_device_train_batch_size 100 --max_steps -1 --num_train_epochs 1",
        "--pack_sequences --max_seq_length 60 --per_device_train_batch_size 64",
    ],
)
def test_rows_that_fill_no_batch_are_not_dropped_in_silence(command, more, capsys):
    sentence = refusal(capsys, run_mlm_wwm.main, *command, "--dataloader_drop_last", *more.split())
    assert sentence.startswith("--dataloader_drop_last: ") and "sequences do not fill a step" in sentence


def test_a_stage_without_a_step_is_noticed_wherever_it_stands(command, capsys):
    more = "--no_line_by_line --max_steps 2 --length_schedule 16:0.34,32:0.33,64:0.33"
    sentence = refusal(capsys, run_mlm.main, *command, *more.split())
    assert sentence.startswith("--length_schedule: 32:0.33 of 2 steps is not one step")


def test_rows_in_half_precision_stay_within_the_models_positions(command):
    """Its 70 positions are no multiple of the eight that batches are padded to."""
    metrics = run_mlm.main([*command, "--bf16"])
    assert 5 < metrics["train_loss"] < 8


@pytest.mark.parametrize("more", [[], ["--dry_run"]])
@pytest.mark.parametrize("flag", ["train_file", "dataset_name"])
def test_a_stream_without_a_token_trains_nothing(english_model, tmp_path, capsys, flag, more):
    path = tmp_path / "train.txt"
    path.write_text("\u200b\n\u200b\n", encoding="utf-8")
    command = f"--model_name_or_path {english_model} --streaming --max_steps 2 --do_train --use_cpu"
    text = [f"--{flag}", str(path if flag == "train_file" else tmp_path), "--output_dir", str(tmp_path / "out")]
    sentence = refusal(capsys, run_mlm_wwm.main, *command.split(), *text, *more)
    assert sentence.startswith(f"--{flag}: the tokenizer finds no token in this text; ")


def test_a_mistake_that_a_worker_finds_gets_one_sentence_too(command, tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_bytes(b"a line\n" * 1500 + b"caf\xe9\n")
    more = ["--train_file", str(path), "--streaming", "--max_steps", "100", "--dataloader_num_workers", "1"]
    sentence = refusal(capsys, run_mlm_wwm.main, *command, *more, "--per_device_train_batch_size", "64")
    assert sentence.startswith("--train_file: ") and "line 1501: byte 0xe9" in sentence


def test_a_run_that_goes_on_otherwise_than_it_began_says_so(command, caplog):
    run_mlm_wwm.main([*command, "--save_steps", "2", "--max_steps", "2"])
    more = ["--mlm_probability", "0.3", "--data_seed", "7"]  # the last one has no value by default
    with caplog.at_level(logging.WARNING):
        run_mlm_wwm.main([*command, "--save_steps", "2", "--max_steps", "4", *more])
    changes = ["--mlm_probability: 0.15 -> 0.3", "--data_seed: none -> 7", "--max_steps: 2 -> 4"]
    assert sorted(told(caplog)) == sorted(changes)


@pytest.mark.slow
def test_record_report_and_card_keep_what_was_changed_on_the_way(command, tmp_path):
    """Also over several resumes. If one goes on from an earlier checkpoint, what was changed begins with that."""
    command, out = [*command, "--save_steps", "2"], tmp_path / "out"
    run_mlm_wwm.main([*command, "--max_steps", "4"])
    run_mlm_wwm.main([*command, "--max_steps", "6", "--mlm_probability", "0.3"])
    run_mlm_wwm.main([*command, "--max_steps", "8", "--mlm_probability", "0.3"])
    record = json.loads((out / "wordmask_run.json").read_text())
    changed = {"step": 4, "changes": ["--mlm_probability: 0.15 -> 0.3", "--max_steps: 4 -> 6"]}
    assert record["resumes"] == [changed, {"step": 6, "changes": ["--max_steps: 6 -> 8"]}]
    sentence = "since step 4: --mlm_probability: 0.15 -&gt; 0.3, --max_steps: 4 -&gt; 6; since step 6: --max_steps: 6"
    assert sentence in (out / "report.html").read_text()
    assert "since step 4: --mlm" in (out / "README.md").read_text()
    other = ["--output_dir", str(tmp_path / "other"), "--resume_from_checkpoint", str(out / "checkpoint-2")]
    run_mlm_wwm.main([*command, "--max_steps", "8", "--mlm_probability", "0.3", *other])
    record = json.loads((tmp_path / "other/wordmask_run.json").read_text())
    assert [(one["step"], len(one["changes"])) for one in record["resumes"]] == [(2, 2), (2, 1)]


@pytest.mark.parametrize("more", [[], ["--no_residual_in_fp32"]])
def test_a_record_of_an_older_version_has_the_defaults_of_newer_flags(command, caplog, tmp_path, more):
    run_mlm_wwm.main([*command, "--bf16", "--save_steps", "2", "--max_steps", "2"])
    record = tmp_path / "out/wordmask_run.json"
    found = json.loads(record.read_text())
    del found["arguments"]["residual_in_fp32"]
    record.write_text(json.dumps(found))
    with caplog.at_level(logging.WARNING):
        run_mlm_wwm.main([*command, "--bf16", "--save_steps", "2", "--max_steps", "4", *more])
    changes = ["--residual_in_fp32: True -> False"] if more else []
    assert sorted(told(caplog)) == ["--max_steps: 2 -> 4", *changes]


def told(caplog) -> list[str]:
    """The settings that a run is said to have been started with otherwise."""
    messages = (record.getMessage() for record in caplog.records)
    return [message.partition("settings: ")[2] for message in messages if "started with other settings" in message]


@pytest.mark.parametrize(
    "more, lines",
    [
        ("--per_device_train_batch_size 4 --gradient_accumulation_steps 2", []),
        ("--per_device_train_batch_size 4", ["--per_device_train_batch_size: 8 -> 4"]),
        (
            "--per_device_train_batch_size 4 --gradient_accumulation_steps 2 --streaming",
            ["--per_device_train_batch_size: 8 -> 4", "--gradient_accumulation_steps: 1 -> 2"],
        ),
    ],
)
def test_a_step_of_as_many_rows_is_the_same_step(command, caplog, more, lines):
    stream = ["--streaming"] * ("--streaming" in more)
    command = [*command, "--max_steps", "2"]
    run_mlm_wwm.main([*command, *stream, "--save_steps", "1", "--per_device_train_batch_size", "8"])
    shutil.rmtree(Path(command[command.index("--output_dir") + 1]) / "checkpoint-2")
    with caplog.at_level(logging.WARNING):
        run_mlm_wwm.main([*command, *more.split(), "--save_steps", "1"])
    assert told(caplog) == lines
