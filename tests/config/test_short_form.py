"""The short form: words that are flags, defaults that give way, and an output directory of its own."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

import run_mlm
import run_mlm_wwm
from conftest import HANGS, refusal, run_until
from wordmask.config.arguments import parse_arguments
from wordmask.config.own_flags import parse_own_flags, training_parser
from wordmask.config.parser import TRAINER_LISTS
from wordmask.config.run_arguments import RunArguments
from wordmask.config.short_form import DEFAULTS, asked_format, choose_output_dir, describe, new_output_dir, split_words
from wordmask.training.trainer.mlm_trainer import MlmTrainer

ROOT = Path(__file__).parent.parent.parent
TINY = ["--use_cpu", "--max_seq_length", "16"]


@pytest.fixture
def here(tmp_path, monkeypatch, english_model, english_file) -> Path:
    """A working directory with a model, a training text and a text to evaluate on."""
    (tmp_path / "bert").symlink_to(english_model)
    lines = Path(english_file).read_text(encoding="utf-8").splitlines()
    (tmp_path / "train.txt").write_text("\n".join(lines[:30]) + "\n", encoding="utf-8")
    (tmp_path / "dev.txt").write_text("\n".join(lines[30:]) + "\n", encoding="utf-8")
    (tmp_path / "texts").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse(*argv: str):
    return parse_arguments([*argv, "--use_cpu"], masking_strategy="whole_word", line_by_line=True)


def made() -> list[Path]:
    return sorted(Path("output").glob("*"))


def test_words_stand_for_model_and_texts():
    arguments = parse("bert", "a.txt", "b.txt", "--output_dir", "out")
    assert arguments.model.model_name_or_path == "bert"
    assert (arguments.data.train_file, arguments.data.validation_file) == (["a.txt"], ["b.txt"])
    assert parse("bert", "a.txt", "--output_dir", "out").data.validation_file is None
    several = parse("bert", "--train_file", "a.txt", "b.txt", "--output_dir", "out")
    assert several.data.train_file == ["a.txt", "b.txt"] and several.short_form


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["bert", "a.json"], (None, ["bert", "a.json"], [])),
        (["run.json", "bert", "a.json", "b.json"], ("run.json", ["bert", "a.json", "b.json"], [])),
        (["run.yaml", "--train_file", "a.txt"], ("run.yaml", [], ["--train_file", "a.txt"])),
        (["run.yml", "bert", "a.txt", "-h"], ("run.yml", ["bert", "a.txt"], ["-h"])),
        (["--use_cpu", "bert"], (None, [], ["--use_cpu", "bert"])),
    ],
)
def test_only_the_first_word_is_an_argument_file(argv, expected):
    assert split_words(argv) == expected


def test_a_training_file_that_ends_in_json_is_no_argument_file(here):
    (here / "train.json").write_text('{"text": "one two"}\n{"text": "three"}\n')
    (here / "run.json").write_text('{"use_cpu": true, "learning_rate": 1e-3}')
    arguments = parse_arguments(["run.json", "bert", "train.json", "--output_dir", "out"])
    assert arguments.data.train_file == ["train.json"] and arguments.training.learning_rate == 1e-3


@pytest.mark.parametrize(
    "argv, words",
    [
        (["bert", "train.txt", "--train_data_file=dev.txt"], ["train.txt and --train_file say the same"]),
        (["bert", "train.txt", "dev.txt", "--validation-file", "a"], ["dev.txt and --validation_file"]),
        (["bert", "train.txt", "dev.txt", "other.txt"], ["other.txt", "MODEL train.txt [dev.txt]", "data/*.txt"]),
        (["bert", "train.txt", "missing*.gz"], ["--validation_file", "missing*.gz", "does not exist"]),
        (["./missing", "train.txt"], ["./missing is neither a directory nor the id of a model"]),
        (["a/b/c", "train.txt"], ["a/b/c is neither a directory nor"]),
        (["train.txt", "dev.txt"], ["train.txt is a file, and the model comes first"]),
        (["no-such-model", "train.txt"], ["error: no-such-model is neither a directory nor"]),
        (["texts", "train.txt"], ["error: texts holds no model (no config.json)", "comes first", "MODEL train.txt"]),
        (["--learning_rate", "1", "bert", "train.txt"], ["bert is no value of the flag", "MODEL train.txt [dev.txt]"]),
        (["bert", "train.txt", "--seed", "1", "dev.txt"], ["dev.txt is no value of the flag", "before all flags"]),
        (
            ["bert", "--max_steps", "2", "train.txt"],
            ["train.txt is no value of the flag before it, which takes no more; write MODEL"],
        ),
        (["bert", "--max_steps=2", "train.txt", "--seed", "1"], ["train.txt is no value of the flag"]),
        (["bert", "--max_seq_length", "16", "train.txt"], ["train.txt is no value of the flag"]),
        (["bert", "--streaming", "train.txt"], ["train.txt is no value of the flag"]),
        (["bert", "--bf16_full_eval", "train.txt"], ["train.txt is no value of the flag"]),
    ],
)
@pytest.mark.parametrize("script", [run_mlm, run_mlm_wwm], ids=["mlm", "wwm"])
def test_a_mistake_in_the_words_gets_one_sentence_and_leaves_nothing(here, capsys, argv, words, script):
    sentence = one_sentence(capsys, script.main, *argv, *([] if "--learning_rate" in argv else ["--use_cpu"]))
    assert [word for word in words if word not in sentence] == [], sentence
    assert not Path("output").exists()


def one_sentence(capsys, main, *argv: str) -> str:
    """The sentence of a refusal, below the lines with the output directory and the defaults."""
    with pytest.raises(SystemExit) as status:
        main(argv)
    lines = capsys.readouterr().err.splitlines()
    earlier = [line for line in lines[:-1] if not line.startswith("output: ")]
    assert status.value.code == 2 and not any(line.startswith(("error: ", "Traceback")) for line in earlier)
    assert lines[-1].startswith("error: ")
    return lines[-1]


def test_defaults_give_way_to_the_argument_file_and_that_to_flags(here):
    (here / "run.yaml").write_text("learning_rate: 1e-3\nweight_decay: 0.5\nmodel_name_or_path: other\n")
    arguments = parse("run.yaml", "bert", "train.txt", "--weight_decay", "0.2", "--output_dir", "out")
    training = arguments.training
    assert (training.learning_rate, training.weight_decay, training.warmup_steps) == (1e-3, 0.2, 0.06)
    assert arguments.model.model_name_or_path == "bert"
    assert not {"learning_rate", "weight_decay"} & arguments.short_form.keys()
    assert arguments.short_form["warmup_steps"] == arguments.given["warmup_steps"] == 0.06


def test_old_flags_and_switched_off_ones_win_over_defaults():
    training = parse(
        "bert", "a.txt", "--warmup_ratio=0.2", "--no_load_best_model_at_end", "--output_dir", "o"
    ).training
    assert training.warmup_steps == 0.2 and training.load_best_model_at_end is False


def test_the_long_form_has_none_of_these_defaults():
    arguments = parse("--model_name_or_path", "bert", "--train_file", "a.txt")
    assert arguments.short_form == {} and arguments.training.output_dir == "trainer_output"
    assert arguments.training.eval_strategy == "no" and arguments.training.warmup_steps == 0


@pytest.mark.parametrize(
    "flags, evaluation, saving, best",
    [
        ([], ("steps", 0.1), ("steps", 0.1), True),
        (["--eval_strategy", "epoch"], ("epoch",), ("epoch",), True),
        (["--save_strategy", "epoch"], ("epoch",), ("epoch",), True),
        (["--eval_steps", "50"], ("steps", 50), ("steps", 50), True),
        (["--save_steps", "50"], ("steps", 50), ("steps", 50), True),
        (["--save_steps", "50", "--eval_steps", "20"], ("steps", 20), ("steps", 50), False),
        (["--save_strategy", "no"], ("steps", 0.1), ("no",), False),
        (["--eval_strategy", "no"], ("no",), ("steps", 0.1), False),
        (["--eval_strategy", "epoch", "--save_strategy", "steps"], ("epoch",), ("steps", 0.1), False),
        (["--save_strategy", "best", "--metric_for_best_model", "loss"], ("steps", 0.1), ("best",), True),
        (["--validation_split_percentage", "0"], ("no",), ("steps", 0.1), False),
        (["--streaming", "--max_steps", "9"], ("no",), ("steps", 0.1), False),
    ],
)
def test_evaluating_and_saving_follow_each_other(flags, evaluation, saving, best):
    training = parse("bert", "a.txt", "--output_dir", "out", *flags).training
    assert (training.eval_strategy.value, training.eval_steps)[: len(evaluation)] == evaluation
    assert (training.save_strategy.value, training.save_steps)[: len(saving)] == saving
    assert training.load_best_model_at_end is best


def test_the_table_in_the_docs_is_that_of_the_code():
    page = (ROOT / "docs/adapt.md").read_text(encoding="utf-8").split("## The short form")[1].split("\n## ")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", page, re.MULTILINE))
    assert documented == {name: describe({name: value}).split()[1] for name, value in DEFAULTS.items()}


@pytest.mark.parametrize(
    "model, text, name",
    [
        ("bert-base-chinese", "data/reviews.jsonl.gz", "bert-base-chinese-reviews"),
        ("FacebookAI/roberta_base/", "data/*.txt", "roberta-base-data"),
        ("../my model (1)", "corpus/", "my-model-1-corpus"),
        ("bert", "wiki/**/*.txt", "bert-wiki"),
        ("bert", "../*.txt", "bert-x"),
        ("模型", "训练.txt", "模型-训练"),
        ("модель_2", "cafe\u0301.txt", "модель-2-caf\u00e9"),
        ("हिन्दी", "😀.txt", "हिन्दी-x"),
        ("模" * 300, "𠀀" * 300, f"{'模' * 40}-{'𠀀' * 22}"),
        ("a..b--c", "$(rm).txt", "a.b-c-rm"),
        ("x" * 300, "y" * 300, f"{'x' * 40}-{'y' * 30}"),
    ],
)
def test_a_directory_has_a_safe_name(tmp_path, monkeypatch, model, text, name):
    monkeypatch.chdir(tmp_path)
    at = datetime(2026, 11, 26, 9, 14)
    assert new_output_dir(model, text, lambda: at) == f"output/{name}-20261126-0914"
    assert new_output_dir(model, text, lambda: at) == f"output/{name}-20261126-0914-2"
    assert new_output_dir(model, text, lambda: at) == f"output/{name}-20261126-0914-3"


@pytest.mark.parametrize(
    "flags, name",
    [
        ([], "模型-train"),
        (["--push_to_hub"], "x-train"),
        (["--push_to_hub", "--hub_model_id", "me/model"], "模型-train"),
        (["--push-to-hub=true", "--push_to_hub_model_id", "model"], "模型-train"),
    ],
)
def test_a_directory_has_a_name_that_the_hub_takes_where_it_names_a_repository(here, capsys, flags, name):
    shutil.copytree("bert", "模型")
    Path("run.yaml").write_text("push_to_hub: true\n" if flags == ["--push_to_hub"] else "")
    for argv in [["run.yaml"], flags] if flags == ["--push_to_hub"] else [flags]:
        words = [*argv, "模型", "train.txt"] if argv == ["run.yaml"] else ["模型", "train.txt", *argv]
        chosen = choose_output_dir(parse_own_flags(words))
        assert re.fullmatch(rf"output/{name}-\d{{8}}-\d{{4}}", chosen)
        shutil.rmtree(chosen)


def test_no_directory_where_none_can_be(here, capsys):
    Path("output").write_text("a file")
    assert "--output_dir" in refusal(capsys, run_mlm.main, "bert", "train.txt", *TINY)


def test_it_trains_evaluates_and_can_be_repeated_from_its_record(here, capsys, caplog):
    flags = ["--use_cpu", "--max_steps", "2"]
    metrics = run_mlm_wwm.main(["bert", "train.txt", "dev.txt", *flags])
    printed = capsys.readouterr().err
    [directory] = made()
    assert re.fullmatch(r"bert-train-\d{8}-\d{4}", directory.name)
    assert metrics["train_samples"] == 30 and metrics["eval_samples"] == 10
    first = printed.splitlines()[0]
    assert first.startswith(f"output: {directory}; to resume: ") and first.endswith(f"--output_dir {directory}")
    assert "short form: learning_rate 5e-5, warmup_steps 0.06" in caplog.text
    record = json.loads((directory / "wordmask_run.json").read_text())["arguments"]
    assert record["output_dir"] == str(directory) and record["train_file"] == ["train.txt"]
    assert {name: record[name] for name in DEFAULTS if name != "num_train_epochs"} == {
        name: value for name, value in DEFAULTS.items() if name != "num_train_epochs"
    }
    run_mlm_wwm.main([str(directory / "wordmask_run.json")])
    assert "holds the end of this run" in caplog.text and made() == [directory]


@pytest.mark.parametrize("flag", ["--prepare_only", "--preview_masking"])
def test_no_directory_for_what_writes_no_model(here, flag):
    more = ["--prepared_dir", "tokens"] if flag == "--prepare_only" else ["1"]
    run_mlm_wwm.main(["bert", "train.txt", flag, *more, *TINY])
    assert made() == []


@pytest.mark.parametrize("text", ["train.txt.gz", "train.jsonl", "train.csv", "texts", "te*/**/*.txt"])
def test_all_formats_of_text(here, capsys, caplog, text):
    lines = Path("train.txt").read_text().splitlines()
    Path("train.txt.gz").write_bytes(gzip.compress(Path("train.txt").read_bytes()))
    Path("train.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    Path("train.csv").write_text("text\n" + "".join(f'"{line.replace(chr(34), "")}"\n' for line in lines))
    Path("texts/deep").mkdir()
    shutil.copy("train.txt", "texts/deep/one.txt")
    run_mlm.main(["bert", text, *TINY, "--preview_masking", "1"])
    assert "--train_file: 30 texts from" in caplog.text


def test_one_text_is_trained_on_without_an_evaluation(here):
    Path("one.txt").write_text("all that there is\n")
    metrics = run_mlm.main(["bert", "one.txt", *TINY, "--max_steps", "1", "--save_strategy", "no"])
    assert "train_loss" in metrics and "eval_loss" not in metrics


def interrupt_at(monkeypatch, step: int) -> None:
    """Press Ctrl-C in the middle of a step."""
    training_step = MlmTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(MlmTrainer, "training_step", interrupted)


def test_the_command_after_ctrl_c_resumes_the_run(here, capsys, caplog):
    argv = ["bert", "train.txt", "dev.txt", *TINY, "--max_steps", "4", "--save_steps", "1", "--overwrite_output_dir"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(SystemExit) as status:
            run_mlm_wwm.main(argv)
    assert status.value.code == 130
    printed = capsys.readouterr().err
    command = re.search(r"^interrupted; to resume from the last checkpoint: (.*)$", printed, re.MULTILINE)[1]
    assert command in printed.splitlines()[0] and "Traceback" not in printed
    python, script, *resumed = shlex.split(command)
    assert (python, script) == ("python", "run_mlm_wwm.py") and "--overwrite_output_dir" not in resumed
    run_mlm_wwm.main(resumed)
    [directory] = made()
    assert f"going on from {directory}/checkpoint-2" in caplog.text
    assert json.loads((directory / "trainer_state.json").read_text())["global_step"] == 4


def test_ctrl_c_before_the_first_checkpoint_and_in_the_long_form(here, capsys, monkeypatch):
    interrupt_at(monkeypatch, 0)
    for argv in (["bert", "train.txt"], ["--model_name_or_path", "bert", "--train_file", "train.txt"]):
        with pytest.raises(SystemExit) as status:
            run_mlm.main([*argv, *TINY, "--token", "hf_secret"])
        assert status.value.code == 130
        [sentence] = re.findall("^interrupted.*", capsys.readouterr().err, re.MULTILINE)
        assert sentence.startswith("interrupted; to start again: python run_mlm.py") and "hf_secret" not in sentence
        assert "--token TOKEN" in sentence and ("--output_dir" in sentence) == (argv[0] == "bert")


def test_a_run_that_has_not_begun_to_overwrite_is_started_again_with_that_flag(here, capsys, monkeypatch):
    """Without it, the command would continue the older run."""
    argv = ["bert", "train.txt", *TINY, "--output_dir", "out", "--max_steps", "1"]
    run_mlm.main([*argv, "--save_steps", "1"])

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("wordmask.training.run.load_run_texts", interrupted)
    with pytest.raises(SystemExit):
        run_mlm.main([*argv, "--overwrite_output_dir"])
    [sentence] = re.findall("^interrupted.*", capsys.readouterr().err, re.MULTILINE)
    assert sentence.startswith("interrupted; to start again: ") and "--overwrite_output_dir" in sentence


def test_a_run_that_has_overwritten_is_resumed_whatever_time_a_file_server_has(here, capsys, monkeypatch):
    """Files had times before the start, so the command overwrote the new checkpoints."""
    argv = ["bert", "train.txt", *TINY, "--output_dir", "out"]
    run_mlm.main([*argv, "--max_steps", "1", "--save_steps", "1"])
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    run_until(2, [*argv, "--max_steps", "4", "--overwrite_output_dir"])
    [sentence] = re.findall("^interrupted.*", capsys.readouterr().err, re.MULTILINE)
    assert sentence.startswith("interrupted; to resume from the last checkpoint: ")
    assert "--overwrite_output_dir" not in sentence


@pytest.mark.parametrize("name", (*TRAINER_LISTS, "report_to"))
def test_a_flag_of_several_values_takes_words(here, name):
    values = {"report_to": ["none", "none"], "include_for_metrics": ["inputs", "loss"]}.get(name, ["a", "b"])
    argv = ["bert", "--train_file", "train.txt", "dev.txt", "--learning_rate", "-1", f"--{name}", *values]
    assert parse_own_flags(argv).train_file == ["train.txt", "dev.txt"]


def test_all_flags_of_several_values_are_known_before_torch_is_imported():
    parser = training_parser([RunArguments])
    assert {name for name, action in parser.flags.items() if action.nargs == "+"} == {*TRAINER_LISTS, "report_to"}


def test_a_stray_word_is_found_before_torch_is_imported(here):
    program = "import sys, run_mlm\ntry: run_mlm.main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    argv = [sys.executable, "-c", program, "bert", "--max_steps", "2", "train.txt"]
    ended = subprocess.run(argv, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "False\n")
    assert ended.stderr == (
        "error: train.txt is no value of the flag before it, which takes no more; write MODEL train.txt [dev.txt] "
        "before all flags\n"
    )


@pytest.mark.slow
def test_a_model_that_is_nowhere_is_refused_quickly_before_torch_and_the_command_to_resume(here):
    program = "import sys, run_mlm\ntry: run_mlm.main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(here)}
    for words, start in (
        (["nomodel", "train.txt"], "nomodel"),
        (["--model_name_or_path", "nomodel", "--train_file", "train.txt"], "--model_name_or_path: nomodel"),
    ):
        argv = [sys.executable, "-c", program, *words]
        ended = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=HANGS)
        assert (ended.returncode, ended.stdout) == (2, "False\n")
        assert ended.stderr.splitlines()[-1] == (
            f"error: {start} is neither a directory nor in the cache, and http://127.0.0.1:9 cannot be reached; give "
            "a directory"
        )
        assert "to resume" not in ended.stderr and not Path("output").exists()


@pytest.mark.parametrize("in_file", [False, True])
def test_an_evaluation_neither_says_how_to_resume_nor_lists_defaults_of_training(here, capsys, caplog, in_file):
    Path("run.yaml").write_text("do_eval: true\n")
    argv = ["run.yaml"] * in_file + ["bert", "train.txt", "dev.txt", *TINY] + ["--do_eval"] * (not in_file)
    metrics = run_mlm_wwm.main(argv)
    printed = capsys.readouterr().err + caplog.text
    assert "eval_loss" in metrics and "train_loss" not in metrics
    assert "to resume" not in printed and "short form" not in printed and f"output: {made()[0]}" in printed


@pytest.mark.parametrize(
    "argv, file, mode",
    [
        (["--log_format", "plain", "--output_dir", "x"], "", "plain"),
        (["--log_format=rich"], "", "rich"),
        (["--log-format", "plain"], "", "plain"),
        (["text.txt", "--seed", "1"], "log_format: plain\n", None),  # a text, which is not read
        (["--log_format", "fancy"], "", None),
        (["FILE", "--seed", "1"], "seed: 2\nlog_format: plain\n", "plain"),
        (["FILE"], '{"seed": 2, "log_format": "rich"}', "rich"),
        (["FILE", "--log_format", "rich"], "log_format: plain\n", "rich"),
        (["missing.yaml"], "", None),
        ([], "", None),
    ],
)
def test_the_format_is_known_before_anything_is_parsed(argv, file, mode, tmp_path):
    paths = {"FILE": tmp_path / "arguments.yaml", "text.txt": tmp_path / "text.txt"}
    for path in paths.values():
        path.write_text(file, encoding="utf-8")
    assert asked_format([str(paths.get(word, word)) for word in argv]) == mode
