"""The command line: argument files, switches, and ten years of old flags."""

from __future__ import annotations

import dataclasses
import json
import logging
import os

import pytest
from transformers import TrainingArguments

from wordmask.config.arguments import parse_arguments
from wordmask.config.legacy_flags import OLD_FLAGS
from wordmask.masking import Mix, Strategy
from wordmask.utils.errors import InputError

NEEDED = {"model_name_or_path": "some/model", "train_file": "some.txt", "output_dir": "out", "use_cpu": "true"}

# The flags of the example of transformers of the same name, which people have in their scripts.
EXAMPLE_FLAGS = [
    "model_name_or_path",
    "model_type",
    "config_overrides",
    "config_name",
    "tokenizer_name",
    "cache_dir",
    "use_fast_tokenizer",
    "model_revision",
    "token",
    "trust_remote_code",
    "dtype",
    "dataset_name",
    "dataset_config_name",
    "train_file",
    "validation_file",
    "overwrite_cache",
    "validation_split_percentage",
    "max_seq_length",
    "preprocessing_num_workers",
    "mlm_probability",
    "line_by_line",
    "pad_to_max_length",
    "max_train_samples",
    "max_eval_samples",
    "streaming",
]

# What `TrainingArguments` of transformers 3 and 4, and the examples of these days, took and take no more.
REMOVED = [
    "overwrite_output_dir",
    "evaluation_strategy",
    "evaluate_during_training",
    "warmup_ratio",
    "no_cuda",
    "group_by_length",
    "use_auth_token",
    "logging_dir",
    "per_gpu_train_batch_size",
    "per_gpu_eval_batch_size",
    "save_safetensors",
    "use_mps_device",
    "jit_mode_eval",
    "use_ipex",
    "fp16_opt_level",
    "half_precision_backend",
    "fp16_backend",
    "tpu_num_cores",
    "tpu_metrics_debug",
    "past_index",
    "fsdp_min_num_params",
    "fsdp_transformer_layer_cls_to_wrap",
    "adafactor",
    "use_legacy_prediction_loop",
    "include_inputs_for_metrics",
    "push_to_hub_model_id",
    "push_to_hub_organization",
    "push_to_hub_token",
    "mp_parameters",
    "torchdynamo",
    "ray_scope",
    "dispatch_batches",
    "split_batches",
    "include_tokens_per_second",
    "sharded_ddp",
    "xpu_backend",
    "train_data_file",
    "eval_data_file",
    "block_size",
    "mlm",
    "eval_ref_file",
    "torch_dtype",
    "low_cpu_mem_usage",
]


def parse(*argv: str, **values: str):
    """The arguments of a command line that has what every run needs."""
    return parse_arguments([*argv, *(f"--{name}={value}" for name, value in {**NEEDED, **values}.items())])


def parse_file(path, content, *argv: str):
    """The arguments of a command line that begins with an argument file of this content."""
    if not isinstance(content, str):
        content = json.dumps({**NEEDED, **content})
    path.write_text(content, encoding="utf-8")
    return parse_arguments([str(path), *argv])


@pytest.mark.parametrize(
    "name, content",
    [
        ("run.yaml", "learning_rate: 1e-4\nmax_steps: 5\nlearning_rate: 1e-5\n"),
        ("run.json", '{"learning_rate": 1e-4, "learning_rate": 1e-5}'),
    ],
)
def test_a_name_that_comes_twice_in_an_argument_file_is_refused(tmp_path, name, content):
    """YAML and JSON take the last one, and the first one would be lost without a word."""
    with pytest.raises(InputError, match="cannot be read: learning_rate is in it twice; keep one of them"):
        parse_file(tmp_path / name, content)


def old_flag_warnings(caplog, *argv: str) -> list[str]:
    """What is said about old flags on this command line."""
    caplog.clear()
    parse(*argv)
    return [record.getMessage() for record in caplog.records if record.name.startswith("wordmask")]


def test_no_flag_of_the_example_or_of_training_arguments_is_missing():
    names = [*EXAMPLE_FLAGS, *(field.name for field in dataclasses.fields(TrainingArguments) if field.init)]
    assert len(names) > 100
    concerns = [concern for concern in vars(parse()).values() if dataclasses.is_dataclass(concern)]
    known = {field.name for concern in concerns for field in dataclasses.fields(concern)}
    assert [name for name in names if name not in known] == []


