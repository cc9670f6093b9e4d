"""Old flags, from ten years of scripts, and what replaces each. docs/classic_scripts.md has a row for each."""

from __future__ import annotations

import os
from collections.abc import Callable

from wordmask.config.parser import Gone, OldFlag, Switch, is_true
from wordmask.utils.errors import InputError


def _value_for(flag: str) -> Callable[[str | None], list[str]]:
    """Translate what was a switch or had a value: a value goes to the new flag, and a switch is not needed."""
    return lambda value: [] if value is None or value.lower() in ("true", "false") else [flag, value]


def _logging_dir(value: str | None) -> list[str]:
    if value is None:
        raise InputError("--logging_dir is missing its value, a directory")
    os.environ["TENSORBOARD_LOGGING_DIR"] = value
    return []


def _warmup(value: str | None) -> list[str]:
    """A ratio of 0 did not change --warmup_steps. A ratio of 1 becomes a little less, since 1 means one step."""
    ratio = float(value or 0)
    if not 0 <= ratio <= 1:
        raise InputError(f"--warmup_ratio: {value} is no share of the steps; give 0 to 1, such as 0.1 for a tenth")
    return ["--warmup_steps", str(min(ratio, 0.999999))] if ratio else []


def _always(name: str, fact: str) -> Callable[[str | None], list[str]]:
    """Refuse to turn off what is always on."""

    def translate(value: str | None) -> list[str]:
        if not is_true(value):
            raise InputError(f"--{name} false is gone: {fact}; drop the flag")
        return []

    return translate


def _checkpoints(value: str | None) -> list[str]:
    """A number of steps, or `epoch`."""
    if value is None:
        raise InputError("--checkpointing_steps is missing its value, a number of steps or epoch")
    return ["--save_strategy", "epoch"] if value == "epoch" else ["--save_steps", value]


OLD_FLAGS: dict[str, OldFlag] = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": ("--warmup_steps, below 1 for a share of the steps", _warmup),
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id",
    "torch_dtype": "dtype",
    "train_data_file": "train_file",
    "eval_data_file": "validation_file",
    "eval_ref_file": "validation_ref_file",
    "train_data_files": "train_file",
    "block_size": "max_seq_length",
    "no_cuda": ("--use_cpu", Switch(["--use_cpu"], ["--use_cpu", "false"])),
    "group_by_length": (
        "--train_sampling_strategy group_by_length, or random for false",
        Switch(["--train_sampling_strategy", "group_by_length"], ["--train_sampling_strategy", "random"]),
    ),
    "adafactor": ("--optim adafactor", Switch(["--optim", "adafactor"])),
    "evaluate_during_training": (
        "--eval_strategy steps, or no for false",
        Switch(["--eval_strategy", "steps"], ["--eval_strategy", "no"]),
    ),
    "tpu_metrics_debug": ("--debug tpu_metrics_debug", Switch(["--debug", "tpu_metrics_debug"])),
    "use_auth_token": ("--token, not needed after hf auth login", _value_for("--token")),
    "logging_dir": ("the environment variable TENSORBOARD_LOGGING_DIR, set for this run", _logging_dir),
    "save_safetensors": (
        "not needed: weights are always saved as safetensors",
        _always("save_safetensors", "weights are always saved as safetensors"),
    ),
    "use_mps_device": ("not needed: an Apple GPU is used where there is one", Switch()),
    "low_cpu_mem_usage": ("not needed: models always load that way", Switch()),
    "keep_linebreaks": ("not needed: the end of a line is no text", Switch()),
    "mlm": ("not needed: these scripts always mask", _always("mlm", "these scripts always mask")),
    "whole_word_mask": (
        "--masking_strategy whole_word, the default of run_mlm_wwm.py",
        Switch(["--masking_strategy", "whole_word"], ["--masking_strategy", "token"]),
    ),
    "should_continue": ("not needed: a run continues from its last checkpoint by itself", Switch()),
    "resume": ("--resume_from_checkpoint, not needed for the last checkpoint", _value_for("--resume_from_checkpoint")),
    # Of run_mlm_no_trainer.py.
    "max_train_steps": "max_steps",
    "num_warmup_steps": "warmup_steps",
    "checkpointing_steps": ("--save_steps, or --save_strategy epoch", _checkpoints),
    "with_tracking": ("--report_to all", Switch(["--report_to", "all"])),
    "use_slow_tokenizer": ("--no_use_fast_tokenizer", Switch(["--no_use_fast_tokenizer"])),
    "n_gpu": Gone("start with torchrun --nproc_per_node instead"),
    "eval_all_checkpoints": Gone("give each checkpoint as --model_name_or_path with --do_eval"),
    "fp16_backend": Gone("--fp16 or --bf16 alone chooses mixed precision; drop the flag", ["auto"]),
    "half_precision_backend": Gone("--fp16 or --bf16 alone chooses mixed precision; drop the flag", ["auto"]),
    "fp16_opt_level": Gone("it was apex's; use --bf16 or --fp16 without it", ["o1"]),
    "tpu_num_cores": Gone("the launcher sets the number of cores; start with accelerate launch --tpu"),
    "sharded_ddp": Gone("use --fsdp instead"),
    "fsdp_min_num_params": Gone("give it as min_num_params in --fsdp_config", ["0", "0.0"]),
    "fsdp_transformer_layer_cls_to_wrap": Gone("give it as transformer_layer_cls_to_wrap in --fsdp_config"),
    "use_ipex": Gone("PyTorch itself has what it did; drop the flag"),
    "jit_mode_eval": Gone("use --torch_compile instead"),
    "torchdynamo": Gone("use --torch_compile_backend instead"),
    "past_index": Gone("masked language models have no past; drop the flag", ["-1"]),
    "mp_parameters": Gone("it was SageMaker's own; drop the flag"),
    "ray_scope": Gone("hyperparameter search has no flag here; drop it", ["last"]),
    "use_legacy_prediction_loop": Gone("there is one evaluation loop; drop the flag"),
    "include_inputs_for_metrics": Gone("the metrics need no inputs; drop the flag"),
    "include_tokens_per_second": Gone("the results always have train_tokens_per_second; drop the flag"),
    "dispatch_batches": Gone("every process makes its own batches; drop the flag"),
    "split_batches": Gone("every process makes its own batches; drop the flag"),
    "xpu_backend": Gone("use --ddp_backend instead"),
    "push_to_hub_organization": Gone("use --hub_model_id ORGANIZATION/NAME instead"),
}
