"""A directory belongs to one run: which runs it takes, what they say, and what they leave as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, TrainingArguments

import run_mlm
import run_mlm_wwm
from conftest import HANGS, free_port, refusal, run_until, sample_lines, sample_tokenizer, save_model
from wordmask.config.arguments import CONCERNS
from wordmask.training.records.run_record import _TEXT, SETTINGS, STEP

ROOT = Path(__file__).parent.parent.parent.parent
RECORD, EVALUATIONS = "wordmask_run.json", "wordmask_evaluations.json"


# Flags that change neither sequences nor masks nor learning: where things are, how fast a run is, and what it shows.
# The identity of a run has what the first twelve change.
NO_SETTINGS = {
    *("model_name_or_path", "model_type", "config_name", "config_overrides"),
    *("tokenizer_name", "vocab_size", "add_words"),
    *("max_position_embeddings", "dropout", "text_column_name", "prepared_dir", "validation_split_percentage"),
    *("use_fast_tokenizer", "cache_dir", "model_revision", "token", "trust_remote_code", "keep_optimizer"),
    *("sparse_prediction", "pad_to_max_length", "tokens_per_pass", "chunked_head", "activation_memory_budget"),
    *("validation_file", "validation_ref_file", "max_eval_samples", "probe_file", "probe_validation_file"),
    *("preprocessing_num_workers", "overwrite_cache", "prepare_only", "part_lines", "num_shards", "shard_index"),
    *("overwrite_output_dir", "dry_run", "allow_nan", "log_format", "text_in_results"),
    *("preview_masking", "preview_file"),
}


def test_each_flag_of_ours_is_a_setting_or_has_a_reason_to_be_none():
    """A resume tells the settings that changed, and the model card shows them."""
    theirs = {flag.name for flag in fields(TrainingArguments)}
    ours = {flag.name for concern in CONCERNS for flag in fields(concern) if flag.init} - theirs
    compared = {*SETTINGS, *STEP, *_TEXT}
    assert ours - compared == NO_SETTINGS and not NO_SETTINGS & compared


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A text and three models: two of one size, and one whose tokenizer is another."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "text.txt").write_text("\n".join(sample_lines("english", 24)), encoding="utf-8")
    tokenizer = sample_tokenizer("bert")
    save_model(folder / "one", tokenizer)
    model = AutoModelForMaskedLM.from_pretrained(folder / "one")
    with torch.no_grad():
        model.cls.predictions.bias += 1.0
    shutil.copytree(folder / "one", folder / "other")
    model.save_pretrained(folder / "other")
    save_model(folder / "roberta", sample_tokenizer("roberta"), "roberta")
    return folder


@pytest.fixture(scope="module")
def command(folder):
    def command(model: str, out: Path, *more: str) -> list[str]:
        return [
            *("--model_name_or_path", str(folder / model), "--train_file", str(folder / "text.txt")),
            *("--output_dir", str(out), "--cache_dir", str(folder / "cache"), *more),
            *"--use_cpu --max_steps 2 --save_steps 1 --validation_split_percentage 20".split(),
        ]

    return command


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory) -> Path:
    """What a run of `one` has left; tests work on a copy."""
    out = tmp_path_factory.mktemp("trained") / "out"
    run_mlm_wwm.main(command("one", out, "--do_train", "--do_eval"))
    return out


@pytest.fixture
def out(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "out"))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("script", [run_mlm, run_mlm_wwm])
@pytest.mark.parametrize("model", ["other", "roberta"])
@pytest.mark.parametrize("asked", [[], ["--do_train", "--do_eval"], ["--do_eval"]], ids=" ".join)
def test_another_model_is_refused_and_nothing_is_changed(script, model, asked, command, folder, out, capsys):
    """It went on from the first one's checkpoint, kept its weights, and wrote a card for a model never trained."""
    before = contents(out)
    sentence = refusal(capsys, script.main, *command(model, out, *asked))
    assert sentence.startswith(f"--output_dir: {out} belongs to a run with another base model ({folder / 'one'} -> ")
    assert "give another --output_dir, or --" in sentence
    assert contents(out) == before


