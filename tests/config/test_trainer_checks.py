"""What would fail after the text is tokenized is refused at the start, in one sentence that names the flag."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames, TrainingArguments

import run_mlm
from conftest import refusal
from wordmask.config import flag_checks, optimizer_checks, trainer_checks
from wordmask.config.arguments import parse_arguments
from wordmask.config.metric_table import METRICS
from wordmask.config.number_checks import RANGES
from wordmask.config.run_arguments import RunArguments
from wordmask.config.schedule_checks import SCHEDULES
from wordmask.config.tracker_checks import USUAL
from wordmask.utils.errors import InputError

NEEDED = ["--model_name_or_path", "bert", "--train_file", "text.txt", "--use_cpu"]


def parse(*argv: str):
    return parse_arguments([*NEEDED, *argv]).training


def refused(*argv: str) -> str:
    """The sentence with which a command line is refused."""
    with pytest.raises(InputError) as error:
        parse(*argv)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("schedule", [schedule.value for schedule in SchedulerType])
def test_each_schedule_is_made_or_its_setting_is_named(schedule):
    """All that transformers has, with a schedule that it will add tomorrow."""
    argv = ["--lr_scheduler_type", schedule]
    if schedule in ("greedy", "reduce_lr_on_plateau"):
        assert refused(*argv).endswith("there are none; give --eval_strategy, for example epoch")
        argv += ["--eval_strategy", "epoch"]
    if schedule in ("warmup_stable_decay", "cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        sentence = refused(*argv)
        assert sentence.startswith(f"--lr_scheduler_type {schedule} lacks a setting")
        example = sentence.split("--lr_scheduler_kwargs '")[1].rstrip("'")
        assert json.loads(example) == SCHEDULES[schedule]
    else:
        assert parse(*argv).lr_scheduler_type == schedule
    if schedule in SCHEDULES:
        assert parse(*argv, "--lr_scheduler_kwargs", json.dumps(SCHEDULES[schedule]))
    wrong = refused(*argv, "--lr_scheduler_kwargs", '{"no_such_setting": 1}')
    assert wrong.startswith("--lr_scheduler_kwargs: ") and "no_such_setting" in wrong and schedule in wrong
    assert "()" not in wrong  # no names of functions


@pytest.mark.parametrize(
    "metric, greater",
    [("perplexity", False), ("eval_loss", False), ("accuracy", True), ("eval_perplexity", False), ("probe_f1", True)],
)
def test_the_best_model_is_not_the_worst_one(metric, greater):
    """transformers takes the highest value of every metric whose name does not end in `loss`."""
    argv = ("--probe_file", "labelled.csv", "--metric_for_best_model", metric)
    assert parse(*argv).greater_is_better is greater
    assert parse(*argv, "--greater_is_better", "true").greater_is_better is True


def test_the_usual_optimizers_and_trackers_are_known():
    assert {*optimizer_checks.USUAL_OPTIMIZERS} <= {optimizer_checks.MUON, *(name.value for name in OptimizerNames)}
    assert {*USUAL} <= {"none", *INTEGRATION_TO_CALLBACK}


def test_a_setting_of_the_wrong_kind():
    sentence = refused("--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", '{"min_lr_rate": "low"}')
    assert sentence.startswith("--lr_scheduler_kwargs") and '{"min_lr_rate": 0.1}' in sentence


@pytest.mark.parametrize("optimizer", [optimizer.value for optimizer in OptimizerNames])
def test_each_optimizer_is_made_or_its_package_is_named(optimizer):
    try:
        training = parse("--optim", optimizer)
    except InputError as error:
        assert str(error).startswith(f"--optim {optimizer}: its package is missing (") and "\n" not in str(error)
        with pytest.raises((ImportError, ValueError)):
            Trainer.get_optimizer_cls_and_kwargs(parse("--optim", "sgd").__class__(optim=optimizer, use_cpu=True))
    else:
        assert Trainer.get_optimizer_cls_and_kwargs(training)


def test_a_share_of_steps_is_not_taken_as_a_number_of_steps():
    """The first step would have a learning rate of 1 / 0.06 times the highest."""
    assert refused("--optim", "schedule_free_adamw", "--warmup_steps", "0.06") == (
        "--warmup_steps 0.06: schedule_free_adamw warms up by itself, and knows no share of the steps; give a whole "
        "number of them"
    )


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--report_to", "wandb,tensorboard"], ["--report_to", "one word", "by spaces: wandb tensorboard"]),
        (["--report_to", "no_such"], ["--report_to: no_such is not known", "tensorboard, wandb"]),
        (["--optim", "nonsense"], ["--optim: nonsense is not known", "adamw_torch, adafactor, sgd"]),
        (["--torch_compile_backend", "zzz"], ["--torch_compile_backend: zzz is not known", "inductor"]),
        (["--attn_implementation", "zzz"], ["--attn_implementation: zzz is not known", "sdpa, eager"]),
        (
            ["--deepspeed", "no.json"],
            ["--deepspeed: no.json is neither a file", "such as configs/deepspeed_zero2.json"],
        ),
        (["--lr_scheduler_kwargs", "no"], ["--lr_scheduler_kwargs: no is neither a file", '{"num_cycles": 2}']),
        (["--lr_scheduler_type", "warmup_stable_decay"], ["lacks a setting (num_decay_steps must be given); give"]),
        (["--eval_on_start", "--validation_split_percentage", "0"], ["--eval_on_start needs validation text"]),
        (["--eval_strategy", "epoch", "--streaming"], ["--eval_strategy needs validation text"]),
        (["--do_eval", "--validation_split_percentage", "0"], ["--do_eval needs validation text"]),
        (["--load_best_model_at_end"], ["--load_best_model_at_end", "--eval_strategy, for example epoch"]),
        (["--save_strategy", "best", "--metric_for_best_model", "loss"], ["--save_strategy best", "--eval_strategy"]),
        (["--load_best_model_at_end", "--eval_strategy", "epoch"], ["--save_strategy epoch", "instead of steps"]),
        (["--metric_for_best_model", "acuracy"], ["--metric_for_best_model: acuracy", "did you mean accuracy?"]),
        (["--metric_for_best_model", "eval_accuracy", "--prediction_loss_only"], ["--prediction_loss_only"]),
        (["--torch_compile_backend", "inducto"], ["--torch_compile_backend: inducto", "did you mean inductor?"]),
        (["--torch_compile_mode", "fast"], ["--torch_compile_mode: fast", "reduce-overhead"]),
        (["--tf32"], ["--tf32", "--no_tf32"]),
    ],
)
def test_mistakes_name_their_flags(argv, words):
    sentence = refused(*argv)
    assert [word for word in words if word not in sentence] == [], sentence


def test_a_sentence_comes_before_the_text_is_read(capsys, english_model, tmp_path):
    """Through the script, with a text that is not there."""
    argv = ["--model_name_or_path", english_model, "--train_file", str(tmp_path / "missing.txt"), "--use_cpu"]
    sentence = refusal(capsys, run_mlm.main, *argv, "--lr_scheduler_type", "warmup_stable_decay")
    assert "--lr_scheduler_kwargs" in sentence and "missing.txt" not in sentence


def test_a_tracker_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trackio" else object())
    assert refused("--report_to", "tensorboard", "trackio").endswith("its package: pip install trackio")


@pytest.mark.parametrize(
    "flags, advice",
    [
        (["--bf16"], "--bf16: there is no GPU here; to train on the CPU, give --use_cpu"),
        (["--bf16", "--tf32"], "--bf16, --tf32: there is no GPU here; to train on the CPU, give --use_cpu --no_tf32"),
        (["--use_cpu", "--bf16", "--tf32"], "--tf32: there is no GPU here; to train on the CPU, give --no_tf32"),
    ],
)
@pytest.mark.skipif(torch.accelerator.is_available(), reason="a machine without a GPU")
def test_what_only_a_gpu_can_do(flags, advice):
    with pytest.raises(InputError) as error:
        parse_arguments([*NEEDED[:4], *flags])
    assert str(error.value) == advice


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a machine without a GPU")
def test_the_config_for_a_gpu_says_on_a_cpu_what_to_add():
    with pytest.raises(InputError) as error:
        parse_arguments(["configs/gpu.yaml"])
    assert str(error.value).endswith("give --use_cpu --no_tf32") and "assign" not in str(error.value)
    assert parse_arguments(["configs/gpu.yaml", "--use_cpu", "--no_tf32"]).training.bf16


def test_an_old_gpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(trainer_checks, "is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(InputError, match="newer GPU.*; give --no_bf16 --no_tf32$"):
        parse_arguments([*NEEDED[:4], "--bf16", "--tf32"])


def test_weights_in_bfloat16_on_an_old_gpu(monkeypatch):
    parse_arguments([*NEEDED, "--dtype", "bfloat16"])  # on a CPU they are no mistake
    monkeypatch.setattr(RunArguments, "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr("wordmask.config.flag_checks.lacks_bf16", lambda args: True)
    with pytest.raises(InputError, match="^--dtype bfloat16: this needs a newer GPU .*; give --dtype float32$"):
        parse_arguments([*NEEDED, "--dtype", "bfloat16"])


@pytest.mark.parametrize("major, refused", [(7, True), (8, False)])
def test_a_card_that_only_emulates_bfloat16(monkeypatch, major, refused):
    """Only the properties of the card are made up: PyTorch calls bfloat16 supported on such cards, too."""
    card = SimpleNamespace(major=major, minor=5, name="a card")
    for name, value in {"current_device": 0, "is_available": True, "get_device_properties": card}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, value=value: value)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(trainer_checks, "is_torch_bf16_gpu_available", torch.cuda.is_bf16_supported)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert torch.cuda.is_bf16_supported()
    arguments = SimpleNamespace(use_cpu=False, fp16=False, bf16=True, tf32=None)
    arguments.fp16_full_eval = arguments.bf16_full_eval = False
    if not refused:
        trainer_checks._check_precision(arguments)
        return
    with pytest.raises(InputError, match="^--bf16: this needs a newer GPU .*; give --no_bf16$"):
        trainer_checks._check_precision(arguments)


def test_graphs_without_a_compiler(monkeypatch):
    from torch._inductor import cpp_builder, exc

    def missing():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    assert "install g++" in refused("--torch_compile")
    assert parse("--torch_compile", "--torch_compile_backend", "eager").torch_compile
    assert "torch._inductor" in sys.modules


def test_what_asks_for_an_evaluation_gets_the_text_for_it():
    assert parse("--do_train", "--eval_on_start").do_eval
    assert parse("--do_train", "--eval_strategy", "epoch").do_eval
    assert not parse("--do_train").do_eval


def test_the_optimizer_is_one_that_the_device_has(monkeypatch):
    assert parse().optim == "adamw_torch_fused"
    for package in ("torch_xla", "torch_tpu"):
        monkeypatch.setattr(optimizer_checks, "tpu_package", lambda package=package: package)
        assert parse().optim == "adamw_torch"
        assert parse("--optim", "adafactor").optim == "adafactor"


def test_the_fused_optimizer_is_refused_where_it_would_crash(monkeypatch):
    monkeypatch.setattr(optimizer_checks, "tpu_package", lambda: "torch_xla")
    sentence = refused("--optim", "adamw_torch_fused")
    assert "--optim adamw_torch_fused" in sentence and "adamw_torch," in sentence


def test_processes_do_not_search_a_batch_size(monkeypatch):
    """If one ran out of memory, the others waited for it without end."""
    assert parse("--auto_find_batch_size").auto_find_batch_size
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    sentence = refused("--auto_find_batch_size")
    assert sentence.startswith("--auto_find_batch_size: 2 processes ") and "--per_device_train_batch_size" in sentence


def test_xla_has_no_fused_optimizer():
    """A guard: when this fails, the two tests above may go."""
    from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

    assert "xla" not in _get_fused_kernels_supported_devices()


@pytest.mark.parametrize("metric", [name for name in METRICS if not name.startswith("probe_")])
def test_the_best_checkpoint_is_not_the_one_with_the_largest_perplexity(metric):
    """transformers takes more of everything but the loss to be better."""
    assert parse("--metric_for_best_model", metric).greater_is_better == metric.endswith("accuracy")
    assert parse("--metric_for_best_model", f"eval_{metric}").greater_is_better == metric.endswith("accuracy")
    assert parse("--metric_for_best_model", metric, "--greater_is_better", "true").greater_is_better


IMPOSSIBLE = {
    "learning_rate": "nan inf -inf -1e-4",
    "adam_beta1": "nan 1 -0.1 inf",
    "adam_beta2": "nan 1.5 -1",
    "adam_epsilon": "nan -1e-8 0 inf",
    "weight_decay": "nan inf -0.1",
    "warmup_steps": "nan inf -5",
    "num_train_epochs": "nan inf 0 -1",
    "label_smoothing_factor": "2 -0.1 nan",
    "max_steps": "-5 0",
    "max_grad_norm": "nan inf -1",
    "seed": "-1 4294967296",
    "data_seed": "-1 18446744073709551616",
    "logging_steps": "0 -1 nan inf",
    "eval_steps": "0 -1 nan",
    "save_steps": "0 -1 inf",
    "save_total_limit": "0 -1",
    "eval_delay": "-1 nan",
    "neftune_noise_alpha": "nan -1",
    "per_device_train_batch_size": "0 -8",
    "per_device_eval_batch_size": "0",
    "gradient_accumulation_steps": "0",
    "dataloader_num_workers": "-1",
    "dataloader_prefetch_factor": "0",
    "ddp_timeout": "0",
    "part_lines": "0 -1",
}


@pytest.mark.parametrize("name, value", [(name, value) for name in IMPOSSIBLE for value in IMPOSSIBLE[name].split()])
def test_a_number_that_cannot_be_is_refused_by_name(name, value):
    """transformers takes most of them, and trains until no weight is finite, or not at all."""
    sentence = refused(f"--{name}={value}")
    assert sentence.startswith(f"--{name}: ") and " give " in sentence


def test_the_bounds_of_a_range_are_possible_or_not():
    for name, numbers in RANGES.items():
        assert numbers.allows(numbers.low) == numbers.has_low, name
        assert not any(map(numbers.allows, (math.nan, math.inf, numbers.low - 1))), name
    assert RANGES["adam_beta1"].allows(0.999) and not RANGES["adam_beta1"].allows(1)
    assert RANGES["label_smoothing_factor"].allows(1)


def test_a_loss_that_is_not_finite_is_logged_as_it_is():
    """The Trainer's filter would wait for the GPU in each step, and hide it."""
    assert parse().logging_nan_inf_filter is False and parse("--logging_nan_inf_filter").logging_nan_inf_filter is True


