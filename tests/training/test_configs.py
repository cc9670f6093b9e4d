"""The configs that are recipes run end to end, here with tiny models and texts."""

from __future__ import annotations

import json
from pathlib import Path

import run_mlm_wwm
from conftest import sample_lines

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def write(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_adapting_to_a_domain_shows_the_loss_of_both_texts(english_model, tmp_path):
    lines = sample_lines("english", 40)
    domain, general = write(tmp_path / "domain.txt", lines[:20]), write(tmp_path / "general.txt", lines[20:30])
    held_out = [write(tmp_path / "domain_dev.txt", lines[30:35]), write(tmp_path / "general_dev.txt", lines[35:])]
    argv = [str(CONFIGS / "domain_adaptation.yaml"), "--model_name_or_path", english_model, "--use_cpu"]
    argv += ["--train_file", domain, general, "--validation_file", *held_out, "--output_dir", str(tmp_path / "out")]
    metrics = run_mlm_wwm.main([*argv, "--max_seq_length", "48", "--num_train_epochs", "1"])
    assert {"eval_domain_dev_loss", "eval_general_dev_loss", "eval_domain_dev_loss_before"} <= {*metrics}
    record = json.loads((tmp_path / "out/wordmask_run.json").read_text(encoding="utf-8"))
    assert record["described"]["mixture"].startswith("domain: ")


def test_a_chinese_modernbert_trains_its_vocabulary_and_falls_to_its_last_rate(tmp_path):
    text = write(tmp_path / "corpus.txt", sample_lines("chinese", 60))
    argv = [str(CONFIGS / "chinese_modernbert.yaml"), "--train_file", text, "--output_dir", str(tmp_path / "out")]
    argv += ["--use_cpu", "--vocab_size", "300", "--max_seq_length", "64", "--max_steps", "3", "--warmup_steps", "1"]
    argv += ["--config_overrides", "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32"]
    argv += ["--preprocessing_num_workers", "1", "--per_device_train_batch_size", "4", "--save_strategy", "no"]
    metrics = run_mlm_wwm.main([*argv, "--eval_strategy", "no"])
    assert 0 < metrics["train_loss"] < 20
    described = json.loads((tmp_path / "out/wordmask_run.json").read_text(encoding="utf-8"))["described"]
    assert "whole words (words from jieba), 30.0% to 15.0% of the tokens" in described["masking"]
    assert described["model"].startswith("modernbert")
