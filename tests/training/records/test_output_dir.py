"""What a run leaves behind, and how the next one goes on from there."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

import run_mlm
import run_mlm_wwm
from conftest import sample_lines, sample_tokenizer, save_model

SCRATCH = [
    *["--model_type", "bert", "--vocab_size", "400", "--config_overrides"],
    "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32",
]


def read_json(path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def weights(directory) -> dict[str, torch.Tensor]:
    return load_file(Path(directory) / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys() and first
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(sample_lines("english", 40)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def argv(english_model, text) -> list[str]:
    """Four steps of training with two checkpoints, then evaluation; 38 rows, so that the second epoch begins."""
    return (
        f"--model_name_or_path {english_model} --train_file {text} --use_cpu --max_steps 4 --save_steps 2 "
        "--per_device_train_batch_size 8 --gradient_accumulation_steps 2 --learning_rate 1e-3 --logging_steps 1 "
        "--mlm_probability 0.3:0.15 --report_to none --output_dir"
    ).split()


@pytest.fixture(scope="module")
def finished(argv, tmp_path_factory) -> Path:
    """The output of a run that nothing interrupted; tests read it, or work on a copy."""
    directory = tmp_path_factory.mktemp("finished") / "out"
    run_mlm_wwm.main([*argv, str(directory)])
    return directory


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def interrupt(directory: Path) -> None:
    """Bring a finished run back to where it was after its first checkpoint."""
    for path in directory.iterdir():
        if path.name == "checkpoint-4":
            shutil.rmtree(path)
        elif path.is_file() and path.name != "wordmask_run.json" and not path.name.startswith("tokenizer"):
            path.unlink()


def test_nothing_that_a_run_promises_is_missing(finished):
    names = {path.name for path in finished.iterdir()}
    promised = {"model.safetensors", "config.json", "tokenizer.json", "all_results.json", "train_results.json"}
    assert promised | {"eval_results.json", "trainer_state.json", "README.md", "wordmask_run.json"} <= names
    assert AutoModelForMaskedLM.from_pretrained(finished).config.vocab_size == 600
    assert AutoTokenizer.from_pretrained(finished).mask_token == "[MASK]"


def test_the_results_hold_what_was_measured(finished):
    evaluated, trained = read_json(finished / "eval_results.json"), read_json(finished / "train_results.json")
    assert {"eval_loss", "perplexity", "eval_accuracy", "eval_whole_word_accuracy", "eval_samples"} <= set(evaluated)
    assert evaluated["perplexity"] == pytest.approx(math.exp(evaluated["eval_loss"]), rel=1e-6)
    assert 0 <= evaluated["eval_whole_word_accuracy"] <= 1 and 0 <= evaluated["eval_accuracy"] <= 1
    assert trained["train_samples"] == 38 and evaluated["eval_samples"] == 2
    assert read_json(finished / "all_results.json") == {**trained, **evaluated}


def test_the_loss_alone_leaves_the_accuracies_out(finished, text, tmp_path):
    argv = ["--model_name_or_path", str(finished), "--validation_file", text, "--use_cpu", "--do_eval"]
    loss_alone = run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "loss"), "--prediction_loss_only"])
    everything = run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "all")])
    left_out = {"eval_accuracy", "eval_whole_word_accuracy", "eval_masked_words"}
    assert set(everything) - set(loss_alone) == left_out
    assert loss_alone["eval_loss"] == everything["eval_loss"]


def test_the_accuracies_are_those_of_a_model_that_is_always_right(tmp_path, model_of_one_word):
    """A model whose only likely token is the text's only word is right everywhere."""
    model, text = model_of_one_word
    argv = ["--model_name_or_path", model, "--validation_file", text, "--do_eval", "--use_cpu"]
    metrics = run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "out")])
    assert metrics["eval_accuracy"] == metrics["eval_whole_word_accuracy"] == 1.0
    assert metrics["perplexity"] == pytest.approx(1.0, abs=1e-2)


@pytest.fixture
def model_of_one_word(tmp_path) -> tuple[str, str]:
    tokenizer = sample_tokenizer("bert")
    directory = save_model(tmp_path / "model", tokenizer)
    model = AutoModelForMaskedLM.from_pretrained(directory)
    with torch.no_grad():
        model.cls.predictions.bias[tokenizer.convert_tokens_to_ids("the")] = 50.0
    model.save_pretrained(directory)
    text = tmp_path / "the.txt"
    text.write_text("the the the the the the the the the the\n" * 8)
    return directory, str(text)