def test_a_copy_of_the_model_goes_on(command, folder, out, caplog):
    """What counts is the content of the weights, not where they lie."""
    shutil.copytree(folder / "one", folder / "copy", dirs_exist_ok=True)
    shutil.rmtree(out / "checkpoint-2")
    run_mlm_wwm.main(command("copy", out, "--do_train", "--do_eval"))
    assert f"going on from {out / 'checkpoint-1'}" in caplog.text and "other settings" not in caplog.text


def test_another_tokenizer_is_refused(command, folder, out, capsys):
    sample_tokenizer("bert", 500).save_pretrained(folder / "tokens")
    more = ["--tokenizer_name", str(folder / "tokens")]
    sentence = refusal(capsys, run_mlm_wwm.main, *command("one", out, "--do_train", *more))
    assert f"{out} belongs to a run with another tokenizer; " in sentence


def test_another_architecture_from_scratch_is_refused_by_what_differs(folder, tmp_path, capsys):
    def argv(size: int) -> list[str]:
        return [
            *("--model_type", "bert", "--tokenizer_name", str(folder / "one"), "--output_dir", str(tmp_path / "out")),
            *(
                "--config_overrides",
                f"hidden_size={size},num_hidden_layers=1,num_attention_heads=2,intermediate_size=8",
            ),
            *("--train_file", str(folder / "text.txt"), "--use_cpu", "--max_steps", "1", "--do_train"),
        ]

    run_mlm.main(argv(16))
    sentence = refusal(capsys, run_mlm.main, *argv(32))
    assert "belongs to a run with another architecture (hidden_size 16 -> 32); " in sentence


def test_a_tokenizer_of_another_size_is_refused(english_file, tmp_path, capsys):
    small = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
    argv = ["--model_type", "bert", "--config_overrides", small, "--train_file", english_file, "--use_cpu"]
    argv += ["--do_train", "--max_seq_length", "16", "--output_dir", str(tmp_path / "out"), "--save_steps", "1"]
    run_mlm_wwm.main([*argv, "--vocab_size", "300", "--max_steps", "1"])
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--vocab_size", "310", "--max_steps", "2")
    assert sentence.startswith("--output_dir: ") and "tokenizer" in sentence


def test_a_checkpoint_whose_record_is_broken_is_not_used(command, out, caplog):
    steps = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    copy = out / "checkpoint-99"
    shutil.copytree(steps[-1], copy)
    (copy / "wordmask_progress.json").write_text("{bad")
    run_mlm_wwm.main(command("one", out, "--do_train"))
    assert "checkpoint-99 is not used: wordmask_progress.json" in caplog.text and "4 bytes instead of" in caplog.text
    assert (copy / "wordmask_progress.json").exists()


def test_overwriting_begins_another_run(command, folder, out):
    (out / "vocab.txt").write_text("[PAD]\n[MASK]\n")
    run_mlm_wwm.main(command("roberta", out, "--do_train", "--overwrite_output_dir"))
    assert AutoModelForMaskedLM.from_pretrained(out).config.model_type == "roberta"
    record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    assert record["arguments"]["model_name_or_path"] == str(folder / "roberta")
    assert "overwrite_output_dir" not in record["arguments"], "the record would delete what it describes"
    assert not (out / "eval_results.json").exists()
    assert not (out / "vocab.txt").exists(), "a part of the other model's tokenizer"


def test_overwriting_with_what_lies_there_keeps_it_until_the_end(command, out, monkeypatch):
    """A run that is killed would leave neither the old model nor the new one."""

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("wordmask.training.run.train", killed)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        run_mlm_wwm.main(command(str(out), out, "--do_train", "--overwrite_output_dir"))
    assert (out / "model.safetensors").read_bytes() == before and not list(out.glob("checkpoint-*"))


def test_an_evaluation_never_overwrites_a_training(command, out, capsys):
    before = contents(out)
    sentence = refusal(capsys, run_mlm_wwm.main, *command("other", out, "--do_eval", "--overwrite_output_dir"))
    assert "another base model" in sentence and contents(out) == before


def test_a_training_of_what_was_trained_in_its_own_directory_is_refused(command, out, capsys):
    """Only an evaluation may be of that model; a training would go on from its checkpoint, and not from the model."""
    before = contents(out)
    sentence = refusal(capsys, run_mlm_wwm.main, *command(str(out), out, "--do_train"))
    assert "another base model" in sentence and contents(out) == before
    assert sentence.endswith("; give another --output_dir, or --overwrite_output_dir to start over")


