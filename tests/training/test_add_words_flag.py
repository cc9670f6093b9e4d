"""--add_words from the command line: what is trained and saved, what a resume finds, what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import run_mlm_wwm
from conftest import (
    bpe_tokenizer,
    check_a_resume_learns_the_same,
    refusal,
    sample_tokenizer,
    save_model,
    slow_after,
    trajectory,
)
from wordmask.tokenization.added_words import pieces_of
from wordmask.utils import quantities

TEXT = ["The graft of the kidney failed twice", "a lupus patient with grafts", "Graft and lupus again"] * 12
FLAGS = ["--use_cpu", "--report_to", "none", "--max_seq_length", "32", "--no_eval_on_start", "--logging_steps", "1"]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def base(request, tmp_path_factory) -> str:
    """A model whose tokenizer splits all of the words."""
    return save_model(tmp_path_factory.mktemp(request.param), sample_tokenizer(request.param, 300), request.param)


@pytest.fixture
def argv(base, tmp_path) -> list[str]:
    (tmp_path / "text.txt").write_text("\n".join(TEXT), encoding="utf-8")
    (tmp_path / "words.txt").write_text("graft\n\nlupus \ngraft\n", encoding="utf-8")
    files = ["--model_name_or_path", base, "--train_file", str(tmp_path / "text.txt")]
    return [*files, "--output_dir", str(tmp_path / "out"), "--add_words", str(tmp_path / "words.txt"), *FLAGS]


def test_a_run_starts_at_the_means_and_saves_what_it_trained(base, argv, tmp_path):
    """At a learning rate of 0, the saved embeddings are those of the start."""
    run_mlm_wwm.main([*argv, "--learning_rate", "0", "--max_steps", "1"])
    old, out = AutoTokenizer.from_pretrained(base), tmp_path / "out"
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForMaskedLM.from_pretrained(out).eval()
    ids = tokenizer.convert_tokens_to_ids(["graft", "lupus"])
    assert ids == [len(old), len(old) + 1] and model.config.vocab_size == len(tokenizer) == len(old) + 2
    before = AutoModelForMaskedLM.from_pretrained(base).get_input_embeddings().weight
    after = model.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    for token, pieces in zip(ids, pieces_of(old, ["graft", "lupus"]), strict=True):
        assert len(pieces) > 1
        torch.testing.assert_close(after[token], before[pieces].mean(0))
    tokens = tokenizer("the graft, a lupus and grafts", add_special_tokens=False)["input_ids"]
    assert [tokens.count(token) for token in ids] == [1, 1]

    evaluated = ["--model_name_or_path", str(out), "--validation_file", str(tmp_path / "text.txt"), "--do_eval"]
    first, second = (
        run_mlm_wwm.main([*evaluated, "--output_dir", str(tmp_path / name), *FLAGS])["eval_loss"] for name in "ab"
    )
    added = [*argv, "--validation_file", str(tmp_path / "text.txt"), "--do_eval", "--output_dir", str(tmp_path / "c")]
    results = run_mlm_wwm.main(added)
    assert first == second == results["eval_loss"]
    assert 0 < results["eval_loss_per_character"] < results["eval_loss"]  # words have more than one character


def test_the_table_at_the_end_shows_the_loss_per_character_of_the_results(argv, tmp_path, capsys):
    """A loss per token cannot be compared with that of a run without these words."""
    results = run_mlm_wwm.main([*argv, "--max_steps", "1", "--do_train", "--do_eval", "--eval_on_start"])
    before, after = (quantities.loss(results[f"eval_loss_per_character{end}"]) for end in ("_before", ""))
    shown = capsys.readouterr().err
    assert f", loss per character {before} -> {after}, " in shown
    [line] = [line for line in shown.splitlines() if line.startswith("evaluation after step 1: ")]
    assert "character" not in line  # each evaluation has the figures that change most


@pytest.mark.parametrize("found", slow_after(1, [True, False]))
def test_a_resumed_run_finds_its_words_and_learns_the_same(argv, tmp_path, found):
    check_a_resume_learns_the_same([*argv, *(["--add_words", "3"] if found else [])], tmp_path)


def test_a_run_on_other_text_goes_on_with_the_words_of_its_checkpoint(argv, tmp_path):
    run_mlm_wwm.main([*argv, "--add_words", "2", "--max_steps", "1"])
    tokenizer = (tmp_path / "out" / "tokenizer.json").read_text()
    (tmp_path / "text.txt").write_text("the quail and the zebrafish " * 9 + "\n" + "\n".join(TEXT))
    run_mlm_wwm.main([*argv, "--add_words", "2", "--max_steps", "2"])
    assert (tmp_path / "out" / "tokenizer.json").read_text() == tokenizer
    assert len(trajectory(tmp_path / "out")) == 2


def test_the_words_of_the_text_are_found_and_told(argv, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run_mlm_wwm.main([*argv, "--add_words", "2", "--max_steps", "1"])
    [told] = [message for message in caplog.messages if message.startswith("--add_words")]
    added = AutoTokenizer.from_pretrained(tmp_path / "out").added_tokens_decoder.values()
    words = [token.content for token in added if token.single_word]
    assert (
        told.startswith("--add_words: 2 new tokens; ") and told.endswith(f": {', '.join(words)}") and len(words) == 2
    )


def test_other_words_in_the_same_directory_are_refused(argv, capsys, tmp_path):
    run_mlm_wwm.main([*argv, "--add_words", "2", "--max_steps", "1"])
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--add_words", "3", "--max_steps", "2")
    assert "tokenizer" in sentence and str(tmp_path / "out") in sentence
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--max_steps", "2")
    assert "tokenizer" in sentence


def test_prepared_text_must_have_the_words(argv, base, capsys, tmp_path):
    prepared = [*argv, "--prepared_dir", str(tmp_path / "tokens")]
    run_mlm_wwm.main([*prepared, "--prepare_only"])
    run_mlm_wwm.main(["--model_name_or_path", base, *prepared[4:], "--max_steps", "1"])
    (tmp_path / "words.txt").write_text("graft\n")
    sentence = refusal(
        capsys, run_mlm_wwm.main, "--model_name_or_path", base, *prepared[4:], "--output_dir", str(tmp_path / "b")
    )
    assert sentence.startswith("--prepared_dir: ") and "another tokenizer" in sentence


def test_a_tokenizer_that_runs_in_python_is_refused(argv, capsys, tmp_path):
    """It would find the words inside of others."""
    tokenizer = bpe_tokenizer(tmp_path / "files", ["lupus"])
    name = save_model(tmp_path / "model", tokenizer, "roberta")
    sentence = refusal(capsys, run_mlm_wwm.main, "--model_name_or_path", name, *argv[2:])
    assert sentence.startswith("--add_words: a PhobertTokenizer is no fast tokenizer")


def test_the_record_repeats_the_run(argv, tmp_path):
    run_mlm_wwm.main([*argv, "--max_steps", "1"])
    record = json.loads(Path(tmp_path, "out", "wordmask_run.json").read_text())
    assert record["arguments"]["add_words"] == str(tmp_path / "words.txt")