def test_cuda_graphs_are_refused_with_fsdp():
    training = {"captures_graphs": True, "torch_compile_backend": "inductor", "torch_compile_mode": "max-autotune"}
    for fsdp in ("", "full_shard"):
        given = SimpleNamespace(training=SimpleNamespace(**training, fsdp=fsdp), data=SimpleNamespace())
        given.data.pad_to_max_length = bool(fsdp)
        expected = "not tried with --fsdp; drop one of them" if fsdp else "give --pad_to_max_length"
        with pytest.raises(InputError, match=f"^--torch_compile_mode max-autotune .*{expected}"):
            flag_checks._check_graphs(given)


@pytest.mark.parametrize(
    "read, is_read",
    [
        (lambda value: {"beta": float(value or 0.9)}, True),
        (lambda value: {"kahan_sum": bool(value)}, True),  # as transformers reads "0.25" and "1": both are true
        (lambda value: {"rank": int(value or 128)}, True),  # 0.25 is none
        (lambda value: {}, False),
    ],
)
def test_a_setting_that_an_optimizer_does_not_read_is_refused(read, is_read, monkeypatch):
    def arguments(args):
        return None, read(args.optim_args and args.optim_args.partition("=")[2])

    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", arguments)
    given = {"output_dir": "out", "use_cpu": True, "optim": "sgd", "optim_args": "one=2"}
    if is_read:
        RunArguments(**given)
    else:
        with pytest.raises(InputError, match="^--optim_args: one is no setting of --optim sgd; drop it$"):
            RunArguments(**given)
