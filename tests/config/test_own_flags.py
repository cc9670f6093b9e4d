"""--help, and mistakes in our own flags, take a second, and say the same as the parser of all flags."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainingArguments

import run_chinese_ref
import run_mlm
import run_mlm_wwm
from conftest import refusal, slow_after
from wordmask import __main__ as command
from wordmask import cluster
from wordmask.config.added_arguments import UsedArguments
from wordmask.config.own_flags import OWN, parse_own_flags
from wordmask.config.run_arguments import RunArguments
from wordmask.utils.errors import InputError

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys, time
try:
    {call}
except SystemExit as end:
    heavy = [name for name in ("torch", "datasets", "transformers.training_args") if name in sys.modules]
    print(end.code, heavy, time.process_time())
"""


@pytest.mark.parametrize(
    "call, status",
    slow_after(
        2,
        [
            ("import run_mlm_wwm; run_mlm_wwm.main(['--help'])", None),
            ("import run_mlm; run_mlm.main('--train_file x --model_type bert --mlm_probability 2'.split())", 2),
            ("import run_chinese_ref; run_chinese_ref.main(['--help'])", None),
            ("import run_mlm; run_mlm.main(['--learning_rate', '1', '--dtype', 'float8'])", 2),
            ("import wordmask.cluster; wordmask.cluster.main(['--help'])", None),
            ("import wordmask.__main__; wordmask.__main__.main(['mlm', '--help'])", None),
        ],
    ),
)
def test_help_and_mistakes_take_no_time(call, status):
    """Neither torch nor the Trainer is imported; in seconds of CPU, so that other work does not count."""
    shown = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(call=call)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found, seconds = shown.stdout.splitlines()[-1].rsplit(" ", 1)
    assert found == f"{status or 0} []", shown.stderr
    assert float(seconds) < 5, "far more than it takes on a slow machine"


def printed_help(capsys, main, *argv: str) -> str:
    with pytest.raises(SystemExit) as status:
        main(argv)
    assert not status.value.code
    return capsys.readouterr().out


def flags(text: str) -> list[str]:
    """The flags that a help text lists, each at the start of a line."""
    return re.findall(r"^  --(\w+)", text, re.MULTILINE)


def test_help_shows_each_of_our_flags_once_and_no_other(capsys):
    text = printed_help(capsys, run_mlm.main, "--help")
    own = [field.name for concern in OWN for field in dataclasses.fields(concern)]
    assert flags(text) == ["help", "help_all", *own]
    headings = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert headings == ["options", *(concern._argument_group_name for concern in OWN)]
    assert "Default: token." in text and "Default: whole_word." in printed_help(capsys, run_mlm_wwm.main, "--help")


def test_help_is_short_and_shows_the_short_form(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["run_mlm_wwm.py"])  # not the paths that pytest was given
    text = printed_help(capsys, run_mlm_wwm.main, "--help")
    lines = text.splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 80, "see CONTRIBUTING.md, Add a flag"
    assert "[ARGUMENT_FILE] [MODEL train.txt [dev.txt]] [--flag ...]" in lines[0] and lines[1] == ""
    used = [field.name for field in dataclasses.fields(UsedArguments)]
    assert flags(text)[2:4] == ["output_dir", "learning_rate"] and flags(text)[2 + len(used)] == "model_name_or_path"


def test_flags_of_transformers_have_its_defaults():
    theirs = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    for field in dataclasses.fields(UsedArguments)[1:]:
        default = theirs[field.name]
        assert field.default == getattr(default, "value", default), field.name
    assert RunArguments(use_cpu=True).output_dir == "trainer_output"


def test_a_switch_that_is_on_says_how_it_is_turned_off(capsys):
    for main, script in ((run_mlm.main, "mlm"), (run_mlm_wwm.main, "wwm")):
        entries = re.split(r"\n  (?=--)", printed_help(capsys, main, "--help"))
        words = {entry.split()[0].lstrip("-"): " ".join(entry.split()) for entry in entries}
        off = {name for name, text in words.items() if f"Default: on; --no_{name} turns it off." in text}
        assert off == {
            "sparse_prediction",
            "use_fast_tokenizer",
            "hmm",
            "text_in_results",
            *(["line_by_line"] * (script == "wwm")),
        }


