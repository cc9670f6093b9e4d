"""What the Trainer's flags ask for: refuse at the start what would fail later.

flag_checks.py says where else flags are checked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.utils import DynamoBackend
from transformers.utils import is_torch_bf16_gpu_available, is_torch_tf32_available

from wordmask.config.metric_table import METRICS, metrics_in
from wordmask.config.number_checks import check_numbers
from wordmask.config.optimizer_checks import check_known, check_optimizer
from wordmask.config.schedule_checks import check_schedule
from wordmask.config.tracker_checks import check_trackers
from wordmask.utils.errors import InputError, first_of, suggest
from wordmask.utils.launch import tpu_package
from wordmask.utils.quantities import plain

if TYPE_CHECKING:
    from wordmask.config.run_arguments import RunArguments

# For each flag whose value is a JSON object or a file with one, what to give.
JSON_FLAGS = {
    "lr_scheduler_kwargs": 'settings of the schedule, such as {"num_cycles": 2}',
    "activation_checkpointing_kwargs": '{"use_reentrant": false}, for example',
    "gradient_checkpointing_kwargs": '{"use_reentrant": false}, for example',
    "accelerator_config": '{"even_batches": true}, for example',
    "fsdp_config": '{"fsdp_version": 2}, for example',
    "deepspeed": "a DeepSpeed configuration, such as configs/deepspeed_zero2.json",
}


def check_before(args: RunArguments) -> None:
    """Raise an `InputError` for what transformers accepts, or refuses without naming a flag."""
    if not isinstance(args.output_dir, str | os.PathLike | None):
        raise InputError(f"--output_dir: {args.output_dir!r} is no name; give a directory")
    if not args.output_dir:
        raise InputError("--output_dir: the name is empty; give a directory")
    check_numbers(args)
    _check_evaluation(args)
    _check_precision(args)
    if args.do_predict:
        raise InputError("--do_predict: masked language modelling has no test data; give --do_eval")
    check_trackers([args.report_to] if isinstance(args.report_to, str) else args.report_to or [])
    if args.use_liger_kernel and importlib.util.find_spec("liger_kernel") is None:
        raise InputError("--use_liger_kernel needs its package: pip install liger-kernel")
    check_known(args.optim)
    by_size = [name for name in ("auto_find_batch_size", "dataloader_drop_last") if getattr(args, name)]
    if args.tokens_per_step and by_size:
        raise InputError(
            f"--tokens_per_step cuts steps at a number of tokens, and --{by_size[0]} is for a number of sequences; "
            "drop one of them"
        )
    for name in JSON_FLAGS:
        value = getattr(args, name)
        if isinstance(value, str) and value:
            _check_json(name, value)


def check_after(args: RunArguments) -> None:
    """Raise an `InputError` if what the flags, resolved by now, ask for cannot be made."""
    check_schedule(args)
    check_optimizer(args)
    if args.auto_find_batch_size and args.world_size > 1:  # the others would wait forever for one that has failed
        raise InputError(
            f"--auto_find_batch_size: {args.world_size} processes do not run out of memory together, so they cannot "
            "go on with smaller batches; drop it, and give a --per_device_train_batch_size that fits (--dry_run "
            "finds it)"
        )
    saved = (args.fsdp_plugin_args or {}).get("state_dict_type", "FULL_STATE_DICT")
    if saved != "FULL_STATE_DICT":  # the Trainer would save no model at the end
        raise InputError(
            f"--fsdp_config: with state_dict_type {saved}, no file holds the whole model at the end; give "
            "FULL_STATE_DICT, or drop it"
        )
    accumulation = getattr(args.accelerator_config, "gradient_accumulation_kwargs", None)
    if "num_steps" in (accumulation or {}):
        raise InputError("--accelerator_config: num_steps is --gradient_accumulation_steps here; give that flag")
    _check_chunked_head(args)
    if not (args.residual_in_fp32 or args.bf16):  # sums may be above 65,504, where float16 ends
        raise InputError("--no_residual_in_fp32 needs --bf16; give it, too, or drop the flag")
    _check_memory_budget(args)
    if args.torch_compile:
        _check_compiler(args)


def _check_evaluation(args: RunArguments) -> None:
    """Raise an `InputError` if flags need evaluations that there are not, or a metric that they do not give."""
    metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
    found = metrics_in([metric], "name")  # setup.py knows which corpora there are
    if not found:
        raise InputError(
            f"--metric_for_best_model: {metric} is not known{suggest(metric, METRICS)}; choose from "
            f"{', '.join(METRICS)}, or the loss of one of several --validation_file, such as news_loss"
        )
    if args.prediction_loss_only and found[0].needs_predictions:
        raise InputError(
            f"--metric_for_best_model {metric} is not computed with --prediction_loss_only; drop one of them"
        )
    evaluation, saving, schedule = map(plain, (args.eval_strategy, args.save_strategy, args.lr_scheduler_type))
    if saving == "best" and not args.metric_for_best_model:
        raise InputError("--save_strategy best needs --metric_for_best_model, for example eval_loss")
    needing = {
        "--save_strategy best": saving == "best",
        "--load_best_model_at_end": args.load_best_model_at_end,
        f"--lr_scheduler_type {schedule}": schedule in ("reduce_lr_on_plateau", "greedy"),
    }
    if evaluation == "no" and (flag := first_of(needing)):
        raise InputError(
            f"{flag} follows the evaluations during training, and there are none; give --eval_strategy, for example "
            "epoch"
        )
    if args.load_best_model_at_end and saving not in ("best", evaluation):
        raise InputError(
            f"--load_best_model_at_end needs a checkpoint at each evaluation; give --save_strategy {evaluation}, as "
            f"--eval_strategy, instead of {saving}"
        )


def _check_precision(args: RunArguments) -> None:
    """Raise an `InputError` if the device cannot do what a flag asks for, or two flags exclude each other."""
    for use in ("", "_full_eval"):
        if getattr(args, f"fp16{use}") and getattr(args, f"bf16{use}"):
            raise InputError(f"--fp16{use} and --bf16{use}: only one of them is possible; drop the other one")
    off = {"--bf16": "--no_bf16", "--bf16_full_eval": "--no_bf16_full_eval", "--tf32": "--no_tf32"}
    lacking = [flag for flag in ("--bf16", "--bf16_full_eval") if getattr(args, flag[2:]) and lacks_bf16(args)]
    if args.tf32 and not is_torch_tf32_available():
        lacking.append("--tf32")
    if not lacking:
        return
    flags = ", ".join(lacking)
    if torch.accelerator.is_available():
        advice = f"this needs a newer GPU (NVIDIA's Ampere or later); give {' '.join(off[flag] for flag in lacking)}"
    else:
        on_cpu = [] if args.use_cpu else ["--use_cpu"]
        if "--tf32" in lacking:
            on_cpu.append("--no_tf32")
        advice = f"there is no GPU here; to train on the CPU, give {' '.join(on_cpu)}"
    raise InputError(f"{flags}: {advice}")


def lacks_bf16(args: RunArguments) -> bool:
    """Whether a run without --use_cpu finds no GPU with bfloat16. Old cards only emulate it, which is slow."""
    emulates = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
    return not (args.use_cpu or tpu_package() or is_torch_bf16_gpu_available() and not emulates)


def name_flags(sentence: str, values: Mapping[str, object]) -> str:
    """A sentence of transformers that names flags.

    `At most one of fp16 and bf16 can be True` becomes `At most one of --fp16 and --bf16 can be True`, and
    `sometimes is not a valid IntervalStrategy` becomes `--eval_strategy: sometimes is not a valid IntervalStrategy`.

    Args:
        sentence: the message of an error.
        values: the values of the flags, by their names.
    """
    if "--" in sentence:
        return sentence
    if wrong := re.match(r"(\S+) is not a valid ", sentence):
        flag = next((name for name, value in values.items() if value == wrong[1]), None)
        return f"--{flag}: {sentence}" if flag else sentence
    if wrong := re.match(r"AcceleratorConfig.*argument '(\w+)'", sentence):
        return f"--accelerator_config: {wrong[1]} is not one of its settings; give {JSON_FLAGS['accelerator_config']}"
    return re.sub(r"\b[a-z]\w+\b", lambda word: f"--{word[0]}" if word[0] in values else word[0], sentence)


def _check_chunked_head(args: RunArguments) -> None:
    """Raise an `InputError` if the head cannot compute its loss in chunks, or not as the user wants it."""
    reasons = {
        "is for a GPU, since it is many times slower on a CPU": args.device.type != "cuda",
        "needs torch 2.13": not hasattr(torch.nn, "LinearCrossEntropyOptions"),
        "has no label smoothing": args.label_smoothing_factor > 0,
    }
    if args.chunked_head and (reason := first_of(reasons)):
        raise InputError(f"--chunked_head {reason}; drop the flag")


def _check_memory_budget(args: RunArguments) -> None:
    """Raise an `InputError` if --activation_memory_budget is no share, or if nothing reads it."""
    budget = args.activation_memory_budget
    if not 0 <= budget <= 1:
        raise InputError(f"--activation_memory_budget: {budget:g} is not between 0 and 1; give a share such as 0.8")
    if budget < 1 and not args.torch_compile:
        raise InputError(
            f"--activation_memory_budget {budget:g} is for compiled models; give --torch_compile too, or "
            "--activation_checkpointing instead"
        )
    if budget < 1 and (backend := str(args.torch_compile_backend)) != "inductor":
        raise InputError(
            f"--activation_memory_budget {budget:g} has no effect on --torch_compile_backend {backend}; give inductor"
        )


def _check_compiler(args: RunArguments) -> None:
    """Raise an `InputError` if --torch_compile has an unknown backend or mode, or lacks a compiler."""
    from torch._dynamo import list_backends

    known = list_backends(())
    backends = [backend.value.lower() for backend in DynamoBackend if backend.value.lower() in known]
    backend = str(args.torch_compile_backend)
    if backend not in backends:
        raise InputError(
            f"--torch_compile_backend: {backend} is not known{suggest(backend, backends)}; choose from "
            f"{', '.join(backends)}"
        )
    if backend != "inductor":
        return
    import torch._inductor
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    modes = list(torch._inductor.list_mode_options())
    if args.torch_compile_mode not in (None, *modes):
        raise InputError(
            f"--torch_compile_mode: {args.torch_compile_mode} is not known; choose from {', '.join(modes)}"
        )
    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        raise InputError("--torch_compile needs a C++ compiler; install g++, or drop the flag") from None
    if args.device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise InputError("--torch_compile needs a package on a GPU: pip install triton; or drop the flag")


def _check_json(name: str, value: str) -> None:
    """Raise an `InputError` if a value is neither a JSON object nor a file that holds one."""
    is_file = os.path.exists(value)
    try:
        is_object = isinstance(json.loads(Path(value).read_text(encoding="utf-8") if is_file else value), dict)
    except (OSError, ValueError):
        is_object = False
    if not is_object:
        looked_for = value.endswith(".json") and not os.path.isabs(value)
        place = f"a file in {os.getcwd()}" if looked_for else "a file"
        problem = "holds no JSON object" if is_file else f"is neither {place} nor a JSON object"
        raise InputError(f"--{name}: {value} {problem}; give {JSON_FLAGS[name]}")