@pytest.mark.parametrize(
    "written, value",
    [
        (["--line_by_line"], True),
        (["--line_by_line", "true"], True),
        (["--line_by_line=False"], False),
        (["--line_by_line", "false"], False),
        (["--no_line_by_line"], False),
        (["--no_line_by_line", "--line_by_line"], True),
    ],
)
def test_a_switch_is_never_true_for_the_word_false(written, value):
    assert parse(*written).data.line_by_line is value


@pytest.mark.parametrize(
    "text, expected",
    [
        ("no_line_by_line: true\nno_sparse_prediction: true", (False, False)),
        ("no_line_by_line: false\nno_sparse_prediction: false", (True, True)),
        ("line_by_line: true\nno_sparse_prediction: null", (True, True)),
    ],
)
def test_a_switch_is_turned_off_in_an_argument_file_too(tmp_path, text, expected):
    (tmp_path / "run.yaml").write_text(text)
    found = parse(str(tmp_path / "run.yaml"))
    assert (found.data.line_by_line, found.model.sparse_prediction) == expected


@pytest.mark.parametrize("switch", ["tf32", "use_fast_tokenizer", "dataloader_pin_memory", "logging_first_step"])
def test_every_switch_turns_off_whatever_its_default(switch):
    assert parse(f"--{switch}", "false").given[switch] is False
    assert parse(f"--no_{switch}").given[switch] is False


def test_a_wrong_word_for_a_switch_is_refused():
    with pytest.raises(InputError, match="--line_by_line.*maybe"):
        parse("--line_by_line", "maybe")


@pytest.mark.parametrize("name", ["run.yaml", "run.yml", "run.json"])
def test_a_file_says_the_same_as_the_command_line(tmp_path, name):
    content = {"learning_rate": "1e-4", "line_by_line": True, "train_file": ["a.txt", "b.txt"], "max_steps": 3}
    from_file = parse_file(tmp_path / name, content)
    from_line = parse("--line_by_line", "--train_file", "a.txt", "b.txt", learning_rate="1e-4", max_steps="3")
    from_line.given["train_file"] = from_line.data.train_file = ["a.txt", "b.txt"]
    assert from_file.training.learning_rate == 1e-4
    assert from_file.data.train_file == ["a.txt", "b.txt"]
    assert from_file.given == from_line.given


def test_a_number_that_yaml_takes_for_a_word_is_a_number(tmp_path):
    needed = "".join(f"{name}: {value}\n" for name, value in NEEDED.items())
    assert parse_file(tmp_path / "run.yaml", needed + "learning_rate: 1e-4\n").training.learning_rate == 1e-4


@pytest.mark.parametrize(
    "name, written",
    [("output_dir", "2026_11_29"), ("output_dir", "1.10"), ("output_dir", "0012"), ("run_name", "12:30:00")]
    + [
        ("run_name", "2026-11-29"),
        ("run_name", "2026-13-45"),
        ("model_revision", "1.10"),
        ("length_schedule", "64:1"),
    ],
)
def test_a_name_that_yaml_takes_for_a_number_is_as_it_is_written(name, written, tmp_path):
    """A run could have gone on in the directory of version 1.1."""
    values = {**NEEDED, name: written}
    found = parse_file(tmp_path / "run.yaml", "".join(f"{name}: {value}\n" for name, value in values.items()))
    assert found.given[name] == written


def test_numbers_of_yaml_are_those_of_a_command_line(tmp_path):
    needed = "".join(f"{name}: {value}\n" for name, value in NEEDED.items())
    settings = "lr_scheduler_type: cosine_with_restarts\nlr_scheduler_kwargs: {num_cycles: 2}\n"
    numbers = "seed: 010\nmax_grad_norm: 2.50\nmax_steps: 1_000\n"
    found = parse_file(tmp_path / "run.yaml", needed + settings + numbers)
    assert (found.training.seed, found.training.max_grad_norm, found.training.max_steps) == (10, 2.5, 1000)
    assert found.training.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize("written", ["1e-6", "1E-6", "1.e-6", "1.0e-6", "+1e-6", ".1e-5", "0.000001"])