def test_other_settings_are_told_line_by_line_and_the_run_goes_on(command, folder, out, tmp_path, caplog):
    text = tmp_path / "longer.txt"
    text.write_text((folder / "text.txt").read_text(encoding="utf-8") + "\nOne line more.\n", encoding="utf-8")
    more = ["--train_file", str(text), "--seed", "7", "--mlm_probability", "0.3", "--learning_rate", "1e-3"]
    run_mlm_wwm.main(command("one", out, "--do_train", *more)[:-4] + ["--max_steps", "3"])
    told = [
        record.getMessage().partition("settings: ")[2] for record in caplog.records if "other settings" in record.msg
    ]
    assert told[0].startswith("training text, or its references: digest ") and " -> " in told[0]
    assert {"--seed: 42 -> 7", "--mlm_probability: 0.15 -> 0.3", "--max_steps: 2 -> 3"} <= set(told)
    assert "--learning_rate: 5e-05 -> 0.001" in told and not [line for line in told if "train_file" in line]
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 3


def test_the_same_text_elsewhere_is_no_change(command, folder, out, tmp_path, caplog):
    shutil.copy(folder / "text.txt", tmp_path / "moved.txt")
    run_mlm_wwm.main(command("one", out, "--do_train", "--do_eval", "--train_file", str(tmp_path / "moved.txt")))
    assert "other settings" not in caplog.text and "holds the end of this run" in caplog.text


def test_an_evaluation_is_of_the_model_that_was_asked_for(command, folder, out, tmp_path, caplog):
    """The untouched model has its own loss, whatever was trained in the directory, and gets no card."""
    before = {name: data for name, data in contents(out).items() if not name.endswith("_results.json")}
    results = (out / "all_results.json").read_bytes()
    here = run_mlm_wwm.main(command("one", out, "--do_eval"))
    assert (out / "all_results.json").read_bytes() == results, "those of what was trained"
    assert f"--model_name_or_path {out} evaluates what was trained from it" in caplog.text
    elsewhere = run_mlm_wwm.main(command("one", tmp_path / "fresh", "--do_eval"))
    trained = run_mlm_wwm.main(command(str(out), out, "--do_eval"))
    checkpoint = run_mlm_wwm.main(command(str(out / "checkpoint-2"), out, "--do_eval"))
    assert here["eval_loss"] == elsewhere["eval_loss"] != trained["eval_loss"] == checkpoint["eval_loss"]
    after = {name: data for name, data in contents(out).items() if not name.endswith("_results.json")}
    assert after == before
    left = {path.name for path in (tmp_path / "fresh").iterdir()}
    results = {"data_report.json", "eval_results.json", "all_results.json"}
    assert left == {RECORD, EVALUATIONS, *results, "report.html"}, "neither card nor weights"


def test_an_evaluation_may_be_followed_by_the_training_of_its_model_and_of_no_other(command, tmp_path, capsys):
    out = tmp_path / "out"
    run_mlm_wwm.main(command("one", out, "--do_eval"))
    assert "another base model" in refusal(capsys, run_mlm_wwm.main, *command("other", out, "--do_train"))
    run_mlm_wwm.main(command("one", out, "--do_train"))
    assert "eval_loss" not in json.loads((out / "all_results.json").read_text()), "that of the untouched model"
    run_mlm_wwm.main(command("other", tmp_path / "two", "--do_eval"))
    run_mlm_wwm.main(command("one", tmp_path / "two", "--do_eval", "--overwrite_output_dir"))


def test_a_finished_run_that_is_started_again_keeps_the_results_in_its_card(command, out):
    before = (out / "README.md").read_text(encoding="utf-8")
    assert "mean training loss" in before and "training samples" in before
    run_mlm_wwm.main(command("one", out, "--do_train", "--do_eval"))
    assert (out / "README.md").read_text(encoding="utf-8") == before


