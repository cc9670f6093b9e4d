"""`RunArguments`: transformers' `TrainingArguments`, the flags of added_arguments.py, and checks of their values."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from wordmask.config.added_arguments import AddedArguments
from wordmask.config.launch_checks import check_environment, check_sharding, choose_optimizer
from wordmask.config.parser import suggest
from wordmask.config.trackers import check_trackers
from wordmask.utils.errors import InputError, one_line

LOGGING_STEPS = 500  # at most, where the user gives no number
METRICS = ("loss", "perplexity", "accuracy", "whole_word_accuracy")


@dataclass
class RunArguments(AddedArguments, TrainingArguments):  # type: ignore[misc]  # some defaults become `None`
    """All of transformers' `TrainingArguments`, and those that this suite adds.

        args = wordmask.RunArguments(output_dir="out", learning_rate=1e-4, num_train_epochs=3)

    Raises:
        InputError: (a `ValueError`) for values that do not go together.
    """

    _argument_group_name = "training"

    def __post_init__(self) -> None:
        check_environment(self.use_cpu, self.ddp_backend)
        self.check_added()
        self._check()
        check_sharding(self.fsdp, self.fsdp_config, self.deepspeed, self.use_cpu)
        self.optim = choose_optimizer(self.optim, TrainingArguments.optim)
        self.logging_steps = LOGGING_STEPS if self.logging_steps is None else self.logging_steps
        self.train_sampling_strategy = self.train_sampling_strategy or "random"
        self.do_eval = self.do_eval or bool(self.eval_on_start)
        try:
            TrainingArguments.__post_init__(self)
        except torch.distributed.DistError as error:
            raise InputError(
                f"MASTER_ADDR={os.environ.get('MASTER_ADDR')}, MASTER_PORT={os.environ.get('MASTER_PORT')}: the "
                f"processes cannot meet there ({one_line(error)})"
            ) from None
        except (ValueError, ImportError, OSError, TypeError) as error:
            raise InputError(one_line(error)) from None

    @property
    def mask_seed(self) -> int:
        """The seed of the order of sequences and of their masks."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def should_save(self) -> bool:
        """Whether this process writes files; none does in a dry run."""
        return not self.dry_run and super().should_save

    def _check(self) -> None:
        """Raise an `InputError` for mistakes that transformers accepts, or reports without naming a flag."""
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name}: {getattr(self, name)} is below 1; give 1 or more")
        for name in ("seed", "data_seed", "learning_rate", "weight_decay"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise InputError(f"--{name}: {getattr(self, name)} is not a number from 0 upwards; give 0 or more")
        for name, bits in (("seed", 32), ("data_seed", 64)):
            if (getattr(self, name) or 0) >= 2**bits:
                raise InputError(f"--{name}: {getattr(self, name)} is too large; give a number below 2^{bits}")
        metric = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if metric not in METRICS:
            raise InputError(f"--metric_for_best_model: {metric} is not known; choose from {', '.join(METRICS)}")
        if self.dataloader_num_workers < 0:
            raise InputError(f"--dataloader_num_workers: {self.dataloader_num_workers} is below 0; give 0 or more")
        if self.max_steps == 0 or self.num_train_epochs <= 0:
            raise InputError("--max_steps and --num_train_epochs must be above 0; use --do_eval to evaluate only")
        if self.do_predict:
            raise InputError("--do_predict: masked language modelling has no test data; give --do_eval")
        check_trackers([self.report_to] if isinstance(self.report_to, str) else self.report_to or [])
        if self.use_liger_kernel and importlib.util.find_spec("liger_kernel") is None:
            raise InputError("--use_liger_kernel needs its package: pip install liger-kernel")
        optimizers = [name.value for name in OptimizerNames]
        if self.optim not in (None, *optimizers):
            raise InputError(f"--optim: {self.optim} is not known{suggest(str(self.optim), optimizers)}")
        if str(self.save_strategy) in ("best", "SaveStrategy.BEST") and not self.metric_for_best_model:
            raise InputError("--save_strategy best needs --metric_for_best_model, for example eval_loss")
        for name in (
            "lr_scheduler_kwargs",
            "activation_checkpointing_kwargs",
            "accelerator_config",
            "fsdp_config",
            "deepspeed",
        ):
            value = getattr(self, name)
            if isinstance(value, str) and value:
                _check_json(name, value)


def _check_json(name: str, value: str) -> None:
    """Raise an `InputError` if a value is neither a JSON object nor a file that holds one."""
    is_file = os.path.exists(value)
    try:
        is_object = isinstance(json.loads(Path(value).read_text(encoding="utf-8") if is_file else value), dict)
    except (OSError, ValueError):
        is_object = False
    if not is_object:
        problem = "holds no JSON object" if is_file else "is neither a file nor a JSON object"
        raise InputError(f'--{name}: {value} {problem}; write one such as {{"name": 1}}')