def test_a_number_with_an_exponent_is_one_in_a_mapping_too(tmp_path, written):
    """YAML 1.1 makes text of 1e-6, and the schedule divided by it."""
    needed = "".join(f"{name}: {value}\n" for name, value in NEEDED.items())
    settings = f"lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {{min_lr: {written}}}\n"
    found = parse_file(tmp_path / "run.yaml", f"{needed}learning_rate: {written}\n{settings}")
    assert found.training.lr_scheduler_kwargs == {"min_lr": 1e-6} and found.training.learning_rate == 1e-6


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({**NEEDED, "seed": 5}), encoding="utf-8-sig")
    assert parse_arguments([str(tmp_path / "run.json")]).training.seed == 5


def test_a_flag_beside_the_arguments_of_a_record_is_refused(tmp_path):
    """It was not read, without a word."""
    (tmp_path / "run.json").write_text(json.dumps({"seed": 7, "script": "run_mlm.py", "arguments": NEEDED}))
    with pytest.raises(InputError, match="run.json: seed is not read beside arguments; move it in there"):
        parse_arguments([str(tmp_path / "run.json")])


@pytest.mark.parametrize("value", ["yes", "no", "true", "false"])
def test_a_boolean_of_a_file_is_a_boolean(tmp_path, value):
    needed = "".join(f"{name}: {value}\n" for name, value in NEEDED.items())
    arguments = parse_file(tmp_path / "run.yaml", needed + f"line_by_line: {value}\n")
    assert arguments.data.line_by_line is (value in ("yes", "true"))


def test_the_command_line_wins_over_the_file(tmp_path):
    content = {"learning_rate": 1e-3, "line_by_line": True, "seed": 7, "train_file": ["a.txt", "b.txt"]}
    line = ["--learning_rate", "1e-4", "--no_line_by_line", "--train_file", "c.txt"]
    arguments = parse_file(tmp_path / "run.yaml", content, *line)
    assert arguments.training.learning_rate == 1e-4
    assert arguments.data.line_by_line is False
    assert arguments.data.train_file == ["c.txt"]
    assert arguments.training.seed == 7


def test_the_defaults_of_a_script_give_way_to_file_and_line(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**NEEDED, "line_by_line": False}), encoding="utf-8")
    assert parse_arguments([str(path)], line_by_line=True).data.line_by_line is False
    assert parse_arguments([str(path), "--line_by_line"], line_by_line=False).data.line_by_line is True


def test_nothing_given_for_a_flag_leaves_its_default(tmp_path):
    arguments = parse_file(tmp_path / "run.json", {"max_seq_length": None, "run_name": None})
    assert arguments.data.max_seq_length is None


def test_settings_of_settings_come_through_a_file(tmp_path):
    content = {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}}
    assert parse_file(tmp_path / "run.json", content).training.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize(
    "content, words",
    [
        ({"learning_rate": "fast"}, ["--learning_rate", "fast"]),
        ({"max_steps": 1.5}, ["--max_steps", "1.5"]),
        ({"long_lines": "drop"}, ["--long_lines", "drop", "truncate", "split"]),
        ({"masking_strategy": "words"}, ["--masking_strategy", "words", "whole_word"]),
        ({"save_strategy": "sometimes"}, ["--save_strategy", "sometimes", "epoch"]),
        ({"line_by_line": "perhaps"}, ["--line_by_line", "perhaps"]),
        ({"learning_rat": 1e-4}, ["learning_rat", "did you mean learning_rate?"]),
        ({"learning-rate": 1e-4}, ["learning-rate", "did you mean learning_rate?"]),
        ({"evaluation_strateg": "epoch"}, ["evaluation_strateg", "did you mean"]),
        ("just words", ["run.yaml", "learning_rate: 1e-4"]),
        ("- a\n- b\n", ["run.yaml", "learning_rate: 1e-4"]),
        ("", ["run.yaml", "learning_rate: 1e-4"]),
        ("a: [1\nb: }", ["run.yaml", "YAML"]),
        ("1: 2", ["run.yaml"]),
    ],
)
def test_a_wrong_argument_file_is_refused_in_one_line(tmp_path, content, words):
    with pytest.raises(InputError) as refused:
        parse_file(tmp_path / "run.yaml", content)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert [word for word in words if word not in sentence] == [], sentence