def test_a_finished_run_keeps_the_device_that_it_trained_on(command, out, monkeypatch):
    """The card named the device of the evaluation beside the time of the training."""
    before = (out / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    run_mlm_wwm.main(command("one", out, "--do_train", "--do_eval"))
    assert "CPU with 1 thread" in before and (out / "README.md").read_text(encoding="utf-8") == before


def test_a_finished_run_is_not_said_to_be_of_settings_that_came_later(command, out, caplog):
    kept = ("README.md", RECORD, "model.safetensors")
    before = {name: (out / name).read_bytes() for name in kept}
    run_mlm_wwm.main(command("one", out, "--do_train", "--do_eval", "--masking_strategy", "token"))
    assert "--masking_strategy: whole_word -> token" in caplog.text and "holds the end of this run" in caplog.text
    assert {name: (out / name).read_bytes() for name in kept} == before


@pytest.mark.parametrize("flags", [["--masking_strategy", "token"], ["--mlm_probability", "0.3"]])
def test_a_finished_run_keeps_its_results_when_it_is_evaluated_with_other_settings(flags, command, out, caplog):
    """The report and all_results.json took the new figures, beside the old settings and the figures in the card."""
    run_mlm_wwm.main(command("one", out, "--do_train", "--do_eval"))
    before = contents(out)
    figures = run_mlm_wwm.main(command("one", out, "--do_train", "--do_eval", *flags))
    assert "replaces eval_results.json alone" in caplog.text
    after = contents(out)
    assert {name for name in before | after if before.get(name) != after.get(name)} == {"eval_results.json"}
    assert json.loads(after["eval_results.json"])["eval_loss"] == figures["eval_loss"]


@pytest.mark.parametrize("flags", [["--do_eval", "false"], ["--no_do_train"]])
def test_a_task_that_is_turned_off_is_not_done(flags, command, tmp_path):
    """Such a run did both, as one without the two flags does."""
    figures = run_mlm_wwm.main(command("one", tmp_path / "out", *flags))
    trains, evaluates = "train_loss" in figures, "eval_loss" in figures
    assert (trains, evaluates) == ((True, False) if "--do_eval" in flags else (False, True))
    given = json.loads((tmp_path / "out" / RECORD).read_text())["arguments"]
    assert (given["do_train"], given["do_eval"]) == (trains, evaluates)


def test_an_evaluation_leaves_the_epochs_of_the_training(command, out):
    """It added its own epoch, which is 0, to the figures of the training."""
    before = json.loads((out / "all_results.json").read_text())["epoch"]
    run_mlm_wwm.main(command(str(out), out, "--do_eval"))
    after = json.loads((out / "all_results.json").read_text())
    assert after["epoch"] == before > 0 and "epoch" not in json.loads((out / "eval_results.json").read_text())


def test_an_evaluation_on_another_text_leaves_the_report_of_a_training_alone(command, folder, out, tmp_path, caplog):
    """The report had the figures of one text beside the name and the size of another."""
    run_mlm_wwm.main(command(str(out), out, "--do_eval"))
    before = contents(out)
    (tmp_path / "dev.txt").write_text("\n".join(sample_lines("english", 40)[24:]), encoding="utf-8")
    run_mlm_wwm.main(command(str(out), out, "--do_eval", "--validation_file", str(tmp_path / "dev.txt")))
    after = contents(out)
    assert {name for name in before if before[name] != after[name]} == {"eval_results.json"}
    assert "replaces eval_results.json alone" in caplog.text


@pytest.mark.parametrize("content", ["[1]", '{"arguments": {}}'])
def test_a_record_that_cannot_be_read_is_a_sentence(content, command, out, capsys):
    (out / RECORD).write_text(content)
    assert f"{out / RECORD} cannot be read" in refusal(capsys, run_mlm_wwm.main, *command("one", out, "--do_train"))


def test_an_earlier_try_that_came_to_nothing_binds_nobody(command, out):
    for path in out.iterdir():
        if path.name != RECORD:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run_mlm_wwm.main(command("other", out, "--do_train"))["train_loss"] > 0


def test_a_preview_leaves_a_directory_alone(command, out):
    before = contents(out)
    run_mlm_wwm.main(command("other", out, "--preview_masking", "1"))
    assert contents(out) == before


def test_weights_are_read_for_their_digest_once(command, folder, out, monkeypatch):
    def unread(file):
        raise AssertionError(f"{file} was read again")

    monkeypatch.setattr("wordmask.utils.cache._digest", unread)
    run_mlm_wwm.main(command("one", out, "--do_train", "--do_eval"))


# --resume_from_checkpoint with a path


def test_a_checkpoint_of_another_model_is_refused(command, out, tmp_path, capsys):
    more = ["--do_train", "--resume_from_checkpoint", str(out / "checkpoint-1")]
    sentence = refusal(capsys, run_mlm_wwm.main, *command("other", tmp_path / "new", *more))
    assert sentence.startswith(f"--resume_from_checkpoint: {out / 'checkpoint-1'} belongs to a run with another base")
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_that_others_follow_is_refused_or_they_are_overwritten(command, out, capsys):
    argv = command("one", out, "--do_train", "--resume_from_checkpoint", str(out / "checkpoint-1"))
    before = contents(out)
    assert f"{out / 'checkpoint-2'}; drop the flag" in refusal(capsys, run_mlm_wwm.main, *argv)
    assert contents(out) == before
    run_mlm_wwm.main([*argv, "--overwrite_output_dir", "--save_strategy", "no"])
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}, (
        "the last one says all"
    )
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 2


