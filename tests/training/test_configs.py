"""The configs that are recipes run end to end, here with tiny models and texts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM

import run_mlm
import run_mlm_wwm
from conftest import sample_lines, sample_tokenizer, save_model, training_steps

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


@pytest.mark.slow
def test_a_chinese_modernbert_trains_its_vocabulary_and_falls_to_its_last_rate(tmp_path):
    text = write(tmp_path / "corpus.txt", sample_lines("chinese", 60))
    argv = [str(CONFIGS / "chinese_modernbert.yaml"), "--train_file", text, "--output_dir", str(tmp_path / "out")]
    argv += ["--use_cpu", "--vocab_size", "300", "--max_seq_length", "64", "--max_steps", "3", "--warmup_steps", "1"]
    argv += ["--config_overrides", "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32"]
    argv += ["--preprocessing_num_workers", "1", "--per_device_train_batch_size", "4", "--save_strategy", "no"]
    metrics = run_mlm_wwm.main([*argv, "--eval_strategy", "no"])
    assert 0 < metrics["train_loss"] < 20
    described = json.loads((tmp_path / "out/wordmask_run.json").read_text(encoding="utf-8"))["described"]
    assert described["masking"].startswith("whole words (words from jieba (hmm true, jieba ")
    assert "30.0% to 15.0% of the tokens" in described["masking"]
    assert described["model"].startswith("modernbert")


@pytest.mark.slow
def test_a_modernbert_decays_from_a_stable_checkpoint_to_a_thousandth(tmp_path):
    """With the phase at a constant rate before it, as the comment in the config says."""
    tokenizer = sample_tokenizer("bert", 300)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 8192}
    model = save_model(tmp_path / "modernbert", tokenizer, "modernbert", **small)
    text = write(tmp_path / "domain.txt", sample_lines("english", 60))
    flags = ["--train_file", text, "--use_cpu", "--no_bf16", "--max_seq_length", "64", "--logging_steps", "1"]
    flags += ["--gradient_accumulation_steps", "4", "--preprocessing_num_workers", "1", "--eval_steps", "0.5"]
    argv = [str(CONFIGS / "modernbert_continue.yaml"), *flags, "--save_steps", "0.5"]
    stable = ["--lr_scheduler_type", "constant", "--lr_scheduler_kwargs", "{}", "--max_steps", "2"]
    run_mlm.main([*argv, "--model_name_or_path", model, "--output_dir", str(tmp_path / "stable"), *stable])
    checkpoint = ["--model_name_or_path", str(tmp_path / "stable/checkpoint-2"), "--keep_optimizer"]
    metrics = run_mlm.main([*argv, *checkpoint, "--output_dir", str(tmp_path / "out")])
    assert {"eval_loss", "eval_loss_before"} <= {*metrics}

    constant, decay = (training_steps(tmp_path / name) for name in ("stable", "out"))
    assert [step["learning_rate"] for step in constant] == [3e-4] * 2
    factors = [1 - math.sqrt(step / len(decay)) for step in range(len(decay))]
    expected = [3e-4 * (factor * 0.999 + 0.001) for factor in factors]
    assert len(decay) > 4 and [step["learning_rate"] for step in decay] == [pytest.approx(rate) for rate in expected]
    described = json.loads((tmp_path / "out/wordmask_run.json").read_text(encoding="utf-8"))["described"]
    assert "30.0% of the tokens" in described["masking"]
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.model_type == "modernbert"
