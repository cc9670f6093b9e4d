"""The flags of a training: those of transformers that are used most, and those that this suite adds or changes."""

from __future__ import annotations

from dataclasses import dataclass

from wordmask.config.parser import argument
from wordmask.utils.errors import InputError
from wordmask.utils.terminal import MODES

SAMPLING = ("random", "group_by_length", "sequential")


@dataclass
class UsedArguments:
    """The most used of transformers' `TrainingArguments`, with the same defaults: --help imports no Trainer."""

    _argument_group_name = "training, the flags used most (all others: --help_all)"

    output_dir: str = argument(
        "Where model, checkpoints and results go; a run in it continues.", default="trainer_output"
    )
    learning_rate: float = argument("The highest learning rate.", default=5e-5)
    num_train_epochs: float = argument("How often to see the training text.", default=3.0)
    max_steps: int = argument("Optimizer steps, instead of epochs.", default=-1)
    per_device_train_batch_size: int = argument("Sequences in a batch of one device.", default=8)
    gradient_accumulation_steps: int = argument("Batches in an optimizer step.", default=1)
    warmup_steps: float = argument("Warm-up steps; below 1: a share of all.", default=0)
    eval_strategy: str = argument("Evaluate in training: no, steps, epoch.", default="no")
    eval_steps: float | None = argument("The steps between; below 1: a share of all.", default=None)
    save_steps: float = argument("Checkpoint every N; below 1: a share.", default=500)
    save_total_limit: int | None = argument("Keep N checkpoints; by default all.", default=None)
    bf16: bool = argument("Compute in bfloat16.", default=False)
    use_cpu: bool = argument("Train on the CPU.", default=False)
    seed: int = argument("Of order, masks and new weights.", default=42)
    do_train: bool = argument("Train, and evaluate only with --do_eval.", default=False)
    do_eval: bool = argument("Evaluate, and train only with --do_train.", default=False)
    report_to: None | str | list[str] = argument("Trackers, such as tensorboard.", default="none")
    push_to_hub: bool = argument("Push the model to the hub.", default=False)
    hub_model_id: str | None = argument("Its name there; by default, that of --output_dir.", default=None)


@dataclass
class AddedArguments:
    """How this suite trains, in addition to transformers' `TrainingArguments`."""

    _argument_group_name = "training, added by this suite"

    overwrite_output_dir: bool = argument("Start over in an --output_dir that holds a run.", default=False)
    dry_run: bool = argument("Try some steps, print the plan, and exit.", default=False)
    train_sampling_strategy: str | None = argument(
        "random, sequential, group_by_length; default: by length for lines with padding, else random.", default=None
    )
    tokens_per_step: int | None = argument("End a step at N tokens, not at a batch size.", default=None)
    tokens_per_pass: int | None = argument(
        "Split batches of more tokens: same gradients, less memory; 0: never; by default 2048 on a CPU.", default=None
    )
    eval_on_start: bool | None = argument("Evaluate before training; default: if after it, too.", default=None)
    optim: str | None = argument("muon, or another; default adamw_torch_fused.", default=None)

    logging_steps: float | None = argument(
        "Log the loss every N steps; below 1: a share. By default a twentieth, at most 500.", default=None
    )
    text_in_results: bool = argument("Show lines of the text, and keep them in results.", default=True)
    allow_nan: bool = argument("Train on when a loss or weight is not finite.", default=False)
    log_format: str | None = argument("rich or plain; by default rich at a terminal.", default=None)

    def __post_init__(self) -> None:
        if self.train_sampling_strategy not in (None, *SAMPLING):
            raise InputError(
                f"--train_sampling_strategy: {self.train_sampling_strategy} is not known; choose from "
                f"{', '.join(SAMPLING)}"
            )
        if self.log_format not in (None, *MODES):
            raise InputError(f"--log_format: {self.log_format} is not known; choose from {', '.join(MODES)}")
        if (self.tokens_per_pass or 0) < 0:
            raise InputError(f"--tokens_per_pass: {self.tokens_per_pass} is below 0; give 0 or more")
