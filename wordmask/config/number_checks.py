"""The numbers that flags may have: a table of those of the Trainer, of which transformers does not check most.

Functions check shares, and `--vocab_size`, which two scripts have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

from wordmask.utils.errors import InputError
from wordmask.utils.workers import check_workers


class Range(NamedTuple):
    """The numbers from `low` to `high`.

    Attributes:
        low, high: the bounds. Infinity is never a value.
        has_low, has_high: whether the bounds are values, too.
        is_whole: whether it has the whole numbers alone.
    """

    low: float
    high: float = math.inf
    has_low: bool = True
    has_high: bool = True
    is_whole: bool = False

    def allows(self, value: float) -> bool:
        """Whether a value is one of these numbers."""
        above = value >= self.low if self.has_low else value > self.low
        below = value <= self.high if self.has_high else value < self.high
        return above and below and math.isfinite(value) and (isinstance(value, Integral) or not self.is_whole)

    def __str__(self) -> str:
        a_number = f"a {'whole ' if self.is_whole else ''}number"
        if self.high != math.inf:
            return f"{a_number} from {self.low} to {'' if self.has_high else 'below '}{self.high}"
        return f"{a_number} from {self.low} on" if self.has_low else f"{a_number} above {self.low}"


MOST_TOKENS = 10**12  # far above any step, and far below what 64 bits can count
MOST_PASSES = 10**6  # the same for the passes of a step, of which the Trainer keeps a list
POSITIVE, FROM_0, FROM_1 = Range(0, has_low=False), Range(0), Range(1, is_whole=True)
RANGES = {
    "per_device_train_batch_size": FROM_1,
    "per_device_eval_batch_size": FROM_1,
    "tokens_per_step": Range(1, MOST_TOKENS, is_whole=True),
    "gradient_accumulation_steps": Range(1, MOST_PASSES, is_whole=True),
    "eval_accumulation_steps": FROM_1,
    "num_train_epochs": POSITIVE,
    "learning_rate": FROM_0,
    "weight_decay": FROM_0,
    "adam_beta1": Range(0, 1, has_high=False),
    "adam_beta2": Range(0, 1, has_high=False),
    "adam_epsilon": POSITIVE,
    "max_grad_norm": FROM_0,
    "label_smoothing_factor": Range(0, 1),
    "neftune_noise_alpha": FROM_0,
    "warmup_steps": FROM_0,
    "logging_steps": POSITIVE,
    "eval_steps": POSITIVE,
    "eval_delay": FROM_0,
    "save_steps": POSITIVE,
    "save_total_limit": FROM_1,
    "torch_empty_cache_steps": FROM_1,
    "seed": Range(0, 2**32 - 1, is_whole=True),
    "data_seed": Range(0, 2**64 - 1, is_whole=True),
    "dataloader_num_workers": Range(0, is_whole=True),
    "dataloader_prefetch_factor": FROM_1,
    "ddp_bucket_cap_mb": FROM_1,
    "ddp_timeout": FROM_1,
}


def check_numbers(args: Any) -> None:
    """Raise an `InputError` for a number that cannot be.

    Args:
        args: the `RunArguments`. A flag without a value is `None`.
    """
    for name in (*RANGES, "max_steps"):
        if isinstance(value := getattr(args, name), str):  # from Python; a command line gives numbers
            raise InputError(f"--{name}: {value!r} is a str; give a number")
    for name, numbers in RANGES.items():
        value = getattr(args, name)
        if value is not None and not numbers.allows(value):
            raise InputError(f"--{name}: {value} is not possible; give {numbers}")
    check_workers("--dataloader_num_workers", args.dataloader_num_workers)
    if args.max_steps != -1 and not FROM_1.allows(args.max_steps):
        raise InputError(
            f"--max_steps: {args.max_steps} is not possible; give a whole number from 1 on, drop it to train for "
            "--num_train_epochs, or use --do_eval to evaluate only"
        )


def check_shares(flag: str, shares: Sequence[float], what: str, advice: str = "make them add up to 1") -> None:
    """Raise an `InputError` if shares are not above 0, or do not add up to 1; `what` names them in its sentence."""
    total = sum(shares)
    if not (all(share > 0 for share in shares) and abs(total - 1) <= 1e-6):
        raise InputError(f"{flag}: {what} add up to {total:g}; {advice}")


def check_vocab_size(value: int | None) -> None:
    """Raise an `InputError` if `--vocab_size` is too small to train a tokenizer."""
    if value is not None and value < 10:
        raise InputError(f"--vocab_size: {value} leaves no room for words; give some thousands, for example 30000")
