"""--streaming: the same rows and masks with any number of workers, in every pass other masks, and a resume goes on."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import run_mlm
import run_mlm_wwm
from conftest import HANGS, free_port, sample_lines, sample_tokenizer, training_steps, trajectory
from wordmask.config.arguments import DataArguments
from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.file_source import FileStream
from wordmask.data.sequences import STREAM_BATCH, StreamedSequences, even_shares
from wordmask.data.sources import load_texts
from wordmask.data.token_store import Tokenization
from wordmask.utils.errors import InputError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def tokenizer():
    return sample_tokenizer("bert")


def stream(paths: str | list[str], tokenizer, processes: int = 1, process: int = 0, **settings) -> StreamedSequences:
    arguments = DataArguments(train_file=[paths] if isinstance(paths, str) else paths, streaming=True, **settings)
    texts = load_texts(arguments, None, None, False)["train"]
    return StreamedSequences(
        texts, Tokenization(tokenizer, arguments), 20, RateSchedule.of("0.1..0.9"), processes, process
    )


def key(example) -> tuple:
    return example.identity, example.epoch, *(line.tobytes() for line in example.documents)


def test_rates_that_are_drawn_are_new_in_each_epoch_of_a_stream(tokenizer, english_file):
    rows = stream(english_file, tokenizer, line_by_line=True)
    rates = [[example.rate for example in rows.one_epoch(epoch)] for epoch in (0, 1, 0)]
    assert rates[0] == rates[2] and not {*rates[0]} & {*rates[1]}
    expected = [rows.rates.at(np.zeros(1), 1, np.array([one.identity])).item() for one in rows.one_epoch(1)]
    assert rates[1] == expected


def test_no_two_rows_of_large_batches_have_the_same_masks(tokenizer, tmp_path, monkeypatch):
    """The number of a row counts in thousands beside that of its batch, and that beside the number of its file."""
    monkeypatch.setattr("wordmask.data.sequences.STREAM_BATCH", 700)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("boats\n" * 1400, encoding="utf-8")
    rows = stream([str(tmp_path / f"{name}.txt") for name in "ab"], tokenizer, line_by_line=True)
    identities = [example.identity for example in rows.one_epoch(0)]
    places = [file << 20 | batch for file in range(2) for batch in range(2)]
    assert identities == [(place << 24) + row for place in places for row in range(700)]


KINDS = {"lines": {"line_by_line": True}, "blocks": {}, "packed": {"line_by_line": True, "pack_sequences": True}}
EVERY_KIND = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)


@EVERY_KIND
def test_workers_share_the_rows_and_change_none(tokenizer, english_file, settings, monkeypatch):
    monkeypatch.setattr("wordmask.data.sequences.STREAM_BATCH", 7)
    rows = stream(english_file, tokenizer, **settings)
    alone = [key(example) for example in rows.one_epoch(0)]
    assert len(alone) == len(set(alone)) > 15
    # Workers that are forked, which is not the default from Python 3.14 on: others have the size of a batch as it is.
    forked = {"num_workers": 2, "multiprocessing_context": "fork"}
    loader = DataLoader(rows, batch_size=1, collate_fn=lambda examples: key(examples[0]), **forked)
    together = [found for found, _ in zip(loader, range(2 * len(alone)), strict=False)]
    assert {found for found in together if found[1] == 0} == set(alone)
    assert {epoch for _, epoch, _ in together} >= {0, 1}, "a second pass has an epoch of its own"
    assert len(set(together)) == len(together)


@EVERY_KIND
@pytest.mark.parametrize("files", [1, 3, 5])
def test_processes_share_the_rows_and_change_none(tokenizer, tmp_path, settings, files, monkeypatch):
    """With as many files as processes and more, each reads its own; with fewer, each takes its share of every file."""
    monkeypatch.setattr("wordmask.data.sequences.STREAM_BATCH", 4)
    lines, paths = sample_lines("english", 50), []
    for number in range(files):
        paths.append(str(tmp_path / f"{number}.txt"))
        (tmp_path / f"{number}.txt").write_text("\n".join(lines[number::files]), encoding="utf-8")
    alone = [key(example) for example in stream(paths, tokenizer, **settings).one_epoch(0)]
    assert len(alone) == len(set(alone)) > 15
    parts = [
        [key(example) for example in stream(paths, tokenizer, 3, process, **settings).one_epoch(0)]
        for process in range(3)
    ]
    assert all(parts) and sorted(sum(parts, [])) == sorted(alone)


@pytest.mark.parametrize("sizes", [(8, 120), (40, 40, 3, 45), (129,)])
@pytest.mark.parametrize("workers", [2, 3])
def test_no_worker_is_far_ahead_of_others(tokenizer, tmp_path, sizes, workers, monkeypatch):
    """Files of unequal size: in as many sequences as an epoch has, each comes once, but for some batches."""
    monkeypatch.setattr("wordmask.data.sequences.STREAM_BATCH", 4)
    lines, paths = [f"{number} {line}" for number, line in enumerate(sample_lines("english", 129))], []
    for number, size in enumerate(sizes):
        paths.append(str(tmp_path / f"{number}.txt"))
        (tmp_path / f"{number}.txt").write_text("\n".join(lines[:size]), encoding="utf-8")
        lines = lines[size:]
    settings = {"line_by_line": True}
    count = len(list(stream(paths, tokenizer, **settings).one_epoch(0)))
    readers = [iter(stream(paths, tokenizer, workers, process, **settings)) for process in range(workers)]
    shown = [next(reader).identity for _ in range(count // workers) for reader in readers]
    assert len(shown) - len({*shown}) <= 4 * workers


def test_a_worker_reads_only_its_own_files_where_shares_are_even(tokenizer, tmp_path, monkeypatch):
    lines, paths = sample_lines("english", 12), [str(tmp_path / f"{number}.txt") for number in range(4)]
    for path in paths:
        Path(path).write_text("\n".join(lines), encoding="utf-8")
    rows, read = stream(paths, tokenizer, 2, 1), []
    tables = FileStream.tables
    monkeypatch.setattr(
        FileStream, "tables", lambda self, shard, size: read.append(shard) or tables(self, shard, size)
    )
    assert len(list(rows.one_epoch(0))) > 2 and len(list(rows.one_epoch(1))) > 2
    assert read == [1, 3, 0, 2]


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 9))
def test_even_shares_hold_each_shard_once(sizes, workers):
    shares = even_shares(sizes, workers)
    if shares is not None:
        assert len(shares) == workers and sorted(itertools.chain(*shares)) == [*range(len(sizes))]
        loads = [sum(sizes[shard] for shard in share) for share in shares]
        assert 0 < max(loads) <= 1.1 * min(loads)
    assert even_shares([7] * workers, workers) is not None


@pytest.mark.slow
def test_two_processes_train_on_a_stream_and_go_on_where_they_stopped(english_model, tmp_path):
    """Lines of unequal length: batches differ in shape from process to process, and steps are as many."""
    text = tmp_path / "text.txt"
    text.write_text(
        "\n".join(line[: 9 + 31 * (number % 5)] for number, line in enumerate(sample_lines("english", 41)))
    )
    script = (
        "import shutil, sys, torch.distributed as dist, run_mlm_wwm\n"
        "folder, *argv = sys.argv[1:]\n"
        "run_mlm_wwm.main([*argv, '--output_dir', f'{folder}/whole'])\n"
        "if dist.get_rank() == 0:\n"
        "    shutil.copytree(f'{folder}/whole', f'{folder}/resumed')\n"
        "    shutil.rmtree(f'{folder}/resumed/checkpoint-6')\n"
        "dist.barrier()\n"
        "run_mlm_wwm.main([*argv, '--output_dir', f'{folder}/resumed'])\n"
        "from wordmask.utils.launch import leave\n"
        "leave()\n"
    )
    (tmp_path / "twice.py").write_text(script)
    argv = ["--model_name_or_path", english_model, "--train_file", str(text), "--streaming", "--max_steps", "6"]
    argv += ["--per_device_train_batch_size", "3", "--logging_steps", "1", "--save_steps", "4", "--use_cpu"]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
        + [str(tmp_path / "twice.py"), str(tmp_path), *argv, "--max_seq_length", "30"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=HANGS,
    )
    whole, resumed = (trajectory(tmp_path / name) for name in ("whole", "resumed"))
    assert len(whole) == 6
    assert [pytest.approx(step, rel=1e-5) for step in whole] == resumed


def test_a_resumed_stream_goes_on_where_it_stopped(english_model, tmp_path, caplog):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(sample_lines("english", 13)))
    argv = ["--model_name_or_path", english_model, "--train_file", str(text), "--streaming", "--max_steps", "12"]
    argv += ["--per_device_train_batch_size", "4", "--logging_steps", "1", "--save_steps", "7", "--use_cpu"]
    argv += ["--max_seq_length", "30", "--output_dir"]
    whole = run_mlm_wwm.main([*argv, str(tmp_path / "whole")])
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoint-12")
    assert "is read and tokenized again" not in caplog.text
    run_mlm_wwm.main([*argv, str(tmp_path / "resumed")])
    assert "the text of all steps that are done is read and tokenized again" in caplog.text
    assert whole["train_loss"] > 0

    def steps(name: str) -> list[tuple[float, float]]:
        return [(entry["loss"], entry["learning_rate"]) for entry in training_steps(tmp_path / name)]

    assert len(steps("whole")) == 12 and steps("resumed") == steps("whole")


def jsonl(path: Path, rows: list[dict]) -> None:
    """Write a file with a JSON object in each line."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_streamed_dataset_with_a_validation_split_is_evaluated(english_model, tmp_path):
    for split in ("train", "validation"):
        jsonl(tmp_path / "dataset" / f"{split}.jsonl", [{"text": line} for line in sample_lines("english", 9)])
    name = str(tmp_path / "dataset")
    metrics = run_mlm_wwm.main(
        ["--model_name_or_path", english_model, "--dataset_name", name, "--streaming", "--max_steps", "2"]
        + ["--output_dir", str(tmp_path / "out"), "--use_cpu"]
    )
    assert metrics["eval_samples"] == 9


