"""Both training scripts from end to end, in process."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import transformers
import yaml
from transformers import AutoModelForMaskedLM, AutoTokenizer

import run_mlm
import run_mlm_wwm
from conftest import refusal, sample_lines, sample_tokenizer, save_model, slow_after

STEPS = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--use_cpu", "--report_to", "none"]


def read_json(path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_the_examples_own_command_line_works(english_model, english_file, tmp_path):
    metrics = run_mlm.main(
        f"--model_name_or_path {english_model} --train_file {english_file} --validation_file {english_file} "
        f"--output_dir {tmp_path / 'out'} --do_train --do_eval --prediction_loss_only --num_train_epochs=1 "
        "--use_cpu".split()
    )
    assert 1 < metrics["perplexity"] < 2000
    assert metrics["perplexity"] == read_json(tmp_path / "out" / "eval_results.json")["perplexity"]
    assert metrics["train_samples"] == metrics["eval_samples"] > 5


def test_the_command_line_of_the_process_is_read_where_none_is_given(
    english_model, english_file, tmp_path, monkeypatch
):
    argv = [
        "--model_name_or_path",
        english_model,
        "--validation_file",
        english_file,
        "--output_dir",
        str(tmp_path / "o"),
    ]
    monkeypatch.setattr("sys.argv", ["run_mlm.py", *argv, "--do_eval", "--use_cpu"])
    assert run_mlm.main()["eval_samples"] > 5


@pytest.fixture(scope="module")
def two_splits(tmp_path_factory) -> list[str]:
    """Training and validation text."""
    directory = tmp_path_factory.mktemp("two_splits")
    lines = sample_lines("english", 50)
    (directory / "train.txt").write_text("\n".join(lines[:40]), encoding="utf-8")
    (directory / "valid.txt").write_text("\n".join(lines[40:]), encoding="utf-8")
    return ["--train_file", str(directory / "train.txt"), "--validation_file", str(directory / "valid.txt")]


@pytest.mark.parametrize(
    "asked, trained, evaluated",
    [
        ([], True, True),
        (["--do_train"], True, False),
        (["--do_eval"], False, True),
        (["--do_train", "--do_eval"], True, True),
    ],
)
def test_a_run_does_what_it_was_asked_and_both_where_it_was_not(
    english_model, two_splits, tmp_path, asked, trained, evaluated
):
    argv = ["--model_name_or_path", english_model, *two_splits, "--output_dir", str(tmp_path), *STEPS, *asked]
    metrics = run_mlm_wwm.main(argv)
    assert ("train_loss" in metrics, "perplexity" in metrics) == (trained, evaluated)
    assert (tmp_path / "model.safetensors").exists() is trained
    assert (tmp_path / "eval_results.json").exists() is evaluated


def test_no_evaluation_is_made_up_where_no_text_is_set_apart(needed_flags):
    metrics = run_mlm_wwm.main([*needed_flags, *STEPS, "--validation_split_percentage", "0"])
    assert metrics["train_samples"] == 40 and "perplexity" not in metrics


def test_the_two_scripts_differ_in_masking_and_in_lines(english_model, two_splits, tmp_path):
    argv = ["--model_name_or_path", english_model, *two_splits, *STEPS]
    whole_word = run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "wwm")])
    token = run_mlm.main([*argv, "--output_dir", str(tmp_path / "token")])
    assert whole_word["train_samples"] == 40 != token["train_samples"]
    arguments = [read_json(tmp_path / name / "wordmask_run.json")["arguments"] for name in ("wwm", "token")]
    different = {name for name in arguments[0] if arguments[0][name] != arguments[1][name]}
    assert different == {"masking_strategy", "line_by_line", "output_dir"}
    # With the other's settings, each gives the other's result.
    same = run_mlm.main(
        [*argv, "--output_dir", str(tmp_path / "s"), "--line_by_line", "--masking_strategy", "whole_word"]
    )
    assert same["train_loss"] == whole_word["train_loss"] != token["train_loss"]
    assert same["eval_loss"] == whole_word["eval_loss"]


@pytest.mark.parametrize("model_type", slow_after(2, ["roberta", "xlm-roberta", "albert", "distilbert", "electra"]))
def test_words_are_found_for_every_kind_of_fast_tokenizer(tmp_path, two_splits, model_type):
    settings = {
        "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
        "albert": {"embedding_size": 16, "num_hidden_groups": 1},
        "electra": {"embedding_size": 16},
    }.get(model_type, {})
    model = save_model(tmp_path / "model", sample_tokenizer(model_type), model_type, **settings)
    argv = ["--model_name_or_path", model, *two_splits, "--output_dir", str(tmp_path / "out"), *STEPS]
    metrics = run_mlm_wwm.main([*argv, "--mlm_probability", "0.4"])
    assert 4 < metrics["eval_loss"] < 9
    assert metrics["eval_whole_word_accuracy"] <= 1


def test_chinese_is_trained_with_references(chinese_model, tmp_path):
    lines = [line for line in sample_lines("chinese", 60) if all("\u4e00" <= char <= "\u9fff" for char in line[:2])]
    assert len(lines) > 20
    text, references = tmp_path / "text.txt", tmp_path / "ref.txt"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    references.write_text("[2]\n" * len(lines))
    argv = ["--model_name_or_path", chinese_model, "--train_file", str(text), *STEPS, "--mlm_probability", "0.3"]
    argv += ["--validation_file", str(text), "--output_dir"]
    both = ["--train_ref_file", str(references), "--validation_ref_file", str(references)]
    with_words = run_mlm_wwm.main([*argv, str(tmp_path / "with"), *both])
    without = run_mlm_wwm.main([*argv, str(tmp_path / "without")])
    assert with_words["train_samples"] == len(lines)
    assert with_words["train_loss"] != without["train_loss"]
    assert with_words["eval_loss"] != without["eval_loss"]


def test_a_model_is_trained_from_scratch_with_a_tokenizer_of_its_own(two_splits, tmp_path):
    overrides = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"
    argv = ["--model_type", "bert", "--vocab_size", "500", "--config_overrides", overrides, *two_splits, *STEPS]
    metrics = run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path)])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert model.config.vocab_size == len(tokenizer) == 500
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 512
    assert model.config.hidden_size == 16
    assert tokenizer.convert_ids_to_tokens(tokenizer("The boats")["input_ids"])[0] == "[CLS]"
    assert metrics["train_samples"] == 40


@pytest.mark.parametrize(
    "model_type, overrides, length",
    slow_after(
        1,
        [
            ("bert", "max_position_embeddings=70", 70),
            ("roberta", "max_position_embeddings=70", 69),
            ("nystromformer", "max_position_embeddings=70", 70),
            ("ibert", "max_position_embeddings=70", 69),
            ("modernbert", "", 8192),
        ],
    ),
)
def test_a_trained_tokenizer_knows_the_longest_sequence_of_its_model(
    two_splits, tmp_path, model_type, overrides, length
):
    """Before, it was 1e30, and other programs passed longer texts to the model.

    RoBERTa's positions begin after the id of its padding token, which is 0 here, and so do I-BERT's, in a class of its
    own. Nyströmformer's begin at 2 of 72.
    """
    small = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32," + overrides
    argv = ["--model_type", model_type, "--vocab_size", "500", "--config_overrides", small.rstrip(","), *two_splits]
    for steps in ("1", "2"):  # the second one resumes, with the tokenizer of the checkpoint
        run_mlm_wwm.main([*argv, *STEPS, "--max_steps", steps, "--save_steps", "1", "--output_dir", str(tmp_path)])
        for directory in (tmp_path, tmp_path / f"checkpoint-{steps}"):
            assert AutoTokenizer.from_pretrained(directory).model_max_length == length


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(english_model, two_splits, tmp_path):
    argv = ["--model_name_or_path", english_model, *two_splits, *STEPS, "--output_dir"]
    first, second = (run_mlm_wwm.main([*argv, str(tmp_path / name)]) for name in ("first", "second"))
    other = run_mlm_wwm.main([*argv, str(tmp_path / "other"), "--seed", "7"])
    assert first["train_loss"] == second["train_loss"] != other["train_loss"]


def test_evaluation_masks_are_the_same_at_every_evaluation(english_model, two_splits, tmp_path):
    argv = ["--model_name_or_path", english_model, *two_splits, *STEPS, "--output_dir", str(tmp_path)]
    run_mlm_wwm.main([*argv, "--eval_strategy", "steps", "--eval_steps", "1", "--learning_rate", "0"])
    history = read_json(tmp_path / "trainer_state.json")["log_history"]
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert len(losses) == 3 and len(set(losses)) == 1, "before training and at each step"


def test_the_number_of_samples_is_kept_to(english_model, two_splits, tmp_path):
    argv = ["--model_name_or_path", english_model, *two_splits, *STEPS, "--output_dir", str(tmp_path)]
    metrics = run_mlm_wwm.main([*argv, "--max_train_samples", "7", "--max_eval_samples", "3"])
    assert (metrics["train_samples"], metrics["eval_samples"]) == (7, 3)


@pytest.mark.parametrize("script", [run_mlm, run_mlm_wwm])
def test_a_stream_is_trained_on(english_model, two_splits, tmp_path, script):
    argv = ["--model_name_or_path", english_model, *two_splits, *STEPS, "--output_dir", str(tmp_path)]
    metrics = script.main([*argv, "--streaming"])
    assert 5 < metrics["train_loss"] < 8 and metrics["eval_samples"] > 1


def test_padding_to_the_maximum_gives_every_batch_one_shape(english_model, two_splits, tmp_path):
    argv = ["--model_name_or_path", english_model, *two_splits, *STEPS, "--eval_strategy", "epoch"]
    argv += ["--include_num_input_tokens_seen", "--pad_to_max_length", "--max_seq_length", "48"]
    run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path)])
    assert read_json(tmp_path / "trainer_state.json")["num_input_tokens_seen"] == 2 * 4 * 48


def test_grouping_by_length_brings_like_lengths_together(english_model, tmp_path):
    words = ["the"] * 60
    lines = [" ".join(words[: 2 if number % 2 else 60]) for number in range(32)]
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines))
    argv = ["--model_name_or_path", english_model, "--train_file", str(text), "--do_train", "--use_cpu"]
    argv += ["--num_train_epochs", "1", "--per_device_train_batch_size", "4", "--include_num_input_tokens_seen"]
    seen = {}
    for name, more in {"random": ["random"], "grouped": ["group_by_length"], "default": []}.items():
        strategy = ["--train_sampling_strategy", *more] if more else []
        run_mlm_wwm.main([*argv, *strategy, "--output_dir", str(tmp_path / name)])
        seen[name] = read_json(tmp_path / name / "trainer_state.json")["num_input_tokens_seen"]
    # Without padding: 16 lines of 4 and 16 of 62 tokens; a few batches may hold both kinds.
    assert 16 * 66 <= seen["grouped"] < 0.8 * seen["random"]
    assert seen["default"] == seen["grouped"], "line by line, an explicit strategy is obeyed, and this is the default"


@pytest.mark.slow
def test_several_processes_tokenize_to_the_same_rows(english_model, two_splits, tmp_path):
    argv = ["--model_name_or_path", english_model, *two_splits, *STEPS, "--overwrite_cache", "--output_dir"]
    one = run_mlm_wwm.main([*argv, str(tmp_path / "one")])
    two = run_mlm_wwm.main([*argv, str(tmp_path / "two"), "--preprocessing_num_workers", "2"])
    assert one["train_loss"] == two["train_loss"] and one["train_samples"] == two["train_samples"]


def test_workers_of_the_loader_change_nothing(english_model, two_splits, tmp_path):
    argv = ["--model_name_or_path", english_model, *two_splits, *STEPS, "--output_dir"]
    none = run_mlm_wwm.main([*argv, str(tmp_path / "none")])
    two = run_mlm_wwm.main([*argv, str(tmp_path / "two"), "--dataloader_num_workers", "2"])
    assert none["train_loss"] == two["train_loss"] and none["eval_loss"] == two["eval_loss"]


def test_the_best_model_is_the_one_that_is_kept(english_model, two_splits, tmp_path):
    argv = ["--model_name_or_path", english_model, *two_splits, *STEPS, "--output_dir", str(tmp_path)]
    argv += ["--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1", "--load_best_model_at_end"]
    metrics = run_mlm_wwm.main([*argv, "--learning_rate", "1.0"])  # this rate only does harm
    history = read_json(tmp_path / "trainer_state.json")["log_history"]
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry and entry["step"]][:2]
    assert len(set(losses)) == 2
    assert metrics["eval_loss"] == pytest.approx(min(losses), abs=1e-6)


def test_an_argument_file_runs(english_model, two_splits, tmp_path):
    arguments = {"model_name_or_path": english_model, "train_file": two_splits[1], "max_steps": 5, "use_cpu": True}
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**arguments, "output_dir": str(tmp_path / "out")}))
    run_mlm_wwm.main([str(path), "--max_steps", "1"])
    assert read_json(tmp_path / "out" / "trainer_state.json")["global_step"] == 1


def test_old_flags_run_with_one_warning_each(english_model, two_splits, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "unset")
    old = "--overwrite_output_dir --evaluation_strategy epoch --warmup_ratio 0.5 --no_cuda --group_by_length"
    old += f" --use_auth_token False --logging_dir {tmp_path / 'logs'} --per_gpu_train_batch_size 4"
    argv = ["--model_name_or_path", english_model, *two_splits, "--max_steps", "2", "--report_to", "none"]
    with caplog.at_level(logging.WARNING, "wordmask"):
        metrics = run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "out"), *old.split()])
    said = [record.getMessage() for record in caplog.records if record.name == "wordmask.config.parser"]
    assert len(said) == len(set(said)) == 7  # overwrite_output_dir is a flag here still
    assert "perplexity" in metrics


def test_with_log_level_error_only_mistakes_are_said(english_model, two_splits, tmp_path, capsys):
    argv, quiet = ["--model_name_or_path", english_model, *STEPS, "--overwrite_output_dir"], ["--log_level", "error"]
    argv += ["--output_dir", str(tmp_path)]
    verbosity = transformers.utils.logging.get_verbosity()
    try:
        assert run_mlm_wwm.main([*argv, *two_splits, *quiet])["perplexity"] > 0
        assert capsys.readouterr().err in ("", "importing torch and transformers ...\n")
        logging.getLogger("wordmask.any").error("it broke")
        assert capsys.readouterr().err == "it broke\n"
        assert "missing.txt" in refusal(capsys, run_mlm_wwm.main, *argv, *quiet, "--train_file", "missing.txt")
        run_mlm_wwm.main([*argv, *two_splits, *quiet, "--dry_run"])
        assert "\nsteps: 2 in " in capsys.readouterr().err, "a plan is all that a dry run gives"
        run_mlm_wwm.main([*argv, *two_splits])
        assert "\nsteps: 2 in " in capsys.readouterr().err, "the next run in this process is not quiet"
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


def test_the_config_for_a_cpu_says_how_to_train_and_goes_with_any_command_line(
    english_model, english_file, chinese_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(Path(__file__).parent.parent)  # as in the config's own commands
    config = "configs/cpu.yaml"
    said = {*yaml.safe_load(Path(config).read_text(encoding="utf-8"))}
    assert not said & {
        "model_name_or_path",
        "model_type",
        "tokenizer_name",
        "train_file",
        "output_dir",
        "max_seq_length",
    }
    continued, scratch, short = (str(tmp_path / name) for name in ("continued", "scratch", "short"))
    words = ["--model_name_or_path", english_model, "--train_file", english_file, "--output_dir", continued]
    run_mlm_wwm.main([config, *words, *STEPS])
    new = f"--model_type bert --tokenizer_name {chinese_model} --config_overrides hidden_size=16,num_hidden_layers=1"
    new += f",num_attention_heads=2,intermediate_size=32 --train_file {english_file} --max_seq_length 32"
    run_mlm.main([config, *new.split(), "--output_dir", scratch, "--learning_rate", "2e-3", "--line_by_line", *STEPS])
    run_mlm_wwm.main([config, english_model, english_file, "--output_dir", short, *STEPS])
    for directory, rate in ((continued, 5e-5), (scratch, 2e-3), (short, 5e-5)):
        arguments = read_json(Path(directory, "wordmask_run.json"))["arguments"]
        assert arguments["optim"] == "muon" and arguments["dropout"] == 0 and arguments["warmup_steps"] == 0.1
        assert arguments["learning_rate"] == rate
        assert read_json(Path(directory, "trainer_state.json"))["global_step"] == 2