def test_the_record_of_a_run_is_an_argument_file_for_the_same_run(finished, tmp_path):
    run_mlm_wwm.main([str(finished / "wordmask_run.json"), "--output_dir", str(tmp_path / "again")])
    assert same(weights(finished), weights(tmp_path / "again"))
    first, second = (read_json(path / "wordmask_run.json")["arguments"] for path in (finished, tmp_path / "again"))
    assert {name for name in first if first[name] != second.get(name)} == {"output_dir"}


def test_the_record_holds_no_secret(english_model, text, tmp_path):
    argv = ["--model_name_or_path", english_model, "--train_file", text, "--use_cpu", "--max_steps", "1"]
    run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path), "--token", "hf_secret", "--hub_token", "hf_secret"])
    kept = [path.name for path in tmp_path.rglob("*.json") if "hf_secret" in path.read_text(encoding="utf-8")]
    assert kept == []


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(argv, finished, copy):
    interrupt(copy)
    assert not (copy / "model.safetensors").exists()
    run_mlm_wwm.main([*argv, str(copy)])
    assert same(weights(finished), weights(copy))
    histories = [read_json(path / "trainer_state.json")["log_history"] for path in (finished, copy)]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in histories]
    assert len(losses[0]) == 4 and losses[0] == losses[1]
    assert read_json(copy / "eval_results.json")["eval_loss"] == read_json(finished / "eval_results.json")["eval_loss"]


def test_a_run_resumes_from_a_checkpoint_that_is_named(argv, finished, tmp_path):
    path = str(finished / "checkpoint-2")
    run_mlm_wwm.main([*argv, str(tmp_path / "elsewhere"), "--resume_from_checkpoint", path])
    assert same(weights(finished), weights(tmp_path / "elsewhere"))


def test_a_run_from_scratch_resumes_with_its_own_tokenizer(text, tmp_path):
    argv = [*SCRATCH, "--train_file", text, "--use_cpu", "--max_steps", "4", "--save_steps", "2", "--output_dir"]
    run_mlm_wwm.main([*argv, str(tmp_path / "whole")])
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    interrupt(tmp_path / "broken")
    run_mlm_wwm.main([*argv, str(tmp_path / "broken")])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    names = ("whole", "broken")
    tokenizers = [read_json(tmp_path / name / "tokenizer.json") for name in names]
    assert tokenizers[0] == tokenizers[1]


def test_a_finished_run_that_is_started_again_is_not_trained_further(argv, tmp_path):
    argv = [*argv, str(tmp_path / "out"), "--lr_scheduler_type", "constant"]
    run_mlm_wwm.main(argv)
    before, results = weights(tmp_path / "out"), read_json(tmp_path / "out" / "train_results.json")
    with contextlib.suppress(SystemExit):  # to refuse is as good as to do nothing
        run_mlm_wwm.main(argv)
    assert read_json(tmp_path / "out" / "trainer_state.json")["global_step"] == 4
    assert same(before, weights(tmp_path / "out"))
    assert read_json(tmp_path / "out" / "train_results.json")["train_loss"] == results["train_loss"]


def test_overwriting_starts_over(argv, finished, copy):
    (copy / "checkpoint-2" / "trainer_state.json").write_text("no JSON")
    run_mlm_wwm.main([*argv, str(copy), "--overwrite_output_dir", "--max_steps", "1"])
    assert read_json(copy / "trainer_state.json")["global_step"] == 1
    assert sorted(path.name for path in copy.glob("checkpoint-*")) == ["checkpoint-1"]
    assert not same(weights(finished), weights(copy))