def blocks_evaluated(model: str, dataset: Path, out: Path, *flags: str) -> float:
    """How many blocks of joined text an evaluation has."""
    argv = ["--model_name_or_path", model, "--dataset_name", str(dataset), "--max_seq_length", "16", "--use_cpu"]
    return run_mlm.main([*argv, "--max_eval_samples", "3", "--max_steps", "1", "--output_dir", str(out), *flags])[
        "eval_samples"
    ]


def test_an_evaluation_beside_a_stream_has_as_many_blocks_as_one_beside_a_text(english_model, tmp_path):
    for split in ("train", "validation"):
        rows = [{"text": ""}, *({"text": line} for line in sample_lines("english", 9))]
        jsonl(tmp_path / "dataset" / f"{split}.jsonl", rows)
    found = [
        blocks_evaluated(english_model, tmp_path / "dataset", tmp_path / f"out{len(flags)}", *flags)
        for flags in ((), ("--streaming",))
    ]
    assert found == [3, 3]


def test_a_batch_without_any_text_does_not_end_the_stream_of_a_dataset(english_model, tmp_path):
    """Rows come a thousand at a time. Here the last batch holds the last row alone."""
    rows = [{"text": f"text {number}"} for number in range(STREAM_BATCH)]
    jsonl(tmp_path / "dataset" / "train.jsonl", [*rows, {"text": None}])
    argv = ["--model_name_or_path", english_model, "--dataset_name", str(tmp_path / "dataset"), "--streaming"]
    size = ["--per_device_train_batch_size", "500", "--max_seq_length", "8", "--max_steps", "4", "--use_cpu"]
    metrics = run_mlm_wwm.main([*argv, *size, "--do_train", "--output_dir", str(tmp_path / "out")])
    assert metrics["epoch"] >= 1


