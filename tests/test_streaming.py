"""--streaming: the same rows and masks with any number of workers, in every pass other masks, and a resume goes on."""

from __future__ import annotations

import json
import shutil

import pytest
from torch.utils.data import DataLoader

import run_mlm_wwm
from conftest import sample_lines, train_tokenizer
from wordmask.arguments import DataArguments
from wordmask.rows import StreamedRows
from wordmask.texts import load_texts


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bert")


def stream(path: str, tokenizer, **settings) -> StreamedRows:
    arguments = DataArguments(train_file=[path], streaming=True, **settings)
    return StreamedRows(load_texts(arguments, None, None, False)["train"], tokenizer, arguments, 20, None, 0.15)


def key(example) -> tuple:
    return example.identity, example.epoch, example.lines[0].tobytes()


@pytest.mark.parametrize("line_by_line", [True, False])
def test_workers_share_the_rows_and_change_none(tokenizer, english_file, line_by_line, monkeypatch):
    monkeypatch.setattr("wordmask.rows.STREAM_BATCH", 7)
    rows = stream(english_file, tokenizer, line_by_line=line_by_line)
    alone = [key(example) for example in rows.one_pass(0)]
    assert len(alone) == len(set(alone)) > 20
    loader = DataLoader(rows, batch_size=1, collate_fn=lambda examples: key(examples[0]), num_workers=2)
    together = [found for found, _ in zip(loader, range(2 * len(alone)), strict=False)]
    assert {found for found in together if found[1] == 0} == set(alone)
    assert {epoch for _, epoch, _ in together} >= {0, 1}, "a second pass has an epoch of its own"
    assert len(set(together)) == len(together)


def test_a_resumed_stream_goes_on_where_it_stopped(english_model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(sample_lines("english", 13)))
    argv = ["--model_name_or_path", english_model, "--train_file", str(text), "--streaming", "--max_steps", "12"]
    argv += ["--per_device_train_batch_size", "4", "--logging_steps", "1", "--save_steps", "7", "--use_cpu"]
    argv += ["--max_seq_length", "30", "--output_dir"]
    whole = run_mlm_wwm.main([*argv, str(tmp_path / "whole")])
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoint-12")
    run_mlm_wwm.main([*argv, str(tmp_path / "resumed")])
    assert whole["train_loss"] > 0

    def steps(name: str) -> list[tuple[float, float]]:
        history = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        return [(entry["loss"], entry["learning_rate"]) for entry in history if "loss" in entry]

    assert len(steps("whole")) == 12 and steps("resumed") == steps("whole")


def test_a_streamed_dataset_with_a_validation_split_is_evaluated(english_model, english_file, tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    for split in ("train", "validation"):
        with open(folder / f"{split}.jsonl", "w") as file:
            file.writelines(json.dumps({"text": line}) + "\n" for line in sample_lines("english", 9))
    metrics = run_mlm_wwm.main(
        ["--model_name_or_path", english_model, "--dataset_name", str(folder), "--streaming", "--max_steps", "2"]
        + ["--output_dir", str(tmp_path / "out"), "--use_cpu"]
    )
    assert metrics["eval_samples"] == 9