def test_the_command_is_named_as_it_was_called(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/wordmask", "wwm", "--help"])
    assert printed_help(capsys, command.main, "wwm", "--help").startswith("usage: wordmask wwm [ARGUMENT_FILE]")


def test_all_flags_are_shown_where_they_are_asked_for(capsys):
    text = printed_help(capsys, run_mlm.main, "--help_all")
    own = {field.name for concern in OWN for field in dataclasses.fields(concern)}
    assert own | {"learning_rate", "per_device_train_batch_size", "report_to"} <= {*flags(text)}
    assert len(flags(text)) == len({*flags(text)}) > 150


def test_the_other_commands_have_help(capsys):
    assert {"file_name", "save_path", "segmenter"} <= {*flags(printed_help(capsys, run_chinese_ref.main, "--help"))}
    text = printed_help(capsys, cluster.main, "--help")
    assert {"tasks", "executor", "partition"} <= {*flags(text)} and "-- script.py" in text
    assert flags(printed_help(capsys, command.main, "wwm", "--help"))[:2] == ["help", "help_all"]


@pytest.mark.parametrize(
    "argv, words",
    [
        # What is missing is there, with a slip of the finger.
        (["--model_name_or_pth", "x", "--train_file", "x"], ["--model_name_or_pth", "mean --model_name_or_path"]),
        (["--model_type", "bert", "--train_fle", "x", "--do_train"], ["--train_fle", "did you mean --train_file"]),
        (["--model_type", "bert", "--do_train"], ["--train_file is missing"]),
        (["--model_type", "bert", "--train_file", "x", "--tokens_per_pass", "-1"], ["--tokens_per_pass: -1"]),
    ],
)
def test_the_better_of_two_sentences_is_said(capsys, argv, words):
    sentence = refusal(capsys, run_mlm.main, *argv)
    assert all(word in sentence for word in words), sentence


def test_a_misspelled_name_in_a_file_is_said_to_be_there(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("model_type: bert\ntrain_fil: x\n")
    assert refusal(capsys, run_mlm.main, str(path)).startswith(f"{path}: train_fil is not a flag of this script (did")


def test_a_word_with_in_between_spaces_is_said_whole(tmp_path, capsys):
    """It was cut there once, as if an argument file of the second part had the first."""
    sentence = refusal(capsys, run_mlm.main, "--model_type", "bert", "--train_flie=texts in de.txt")
    assert sentence.startswith("--train_flie is not a flag of this script (did you mean --train_file?)")
    words = ["--resume", "true", "texts in de.txt"]
    sentence = refusal(capsys, run_chinese_ref.main, "--file_name", "x", "--save_path", "y", *words)
    assert sentence.startswith("texts in de.txt belongs to no flag of this script")
    path = tmp_path / "run in May.yaml"
    path.write_text("train_flie in: x\n")
    sentence = refusal(capsys, run_mlm.main, str(path), "--model_type", "bert")
    assert sentence.startswith(f"{path}: train_flie in is not a flag of this script (did you mean train_file?)")


def test_nothing_is_said_twice(caplog):
    """Flags are looked at twice, and old ones translated twice."""
    parse_own_flags(["--model_type", "bert", "--train_data_file", "x", "--evaluation_strategy", "epoch"])
    assert caplog.records == []
    with pytest.raises(InputError, match="--n_gpu is gone"):
        parse_own_flags(["--n_gpu", "2"])


def test_flags_of_the_trainer_are_left_alone():
    argv = "--model_type bert --train_file a b --learning_rate 1e-4 --no_tf32 --fsdp full_shard --report_to none x"
    parse_own_flags([*argv.split(), "--lr_scheduler_kwargs", '{"a": 1}'])