@pytest.mark.parametrize("name", ["fingerprint", "shard_sizes"])
def test_a_file_that_is_gone_before_its_stream_begins_is_a_sentence(name, english_file):
    texts = load_texts(DataArguments(train_file=[english_file], streaming=True), None, None, evaluate=False)
    os.unlink(english_file)
    with pytest.raises(InputError, match="--train_file: .*english.txt changed"):
        getattr(texts["train"].source, name)


def test_a_stream_that_goes_on_over_another_text_says_so(english_model, tmp_path, capsys):
    lines, text = sample_lines("english", 40), tmp_path / "text.txt"
    argv = ["--model_name_or_path", english_model, "--streaming", "--do_train", "--use_cpu", "--save_steps", "2"]
    argv += ["--output_dir", str(tmp_path / "out")]

    def said(path: Path, content: list[str], steps: int) -> str:
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(content) + "\n", encoding="utf-8")
        run_mlm_wwm.main([*argv, "--train_file", str(path), "--max_steps", str(steps)])
        return capsys.readouterr().err

    said(text, lines, 2)
    assert "training text" not in said(tmp_path / "moved" / "text.txt", lines, 3), "the same text in another place"
    sentence = "this run was started with other settings: training text, or its references: digest "
    assert sentence in said(text, lines[20:], 4)
    assert sentence in said(text, [line[::-1] for line in lines[20:]], 5), "of the same size"
    record = tmp_path / "out" / "wordmask_run.json"
    values = json.loads(record.read_text(encoding="utf-8"))
    values["identity"]["text"] = None  # as earlier versions wrote it
    record.write_text(json.dumps(values), encoding="utf-8")
    assert f"--train_file: {text} -> {tmp_path / 'other.txt'}" in said(tmp_path / "other.txt", lines, 6)


def test_a_worker_without_a_share_in_one_epoch_goes_on_with_the_next_one(monkeypatch):
    """Shares rotate, so of one batch for two workers each has it in every second epoch."""
    monkeypatch.setattr(StreamedSequences, "_workers", lambda self: (2, 1))
    monkeypatch.setattr(StreamedSequences, "one_epoch", lambda self, epoch: iter([epoch] * (epoch % 2)))
    assert [*islice(StreamedSequences.__new__(StreamedSequences), 3)] == [1, 3, 5]
    monkeypatch.setattr(StreamedSequences, "one_epoch", lambda self, epoch: iter(()))
    assert [*StreamedSequences.__new__(StreamedSequences)] == []
