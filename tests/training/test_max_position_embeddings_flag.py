"""--max_position_embeddings from the command line: what is trained and saved, what a resume finds, what is refused."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import run_mlm_wwm
from conftest import check_a_resume_learns_the_same, refusal, sample_lines, sample_tokenizer, save_model
from wordmask.models.positions import position_embeddings

FLAGS = ["--use_cpu", "--report_to", "none", "--no_eval_on_start", "--logging_steps", "1", "--long_lines", "split"]
FLAGS += ["--per_device_train_batch_size", "2", "--preprocessing_num_workers", "1"]
MODERN = {"hidden_size": 32, "num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}


@pytest.fixture(scope="module", params=["bert", "roberta", "modernbert"])
def base(request, tmp_path_factory) -> str:
    """A model for sequences of 60 tokens."""
    tokenizer = sample_tokenizer("roberta" if request.param == "roberta" else "bert", 300)
    tokenizer.model_max_length = 60
    first = tokenizer.pad_token_id + 1 if request.param == "roberta" else 0
    settings = MODERN if request.param == "modernbert" else {}
    directory = tmp_path_factory.mktemp(request.param)
    return save_model(directory, tokenizer, request.param, **settings, max_position_embeddings=60 + first)


@pytest.fixture
def argv(base, tmp_path) -> list[str]:
    (tmp_path / "text.txt").write_text(" ".join(sample_lines("english", 30)), encoding="utf-8")
    return command(base, tmp_path, "--max_position_embeddings", "130")


def command(base: str, tmp_path, *flags: str) -> list[str]:
    files = ["--model_name_or_path", base, "--train_file", str(tmp_path / "text.txt")]
    return [*files, "--output_dir", str(tmp_path / "out"), *FLAGS, *flags]


def test_a_run_trains_at_the_new_length_and_saves_what_loads_again(base, argv, tmp_path):
    """At a learning rate of 0, the saved table is that of the start. The longest sequence follows from the flag."""
    evaluation = ["--validation_file", str(tmp_path / "text.txt"), "--do_eval"]
    flags = ["--learning_rate", "0", "--max_steps", "2", "--do_train", *evaluation]
    results = run_mlm_wwm.main([*argv, *flags])
    out = tmp_path / "out"
    model, info = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()) and AutoTokenizer.from_pretrained(out).model_max_length == 130
    before = AutoModelForMaskedLM.from_pretrained(base)
    for old, new in zip(position_embeddings(before), position_embeddings(model), strict=True):
        first = len(old.weight) - 60
        places = [*range(first), *(first + place % 60 for place in range(130))]
        assert torch.equal(new.weight, old.weight[places])
    ids = torch.arange(10, 140)[None]
    assert model(input_ids=ids).logits.shape == (1, 130, before.config.vocab_size)

    evaluated = ["--model_name_or_path", str(out), *evaluation, *FLAGS]
    again = run_mlm_wwm.main([*evaluated, "--output_dir", str(tmp_path / "again")])
    assert again["eval_loss"] == results["eval_loss"] and again["eval_samples"] == results["eval_samples"]
    shorter = run_mlm_wwm.main([*evaluated, "--output_dir", str(tmp_path / "b"), "--max_seq_length", "60"])
    assert shorter["eval_samples"] > again["eval_samples"]


def test_a_resumed_run_finds_the_longer_table_and_learns_the_same(base, argv, tmp_path, capsys):
    check_a_resume_learns_the_same(argv, tmp_path)
    configs = [AutoModelForMaskedLM.from_pretrained(tmp_path / name).config for name in ("out", "whole")]
    assert getattr(configs[0], "rope_parameters", 0) == getattr(configs[1], "rope_parameters", 0)

    for flags in ([], ["--max_position_embeddings", "140"]):  # not the model of this directory
        sentence = refusal(capsys, run_mlm_wwm.main, *command(base, tmp_path, *flags, "--max_steps", "5"))
        assert str(tmp_path / "out") in sentence and "architecture (max_position_embeddings" in sentence


def test_what_was_saved_is_extended_no_second_time(argv, tmp_path, capsys):
    run_mlm_wwm.main([*argv, "--max_steps", "1"])
    saved = ["--model_name_or_path", str(tmp_path / "out"), *argv[2:], "--output_dir", str(tmp_path / "next")]
    sentence = refusal(capsys, run_mlm_wwm.main, *saved)
    assert sentence == (
        "--max_position_embeddings: 130 tokens are not more than the 130 of this model; drop it, or give more"
    )


def test_it_goes_with_packing_with_added_words_and_without_dropout(base, argv, tmp_path, caplog):
    (tmp_path / "words.txt").write_text("morning\n")
    flags = ["--pack_sequences", "--add_words", str(tmp_path / "words.txt"), "--dropout", "0", "--max_steps", "1"]
    with caplog.at_level(logging.WARNING):
        run_mlm_wwm.main([*argv, *flags])
    told = [message for message in caplog.messages if message.startswith("--max_position_embeddings: ")]
    assert len(told) == 1 and told[0].startswith("--max_position_embeddings: positions for 130 tokens instead of 60; ")
    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForMaskedLM, AutoTokenizer))
    assert model.config.vocab_size == len(tokenizer) == len(AutoTokenizer.from_pretrained(base)) + 1
    assert tokenizer.convert_tokens_to_ids("morning") == len(tokenizer) - 1


def test_a_model_from_scratch_is_made_with_its_positions(capsys, tmp_path):
    argv = ["--model_type", "bert", "--vocab_size", "300", "--train_file", "text.txt", "--output_dir", str(tmp_path)]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--max_position_embeddings", "1024")
    assert sentence == (
        "--max_position_embeddings is for continuing from a model; from scratch, give --config_overrides "
        "max_position_embeddings=1024"
    )