def test_a_json_file_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(InputError, match="run.json"):
        parse_file(tmp_path / "run.json", "{'a': 1}")


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--learning_rat", "1"], ["--learning_rat", "did you mean --learning_rate?"]),
        (["--learning_rat=1"], ["--learning_rat", "did you mean --learning_rate?"]),
        (["--max_seq", "8"], ["--max_seq", "did you mean"]),  # an abbreviation could change its meaning any day
        (["--max_steps", "many"], ["--max_steps", "many"]),
        (["--learning_rate"], ["--learning_rate"]),
        (["lonely.txt"], ["lonely.txt"]),
        (["--dtype", "float8"], ["--dtype", "float8", "float32"]),
        (["--optim", "magic"], ["--optim", "magic"]),
        (["--lr_scheduler_type", "magic"], ["--lr_scheduler_type", "magic"]),
        (["--load_best_model_at_end", "--eval_strategy", "no"], ["--load_best_model_at_end"]),
        (["--lr_scheduler_kwargs", "{num_cycles: }"], ["--lr_scheduler_kwargs"]),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(argv, words):
    with pytest.raises(InputError) as refused:
        parse(*argv)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert [word for word in words if word not in sentence] == [], sentence


def test_a_positional_that_is_no_argument_file_is_not_taken_for_one(tmp_path):
    with pytest.raises(InputError, match="missing.yaml"):
        parse_arguments([str(tmp_path / "missing.yaml"), *(f"--{name}={value}" for name, value in NEEDED.items())])


@pytest.mark.parametrize(
    "old, name, value, new",
    [
        (["--evaluation_strategy", "epoch"], "eval_strategy", "epoch", "--eval_strategy"),
        (["--evaluation_strategy=epoch"], "eval_strategy", "epoch", "--eval_strategy"),
        (["--evaluation-strategy", "epoch"], "eval_strategy", "epoch", "--eval_strategy"),
        (["--warmup_ratio", "0.1"], "warmup_steps", 0.1, "--warmup_steps"),
        (["--no_cuda"], "use_cpu", True, "--use_cpu"),
        (["--no_cuda", "true"], "use_cpu", True, "--use_cpu"),
        (["--group_by_length"], "train_sampling_strategy", "group_by_length", "--train_sampling_strategy"),
        (["--group_by_length", "False"], "train_sampling_strategy", "random", "--train_sampling_strategy"),
        (["--per_gpu_train_batch_size", "4"], "per_device_train_batch_size", 4, "--per_device_train_batch_size"),
        (["--per_gpu_eval_batch_size", "4"], "per_device_eval_batch_size", 4, "--per_device_eval_batch_size"),
        (["--use_auth_token", "secret"], "token", "secret", "--token"),
        (["--use_auth_token"], "token", None, "not needed after hf auth login"),
        (["--resume", "out/checkpoint-9"], "resume_from_checkpoint", "out/checkpoint-9", "--resume_from_checkpoint"),
        (["--resume"], "resume_from_checkpoint", None, "not needed for the last checkpoint"),
        (["--use_auth_token", "True"], "token", None, "not needed after hf auth login"),
        (["--adafactor"], "optim", "adafactor", "--optim"),
        (["--evaluate_during_training"], "eval_strategy", "steps", "--eval_strategy"),
        (["--torch_dtype", "bfloat16"], "dtype", "bfloat16", "--dtype"),
        (["--block_size", "64"], "max_seq_length", 64, "--max_seq_length"),
        (["--eval_data_file", "v.txt"], "validation_file", ["v.txt"], "--validation_file"),
        (["--push_to_hub_model_id", "a/b"], "hub_model_id", "a/b", "--hub_model_id"),
        (["--max_train_steps", "7"], "max_steps", 7, "--max_steps"),
        (["--num_warmup_steps", "7"], "warmup_steps", 7, "--warmup_steps"),
        (["--checkpointing_steps", "7"], "save_steps", 7, "--save_steps"),
        (["--checkpointing_steps", "epoch"], "save_strategy", "epoch", "--save_strategy"),
        (["--use_slow_tokenizer"], "use_fast_tokenizer", False, "--no_use_fast_tokenizer"),
    ],
)
def test_an_old_flag_works_with_one_warning_that_names_the_new_one(caplog, old, name, value, new):
    warnings = old_flag_warnings(caplog, *old)
    arguments = parse(*old)
    concerns = (arguments.model, arguments.data, arguments.masking, arguments.training)
    found = next(getattr(concern, name) for concern in concerns if hasattr(concern, name))
    assert found == value
    assert len(warnings) == 1
    assert old[0].split("=")[0].replace("-", "_").lstrip("_") in warnings[0].replace("-", "_")
    assert new in warnings[0]