def test_overwriting_deletes_nothing_of_others(argv, copy):
    others = ["notes.md", "squad_results.json", "checkpoint-notes.txt", "logs/old.log", "checkpoint-best/model.bin"]
    for name in others:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("mine")
    run_mlm_wwm.main([*argv, str(copy), "--overwrite_output_dir", "--max_steps", "1"])
    assert [name for name in others if not (copy / name).exists()] == []


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "mistake",
    [
        ["--model_name_or_path", "missing"],
        ["--tokenizer_name", "missing"],
        ["--train_ref_file", "ref.txt"],
        ["--max_seq_length", "100000"],
        ["--train_file", "missing.txt"],
        ["--per_device_train_batch_size", "-1"],
    ],
)
def test_overwriting_with_a_mistake_elsewhere_loses_nothing(argv, copy, tmp_path, mistake, monkeypatch):
    """What is wrong with model, tokenizer or references is found before anything is removed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ref.txt").write_text("[1]\n" * 40)
    before = contents(copy)
    with pytest.raises(SystemExit):
        run_mlm_wwm.main([*argv, str(copy), "--overwrite_output_dir", *mistake])
    assert contents(copy) == before


def test_a_mistake_leaves_a_model_from_scratch_its_own_tokenizer(text, tmp_path):
    argv = [*SCRATCH, "--train_file", text, "--use_cpu", "--max_steps", "1", "--output_dir", str(tmp_path / "out")]
    run_mlm_wwm.main(argv)
    before = contents(tmp_path / "out")
    with pytest.raises(SystemExit):
        run_mlm_wwm.main([*argv, "--overwrite_output_dir", "--vocab_size=200", "--config_overrides", "hiden_size=8"])
    assert contents(tmp_path / "out") == before


def test_a_mistake_leaves_the_record_of_the_earlier_run(argv, copy, tmp_path):
    record = (copy / "wordmask_run.json").read_bytes()
    with pytest.raises(SystemExit):
        run_mlm_wwm.main([*argv, str(copy), "--model_name_or_path", str(tmp_path / "missing")])
    assert (copy / "wordmask_run.json").read_bytes() == record


@pytest.mark.parametrize("asked", [[], ["--do_train"]])
def test_a_finished_model_without_checkpoints_is_not_trained_over(argv, finished, copy, asked):
    for path in copy.glob("checkpoint-*"):
        shutil.rmtree(path)
    with pytest.raises(SystemExit):
        run_mlm_wwm.main([*argv, str(copy), *asked])
    assert same(weights(finished), weights(copy))


def test_a_finished_model_may_be_evaluated_where_it_lies(finished, copy, text):
    argv = ["--model_name_or_path", str(copy), "--validation_file", text, "--do_eval", "--use_cpu"]
    metrics = run_mlm_wwm.main([*argv, "--output_dir", str(copy)])
    assert metrics["eval_samples"] == 40
    assert same(weights(finished), weights(copy))
    assert (copy / "train_results.json").read_bytes() == (finished / "train_results.json").read_bytes()


def test_an_evaluation_leaves_the_arguments_that_the_model_was_trained_with(copy, text):
    argv = ["--model_name_or_path", str(copy), "--validation_file", text, "--do_eval", "--use_cpu"]
    before = read_json(copy / "wordmask_run.json")["arguments"]
    run_mlm_wwm.main([*argv, "--output_dir", str(copy)])
    kept = [read_json(path).get("arguments") for path in copy.glob("*.json")]
    assert before in kept


@pytest.mark.parametrize("asked, expected", [([], "float32"), (["--dtype", "auto"], "float16")])
def test_a_checkpoint_in_half_precision_trains_in_float32(text, tmp_path, asked, expected):
    model = save_model(tmp_path / "half", sample_tokenizer("bert"), dtype=torch.float16)
    assert weights(model)["bert.embeddings.word_embeddings.weight"].dtype is torch.float16
    argv = ["--model_name_or_path", model, "--train_file", text, "--use_cpu", "--max_steps", "1", "--do_train"]
    run_mlm.main([*argv, "--output_dir", str(tmp_path / "out"), *asked])
    assert {str(tensor.dtype) for tensor in weights(tmp_path / "out").values()} == {f"torch.{expected}"}
    assert read_json(tmp_path / "out" / "config.json")["dtype"] == expected
    device = read_json(tmp_path / "out" / "wordmask_run.json")["described"]["device"]
    assert device == f"CPU with 1 thread, {expected}{' weights' * (expected != 'float32')}"


@pytest.mark.parametrize("source", ["scratch", "model"])
def test_the_model_card_has_no_empty_or_dead_link(english_model, text, tmp_path, source):
    start = SCRATCH if source == "scratch" else ["--model_name_or_path", english_model]
    argv = [*start, "--train_file", text, "--use_cpu", "--max_steps", "1", "--output_dir", str(tmp_path / "my-model")]
    run_mlm_wwm.main(argv)
    card = (tmp_path / "my-model" / "README.md").read_text(encoding="utf-8")
    assert "# my-model" in card
    links = re.findall(r"\[([^]]*)\]\(([^)]*)\)", card)
    assert [link for link in links if not link[0] or link[1] in ("", "https://huggingface.co/")] == []
    assert [link for link in links if english_model in link[1]] == [], "a directory is no page of the hub"
    assert "None" not in card and "fine-tuned version of [](" not in card
    assert ("fine-tuned" in card) is (source == "model")


@pytest.mark.parametrize("state", [None, '{"epoch": 1.0, "log_hist'])
def test_a_checkpoint_that_is_not_whole_is_passed_over(argv, copy, state):
    """A run that is killed while it writes a checkpoint leaves one without trainer_state.json, or with half of it."""
    (copy / "checkpoint-999").mkdir()
    (copy / "checkpoint-999" / "config.json").write_text("{}")
    if state:
        (copy / "checkpoint-999" / "trainer_state.json").write_text(state)
    before = weights(copy)
    run_mlm_wwm.main([*argv, str(copy)])
    assert same(before, weights(copy))
