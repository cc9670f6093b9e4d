"""Check --lr_scheduler_type and --lr_scheduler_kwargs, and fill in what follows from the number of steps."""

from __future__ import annotations

import json
import math
import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from transformers import SchedulerType, get_scheduler

from wordmask.utils.errors import InputError, one_line

if TYPE_CHECKING:
    from wordmask.config.run_arguments import RunArguments

# Examples of --lr_scheduler_kwargs. The first three schedules cannot do without.
SCHEDULES = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 1000},
    "cosine_with_restarts": {"num_cycles": 2},
    "polynomial": {"power": 2.0},
    "inverse_sqrt": {"timescale": 1000},
    "reduce_lr_on_plateau": {"patience": 2},
    "greedy": {"patience": 2},
}
WSD = "warmup_stable_decay"
_PHASES = ("num_stable_steps", "num_decay_steps")  # of WSD, after the warm-up
_ROUNDED = 2  # steps by which shares that add up to 1 may miss: each is rounded up
_UNKNOWN = 10**9  # steps where the epochs decide, so that every number of them fits


def schedule_settings(args: RunArguments, steps: int) -> dict[str, Any]:
    """The settings of the schedule of a training of so many steps.

    Of the two phases of warmup_stable_decay after the warm-up, one takes the steps that the other leaves. Below 1, a
    number of steps is a share of all, as in --warmup_steps.

    Example: of 100 steps, 6 of them for the warm-up, `num_decay_steps` 0.1 are 10 and leave 84 with a constant rate;
    `num_stable_steps` 0 leaves 94 for the decay.

    Raises:
        InputError: if the phases are longer than the training, or if both are given and leave a gap.
    """
    settings: dict[str, Any] = dict(args.lr_scheduler_kwargs or {})  # type: ignore[arg-type]  # read by now
    phases = {name: settings[name] for name in _PHASES if settings.get(name) is not None}
    if SchedulerType(args.lr_scheduler_type).value != WSD or not phases:
        return settings
    left = steps - args.get_warmup_steps(steps)
    for name, given in phases.items():
        phases[name] = math.ceil(given * steps) if 0 < given < 1 else given
        if not 0 <= phases[name] <= left:
            raise InputError(
                f"--lr_scheduler_kwargs: {name} {given} is not possible where {left} of {steps} steps follow the "
                "warm-up; give fewer, or a share such as 0.1"
            )
    if len(phases) == 2:
        rest = left - phases["num_decay_steps"]
        if abs(rest - phases["num_stable_steps"]) > _ROUNDED and steps != _UNKNOWN:
            raise InputError(
                f"--lr_scheduler_kwargs: num_stable_steps and num_decay_steps are {sum(phases.values())} steps, and "
                f"{left} of {steps} follow the warm-up; give one of the two, and the other one takes what is left"
            )
        phases["num_stable_steps"] = rest
    if "num_decay_steps" not in phases:
        # transformers computes the other phase itself from `num_decay_steps`, and cannot do it the other way round.
        phases = {"num_decay_steps": left - phases["num_stable_steps"]}
        settings.pop("num_stable_steps")
    return settings | phases


def check_schedule(args: RunArguments) -> None:
    """Raise an `InputError` if the schedule cannot be made with its settings."""
    name, given = SchedulerType(args.lr_scheduler_type).value, args.lr_scheduler_kwargs or {}
    assert isinstance(given, dict)  # `TrainingArguments` has read what was a string
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    steps = args.max_steps if args.max_steps > 0 else _UNKNOWN
    try:
        if given and name in ("constant", "constant_with_warmup"):  # transformers would pass over them
            raise ValueError(f"{', '.join(given)}: it has no settings")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = schedule_settings(args, steps)
            schedule = get_scheduler(name, optimizer, args.get_warmup_steps(steps), steps, settings)
            for factor in getattr(schedule, "lr_lambdas", ()):
                for step in (1, steps // 2, steps):
                    float(factor(step))
    except InputError:
        raise
    except Exception as error:  # each schedule fails in its own way
        example = f"--lr_scheduler_kwargs '{json.dumps(SCHEDULES[name])}'" if name in SCHEDULES else ""
        if not given:
            missing = f"give, for example, {example}" if example else "give another schedule"
            raise InputError(f"--lr_scheduler_type {name} lacks a setting ({_reason(error)}); {missing}") from None
        advice = f"give, for example, {example}" if example else "drop --lr_scheduler_kwargs"
        raise InputError(
            f"--lr_scheduler_kwargs: {json.dumps(given)} does not fit --lr_scheduler_type {name} ({_reason(error)}); "
            f"{advice}"
        ) from None


def _reason(error: Exception) -> str:
    """Why a schedule cannot be made, without the names of functions."""
    sentence = one_line(error)
    if missing := re.search(r"missing \d+ required positional arguments?: (.*)", sentence):
        return missing[1].replace("'", "") + " must be given"
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", sentence):
        return f"{unknown[1]} is not one of its settings"
    return sentence
