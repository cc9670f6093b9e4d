"""The flags that this suite adds to transformers' `TrainingArguments`, or gives another default."""

from __future__ import annotations

from dataclasses import dataclass

from wordmask.config.parser import argument
from wordmask.utils.errors import InputError

SAMPLING = ("random", "group_by_length", "sequential")


@dataclass
class AddedArguments:
    """How this suite trains, besides what the `TrainingArguments` say."""

    _argument_group_name = "training (--help_all: with all of transformers' TrainingArguments)"

    output_dir: str = argument("Where the model, its checkpoints and the results go.", default="trainer_output")
    train_sampling_strategy: str | None = argument(
        "The order of an epoch: random, group_by_length (rows of like length in one step) or sequential; "
        "group_by_length if not given and --line_by_line, else random.",
        default=None,
    )
    optim: str | None = argument(
        "The optimizer; adamw_torch_fused if not given, adamw_torch on a TPU, which has no fused one.", default=None
    )
    tokens_per_pass: int | None = argument(
        "The most tokens, padding included, that go through the model at once: a larger batch is divided into parts "
        "of rows of like length, with the same loss and gradients, less memory and less padding; 2048 on a CPU and "
        "no limit elsewhere if not given, 0 for none.",
        default=None,
    )
    overwrite_output_dir: bool = argument(
        "Start over in an --output_dir that holds a run; without it, the run goes on from its last checkpoint.",
        default=False,
    )

    def __post_init__(self) -> None:
        self.check_added()

    def check_added(self) -> None:
        """Raise an `InputError` for a value that cannot be."""
        if self.train_sampling_strategy not in (None, *SAMPLING):
            raise InputError(
                f"--train_sampling_strategy: {self.train_sampling_strategy} is not offered; choose from "
                f"{', '.join(SAMPLING)}"
            )
        if (self.tokens_per_pass or 0) < 0:
            raise InputError(f"--tokens_per_pass: {self.tokens_per_pass} is below 0; give 0 or more")
