"""The flags that this suite adds to transformers' `TrainingArguments`, or gives another default."""

from __future__ import annotations

from dataclasses import dataclass

from wordmask.config.parser import argument
from wordmask.utils.errors import InputError
from wordmask.utils.terminal import MODES

SAMPLING = ("random", "group_by_length", "sequential")


@dataclass
class AddedArguments:
    """How this suite trains, in addition to transformers' `TrainingArguments`."""

    _argument_group_name = "training (more: --help_all)"

    output_dir: str = argument(
        "Where model, checkpoints and results go; a run in it continues.", default="trainer_output"
    )
    overwrite_output_dir: bool = argument(
        "Start over in an --output_dir that holds a run.",
        default=False,
    )
    dry_run: bool = argument(
        "Do everything but train and write: try the largest step, time some others, print the plan, and exit.",
        default=False,
    )
    train_sampling_strategy: str | None = argument(
        "The order of an epoch: random, sequential or group_by_length; by default group_by_length for lines, else "
        "random.",
        default=None,
    )
    tokens_per_pass: int | None = argument(
        "Split a batch of more than N tokens into parts: the same gradients, less memory; by default 2048 on a CPU; "
        "0: never.",
        default=None,
    )
    eval_on_start: bool | None = argument(
        "Evaluate before training, too; by default on where the run trains and evaluates.", default=None
    )
    optim: str | None = argument("The optimizer; by default adamw_torch_fused, on a TPU adamw_torch.", default=None)

    logging_steps: float | None = argument(
        "Log the loss every N steps; below 1: a share of all steps. By default a twentieth, at most 500.",
        default=None,
    )
    allow_nan: bool = argument("Train on when a loss, a gradient or a weight is not finite.", default=False)
    log_format: str | None = argument(
        "rich (a bar and tables) or plain (a line for each event); by default rich at a terminal, else plain.",
        default=None,
    )

    def __post_init__(self) -> None:
        self.check_added()

    def check_added(self) -> None:
        """Raise an `InputError` for an impossible value."""
        if not self.output_dir:
            raise InputError("--output_dir: the name is empty; give a directory")
        if self.train_sampling_strategy not in (None, *SAMPLING):
            raise InputError(
                f"--train_sampling_strategy: {self.train_sampling_strategy} is not known; choose from "
                f"{', '.join(SAMPLING)}"
            )
        if self.log_format not in (None, *MODES):
            raise InputError(f"--log_format: {self.log_format} is not known; choose from {', '.join(MODES)}")
        if (self.tokens_per_pass or 0) < 0:
            raise InputError(f"--tokens_per_pass: {self.tokens_per_pass} is below 0; give 0 or more")