@pytest.mark.parametrize(
    "argv, name, value",
    [
        (["--warmup_steps", "2", "--warmup_ratio", "0.1"], "warmup_steps", 2),
        (["--warmup_ratio", "0.1", "--warmup_steps", "2"], "warmup_steps", 2),
        (["--evaluation_strategy", "epoch", "--eval_strategy=no"], "eval_strategy", "no"),
        (["--per_device_train_batch_size=3", "--per_gpu_train_batch_size=4"], "per_device_train_batch_size", 3),
        (["--train_data_file", "a.txt", "b.txt"], "train_file", ["a.txt", "b.txt"]),
    ],
)
def test_where_an_old_and_a_new_flag_meet_the_new_one_counts(caplog, argv, name, value):
    arguments = parse_arguments(["--model_type", "bert", "--use_cpu", "--validation_file", "v.txt", *argv])
    assert getattr(arguments.training, name, None) == value or getattr(arguments.data, name) == value
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("wordmask")]
    old = "train_data_file" if name == "train_file" else None
    assert len(messages) == 1 and ("has no effect, since --" + name in messages[0]) == (old is None)


def test_an_old_flag_on_the_command_line_wins_over_a_new_one_in_the_file(tmp_path):
    assert parse_file(tmp_path / "a.json", {"warmup_steps": 2}, "--warmup_ratio", "0.1").training.warmup_steps == 0.1
    assert parse_file(tmp_path / "a.json", {"warmup_ratio": 0.1}, "--warmup_steps", "2").training.warmup_steps == 2


@pytest.mark.parametrize(
    "argv, name, value",
    [
        (["--group_by_length", "False"], "train_sampling_strategy", "random"),
        (["--group_by_length=false"], "train_sampling_strategy", "random"),
        (["--no_group_by_length"], "train_sampling_strategy", "random"),
        (["--whole_word_mask", "False"], "masking_strategy", "token"),
        (["--evaluate_during_training", "False"], "eval_strategy", "no"),
        (["--no_cuda", "False"], "use_cpu", False),
    ],
)
def test_an_old_switch_that_is_off_turns_off_what_the_script_turns_on(argv, name, value):
    defaults = {"masking_strategy": "whole_word", "line_by_line": True, "eval_strategy": "epoch", "use_cpu": True}
    arguments = parse_arguments(["--model_type", "bert", "--train_file", "a.txt", *argv], **defaults)
    assert value in (getattr(arguments.training, name, None), getattr(arguments.masking, name, None))


def test_what_an_old_value_became_is_what_the_warning_says(caplog):
    said = {
        "--adafactor=false": "--adafactor false has no effect",
        "--adafactor=0": "--adafactor 0 has no effect",
        "--warmup_ratio=0.0": "--warmup_ratio 0.0 has no effect",
        "--group_by_length=no": "--group_by_length no is now --train_sampling_strategy random",
        "--group_by_length=false": "--group_by_length false is now --train_sampling_strategy random",
        "--group_by_length": "--group_by_length is now --train_sampling_strategy group_by_length, or random for false",
        "--low_cpu_mem_usage": "--low_cpu_mem_usage is not needed: models always load that way",
        "--use_auth_token": "--use_auth_token is not needed after hf auth login",
        "--use_auth_token=secret": "--use_auth_token is now --token, not needed after hf auth login",
    }
    for flag, sentence in said.items():
        caplog.clear()
        assert old_flag_warnings(caplog, flag) == [sentence]