def test_an_evaluation_of_a_checkpoint_that_training_would_take_is_refused(command, out, tmp_path, capsys):
    """transformers evaluates the model beside it, and says nothing."""
    more = ["--do_eval", "--resume_from_checkpoint", str(out / "checkpoint-1")]
    sentence = refusal(capsys, run_mlm_wwm.main, *command("one", tmp_path / "new", *more))
    assert sentence == "--resume_from_checkpoint is for training; to evaluate it, give it as --model_name_or_path"


# Processes of one launch that are not the same

OF_RANK = """
import os, sys
import run_mlm_wwm
run_mlm_wwm.main([word.replace("{rank}", os.environ["RANK"]) for word in sys.argv[1:]])
"""


def launch(*argv: str) -> str:
    """What two processes print; `{rank}` in the command line is the number of each. They must fail."""
    started = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
        + ["--no_python", sys.executable, "-c", OF_RANK, *argv],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert started.returncode != 0
    return started.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "more, different",
    [
        (["--seed", "4{rank}"], "--seed (40 -> 41)"),
        (["--gradient_accumulation_steps", "{rank}1"], "--gradient_accumulation_steps (1 -> 11)"),
        (["--train_file", "{folder}/text{rank}.txt"], "the training text, or its references"),
        (["--model_name_or_path", "{folder}/model{rank}"], "the model"),
        (["--output_dir", "{folder}/out{rank}"], "the checkpoint to go on from (checkpoint-2 -> none)"),
    ],
)
def test_processes_that_are_not_the_same_do_not_train(folder, tmp_path, more, different):
    """They trained on, with weights that drift apart; or one of them waited for the other until --ddp_timeout."""
    shutil.copytree(folder / "one", tmp_path / "model0")
    shutil.copytree(folder / "other", tmp_path / "model1")
    for rank in range(2):  # {rank}1 is 01 and 11
        (tmp_path / f"text{rank}.txt").write_text("\n".join(sample_lines("english", 24 - rank)), encoding="utf-8")
    argv = ["--train_file", str(tmp_path / "text0.txt"), "--model_name_or_path", str(tmp_path / "model0"), "--use_cpu"]
    argv += ["--do_train", "--max_steps", "4", "--max_seq_length", "32", "--output_dir", str(tmp_path / "out0")]
    if "--output_dir" in more:
        run_until(2, argv)
    printed = launch(*argv, *(word.replace("{folder}", str(tmp_path)) for word in more))
    assert f"error: rank 1: this process differs from the first one of its launch: {different}; " in printed, printed
    assert "give all processes the same flags and files, and an --output_dir that all machines share" in printed
    assert "[rank0]: Traceback" not in printed and "[rank1]: Traceback" not in printed, printed
    assert "interrupted; to " not in printed, "this command would make the same mistake again"


@pytest.mark.slow
def test_machines_that_each_train_a_tokenizer_need_one_cache(tmp_path):
    """The same flags and files give them different tokenizers."""
    (tmp_path / "text.txt").write_text("\n".join(sample_lines("english", 24)), encoding="utf-8")
    argv = ["--train_file", str(tmp_path / "text.txt"), "--cache_dir", str(tmp_path / "cache{rank}"), "--use_cpu"]
    argv += ["--model_type", "bert", "--vocab_size", "300", "--output_dir", str(tmp_path / "out")]
    printed = launch(*argv, "--max_steps", "1", "--max_seq_length", "32")
    assert "the tokenizer; give" in printed, printed
    assert "files, and an --output_dir and a --cache_dir that all machines share" in printed, printed
