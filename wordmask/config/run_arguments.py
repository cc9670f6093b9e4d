"""`RunArguments`: transformers' `TrainingArguments`, the flags of added_arguments.py, and checks of their values."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState
from transformers import TrainingArguments
from transformers.debug_utils import DebugOption

from wordmask.config.added_arguments import AddedArguments, UsedArguments
from wordmask.config.launch_checks import (
    check_environment,
    check_launched_precision,
    check_launched_settings,
    check_sharding,
    is_launched,
    on_cpu,
)
from wordmask.config.metric_table import METRICS
from wordmask.config.optimizer_checks import MUON, choose_optimizer
from wordmask.config.parser import argument
from wordmask.config.trainer_checks import check_after, check_before, name_flags
from wordmask.utils.errors import InputError, one_line
from wordmask.utils.launch import meeting, tpu_package
from wordmask.utils.signals import are_handled

logger = logging.getLogger(__name__)

LOGGING_STEPS = 500  # at most, where the user gives no number
CAPTURING = ("reduce-overhead", "max-autotune")  # modes of torch.compile with CUDA graphs


def captures_graphs(backend: str | None, mode: str | None) -> bool:
    """Whether a backend and a mode of `torch.compile` make CUDA graphs."""
    return backend == "cudagraphs" or (backend in (None, "inductor") and mode in CAPTURING)


@dataclass
class RunArguments(UsedArguments, AddedArguments, TrainingArguments):  # type: ignore[misc]  # some defaults become `None`
    """All of transformers' `TrainingArguments`, and those that this suite adds.

        args = wordmask.RunArguments(output_dir="out", learning_rate=1e-4, num_train_epochs=3)

    Each is a flag of the scripts, which `python run_mlm_wwm.py --help_all` explains. Of those that the suite adds, a
    program of your own may want:

    - `log_format`: `rich` or `plain` shows what the scripts show; by default the `Trainer` shows what it does.
    - `tokens_per_step`: cut steps at this number of tokens instead of a number of examples.
    - `residual_in_fp32`, `activation_memory_budget`, `chunked_head`: less memory on a GPU, see docs/speed.md.
    - `allow_nan`: train on after a loss that is not finite.

    `dry_run`, `tokens_per_pass` and `text_in_results` are for the scripts alone.

    Raises:
        InputError: (a `ValueError`) for values that do not go together.
    """

    _argument_group_name = "training"

    # Flags of transformers whose own help is not true here (unused_flags.py has those that do nothing)
    save_only_model: bool = argument(
        "Save no optimizer with a checkpoint; a run that goes on from it begins with a new one.", default=False
    )
    resume_from_checkpoint: str | None = argument(
        "The checkpoint to go on from; without it, a run goes on from the last one in --output_dir.", default=None
    )
    ignore_data_skip: bool = argument(
        "A run that goes on reads its stream (--streaming) from the beginning again.", default=False
    )
    data_seed: int | None = argument(
        "Of order and masks; by default --seed in training, and 42 in evaluations.", default=None
    )
    dataloader_drop_last: bool = argument(
        "Leave out the sequences at the end of an epoch that do not fill an optimizer step.", default=False
    )
    enable_jit_checkpoint: bool = argument("Not needed: SIGTERM ends a run with a checkpoint.", default=False)
    accelerator_config: dict | str | None = argument(
        "Settings of accelerate. Those of batches do nothing, since each process makes its own.",
        default=None,
    )
    do_predict: bool = argument("Refused: masked language modelling has no test data.", default=False)
    logging_nan_inf_filter: bool = argument(
        "Leave losses that are no numbers out of the logged mean; this waits for the device in each step.",
        default=False,
    )

    eval_delay: float = argument(
        "Epochs or steps (as in --eval_strategy) before the first evaluation in training.", default=0
    )

    # Added by this suite, for a GPU
    chunked_head: bool = argument(
        "On a GPU, compute the loss in chunks, without the logits of a batch in memory (torch 2.13).", default=False
    )
    residual_in_fp32: bool = argument(
        "With --bf16, keep the sums between layers in single precision; if not, in bfloat16.", default=True
    )
    activation_memory_budget: float = argument(
        "With --torch_compile, the share of activations that is kept; others are computed again.", default=1.0
    )

    def __post_init__(self) -> None:
        check_environment(self.use_cpu, self.ddp_backend)
        AddedArguments.__post_init__(self)
        check_before(self)
        check_sharding(self.fsdp, self.fsdp_config, self.deepspeed, self.use_cpu)
        check_launched_precision(bool(self.bf16 or self.fp16 or self.deepspeed))  # DeepSpeed's own file names it
        compiles = bool(self.torch_compile or self.torch_compile_backend or self.torch_compile_mode)
        divides = {"--fsdp": bool(self.fsdp), "--deepspeed": bool(self.deepspeed)}
        check_launched_settings({"--torch_compile": compiles} | divides)
        if self.metric_for_best_model and self.greater_is_better is None:  # else less perplexity would be worse
            metric = METRICS.get(self.metric_for_best_model.removeprefix("eval_"))
            self.greater_is_better = metric is not None and metric.more_is_better  # else it is the loss of a corpus
        optimizer = choose_optimizer(self.optim, TrainingArguments.optim)
        self.optim = TrainingArguments.optim if optimizer == MUON else optimizer
        self.logging_steps = LOGGING_STEPS if self.logging_steps is None else self.logging_steps
        self.train_sampling_strategy = self.train_sampling_strategy or "random"
        self.do_eval = self.do_eval or bool(self.eval_on_start)
        if self.enable_jit_checkpoint and are_handled():
            logger.warning("--enable_jit_checkpoint does nothing: SIGTERM always ends a run with a checkpoint")
            self.enable_jit_checkpoint = False
        try:
            with meeting() if is_launched() else contextlib.nullcontext():
                if on_cpu(self.use_cpu) and is_launched():
                    # Else the processes would wait for torch's own time. A work-around; no thread known. It can go
                    # when transformers passes --ddp_timeout on for CPUs, too.
                    PartialState(cpu=True, backend=self.ddp_backend, timeout=timedelta(seconds=self.ddp_timeout))
                TrainingArguments.__post_init__(self)
        except torch.distributed.DistError as error:
            raise InputError(
                f"MASTER_ADDR={os.environ.get('MASTER_ADDR')}, MASTER_PORT={os.environ.get('MASTER_PORT')}: the "
                f"processes cannot meet there ({one_line(error)}); if one of them starts late, give a longer "
                "--ddp_timeout"
            ) from None
        except (ValueError, ImportError, OSError, TypeError) as error:
            raise InputError(name_flags(one_line(error), vars(self))) from None
        if DebugOption.TPU_METRICS_DEBUG in self.debug and tpu_package() != "torch_xla":  # the Trainer would fail
            logger.warning("--debug tpu_metrics_debug has no effect: there is no TPU with torch_xla here")
            self.debug = [option for option in self.debug if option != DebugOption.TPU_METRICS_DEBUG]  # type: ignore[misc]
        if optimizer == MUON:  # which transformers would refuse
            self.optim = MUON
        check_after(self)

    def __getstate__(self) -> dict[str, object]:
        """What is saved in training_args.bin: all but the access token."""
        return vars(self) | {"hub_token": None}

    @property
    def mask_seed(self) -> int:
        """The seed of the order of sequences and of their masks in training."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def evaluation_seed(self) -> int:
        """The seed of masks in evaluations: the same for each `--seed`, so that runs with several can be compared."""
        return TrainingArguments.seed if self.data_seed is None else self.data_seed

    @property
    def half_dtype(self) -> torch.dtype | None:
        """The half precision in which the model computes, by autocast; `None` if it does not."""
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else None

    @property
    def captures_graphs(self) -> bool:
        """Whether the model is compiled to CUDA graphs."""
        return self.torch_compile and captures_graphs(self.torch_compile_backend, self.torch_compile_mode)

    @property
    def should_save(self) -> bool:
        """Whether this process writes files; none does in a dry run."""
        return not self.dry_run and super().should_save