def test_old_flags_whose_values_asked_for_nothing_are_passed_over(tmp_path, caplog):
    """As a dump of old TrainingArguments has them."""
    unset = {"past_index": -1, "ray_scope": "last", "half_precision_backend": "auto", "fp16_backend": "auto"}
    unset |= {"n_gpu": 0, "fp16_opt_level": "O1", "fsdp_min_num_params": 0.0, "sharded_ddp": "", "mp_parameters": ""}
    switches = ("use_ipex", "jit_mode_eval", "use_legacy_prediction_loop", "include_tokens_per_second")
    unset |= dict.fromkeys((*switches, "include_inputs_for_metrics", "split_batches"), False)
    unset |= dict.fromkeys(("dispatch_batches", "xpu_backend", "tpu_num_cores", "torchdynamo"))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        parse_file(tmp_path / "a.json", unset)
    assert [record for record in caplog.records if record.name.startswith("wordmask")] == []


@pytest.mark.parametrize("argv", [["--save_safetensors", "False"], ["--no_save_safetensors"], ["--mlm=false"]])
def test_what_cannot_be_off_is_refused_in_one_sentence(caplog, argv):
    with pytest.raises(InputError, match="false is gone: .* always .*; drop the flag"):
        parse(*argv)
    assert [record for record in caplog.records if record.name.startswith("wordmask")] == []


def test_the_place_of_logs_is_still_chosen(caplog, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "unset")
    warnings = old_flag_warnings(caplog, "--logging_dir", "elsewhere")
    assert len(warnings) == 1 and "TENSORBOARD_LOGGING_DIR" in warnings[0]
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "elsewhere"


def test_an_old_flag_in_a_file_is_translated_too(tmp_path, caplog):
    arguments = parse_file(tmp_path / "run.yaml", {"evaluation_strategy": "epoch", "no_cuda": True})
    assert arguments.training.eval_strategy == "epoch"
    assert {"--evaluation_strategy is now --eval_strategy"} <= {record.getMessage() for record in caplog.records}


def test_a_flag_of_today_gives_no_warning(caplog):
    assert old_flag_warnings(caplog, "--eval_strategy", "epoch", "--warmup_steps", "2") == []


@pytest.mark.parametrize("name", REMOVED)
def test_no_removed_flag_is_unknown(name, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "unset")
    example = {"evaluation_strategy": "no", "warmup_ratio": "0.1", "torch_dtype": "auto"}.get(name, "1")
    try:
        parse(f"--{name}={example}", validation_file="valid.txt", masking_strategy="whole_word")
    except InputError as refused:
        assert str(refused).startswith(f"--{name}") and "gone" in str(refused)
        assert len(str(refused)) > len(f"--{name} is gone: ") + 10
        assert "is not a flag" not in str(refused)


def test_an_old_flag_is_not_translated_into_one_that_does_not_exist():
    concerns = [concern for concern in vars(parse()).values() if dataclasses.is_dataclass(concern)]
    known = {field.name for concern in concerns for field in dataclasses.fields(concern)}
    named = [new for new in OLD_FLAGS.values() if isinstance(new, str)]
    assert named and [new for new in named if new not in known] == []


def test_the_first_rate_of_a_schedule_is_not_lost():
    assert parse(mlm_probability="0.30:0.15").masking.rates.phases == ((1.0, 0.30, 0.15, False),)
    assert parse(mlm_probability="0.2").masking.rates.phases == ((1.0, 0.2, 0.2, False),)


def test_a_model_type_beside_a_model_is_passed_over_with_a_warning(caplog):
    arguments = parse_arguments([*(f"--{name}={value}" for name, value in NEEDED.items()), "--model_type", "roberta"])
    assert arguments.model.model_type is None and "--model_type roberta" in caplog.text


def test_yaml_truth_values_stand_for_the_words_they_were(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("eval_strategy: no\nfp16: no\n" + "".join(f"{name}: {value}\n" for name, value in NEEDED.items()))
    arguments = parse_arguments([str(path)])
    assert arguments.training.eval_strategy == "no" and arguments.training.fp16 is False


def test_a_mix_of_strategies_is_read_and_needs_words_if_one_of_them_does():
    mixed = parse(masking_strategy="whole_word:0.8,token:0.2")
    assert mixed.masking.strategy == Mix({Strategy.WHOLE_WORD: 0.8, Strategy.TOKEN: 0.2})
    assert (
        mixed.needed_segmentation is mixed.segmentation
        and mixed.given["masking_strategy"] == "whole_word:0.8,token:0.2"
    )
    assert parse(masking_strategy="token:1").needed_segmentation is None
    assert parse(masking_strategy="span").masking.strategy is Strategy.SPAN
