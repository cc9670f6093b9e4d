"""`--optim` and `--optim_args`: which optimizers there are, and what each takes."""

from __future__ import annotations

import copy
import math
import re
from typing import TYPE_CHECKING

from transformers.training_args import OptimizerNames

from wordmask.utils.errors import InputError, first_of, one_line, suggest
from wordmask.utils.launch import tpu_package

if TYPE_CHECKING:
    from wordmask.config.run_arguments import RunArguments

MUON = "muon"  # ours, in training/trainer/muon.py: transformers has none
USUAL_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adafactor", "sgd", "adamw_bnb_8bit", MUON)


def check_known(optimizer: str | None) -> None:
    """Raise an `InputError` for an optimizer that there is not; `None` asks for the default."""
    optimizers = [MUON, *(name.value for name in OptimizerNames)]
    if optimizer not in (None, *optimizers):
        raise InputError(
            f"--optim: {optimizer} is not known{suggest(str(optimizer), optimizers)}; the usual ones are "
            f"{', '.join(USUAL_OPTIMIZERS)}"
        )


def choose_optimizer(asked: str | None, default: str) -> str:
    """The optimizer that the user asks for, else the default, or `adamw_torch` if the device lacks the default.

    Raises:
        InputError: for the fused AdamW on XLA, which crashes at the first step. Another one, chosen silently, would
            contradict the run's record.
    """
    package = tpu_package()
    if asked == "adamw_torch_fused" and package == "torch_xla":
        raise InputError("--optim adamw_torch_fused: XLA has no fused AdamW; give adamw_torch, or drop the flag")
    return asked or ("adamw_torch" if package else default)


def check_optimizer(args: RunArguments) -> None:
    """Raise an `InputError` for a wrong setting or a missing package. Other mistakes show with the model."""
    from transformers import Trainer

    settings = _settings(args)
    if wrong := [setting for setting in settings if not re.fullmatch(r"\w+=[^=]+", setting)]:
        raise InputError(f"--optim_args: {wrong[0]!r} does not set anything; write name=value,name=value")
    names = [setting.split("=")[0] for setting in settings]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--optim_args: {twice[0]} is given twice; give it once")
    if args.optim == MUON:
        _check_muon(args)
        return
    optimizer = OptimizerNames(args.optim).value
    if optimizer.startswith("schedule_free") and 0 < args.warmup_steps < 1:
        raise InputError(
            f"--warmup_steps {args.warmup_steps:g}: {optimizer} warms up by itself, and knows no share of the steps; "
            "give a whole number of them"
        )
    if unread := [name for name in names if not _is_read(name, args)]:
        has_flags = optimizer.startswith("adamw")
        advice = "use --adam_beta1, --adam_beta2 and --adam_epsilon" if has_flags else "drop it"
        raise InputError(f"--optim_args: {unread[0]} is no setting of --optim {optimizer}; {advice}")
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError) as error:
        sentence = one_line(error)
        if isinstance(error, ImportError) or "install" in sentence or "import" in sentence:
            raise InputError(
                f"--optim {optimizer}: its package is missing ({sentence}); install it, or give another optimizer"
            ) from None


def _is_read(name: str, args: RunArguments) -> bool:
    """Whether the optimizer reads a setting: some value changes its arguments, or fails."""
    from transformers import Trainer

    other, arguments = copy.copy(args), []
    for setting in (None, f"{name}=0.25", f"{name}=1"):
        other.optim_args = setting
        try:
            arguments.append(Trainer.get_optimizer_cls_and_kwargs(other)[1])
        except Exception:  # of any kind: 0.25 is no whole number, for example; or a package is missing
            return True
    return not arguments[0] == arguments[1] == arguments[2]


def _settings(args: RunArguments) -> list[str]:
    """The settings in --optim_args, `name=value` each; also those that set nothing, for a check."""
    return [] if args.optim_args is None else args.optim_args.replace(" ", "").split(",")


def settings_given(args: RunArguments) -> set[str]:
    """The names of the settings in --optim_args."""
    return {one.partition("=")[0] for one in _settings(args)}


def _check_muon(args: RunArguments) -> None:
    """Raise an `InputError` if weights are divided as Muon cannot take them, or for a setting that it has not."""
    dividing = {
        "--deepspeed": args.deepspeed_plugin is not None,
        "--fsdp_config with version 1": (args.fsdp_plugin_args or {}).get("fsdp_version") == 1,
    }
    if flag := first_of(dividing):
        raise InputError(
            f"--optim muon multiplies whole matrices, and {flag} leaves parts of them; give --fsdp, which keeps their "
            "shapes, or another --optim"
        )
    muon_settings(args)


def muon_settings(args: RunArguments) -> dict[str, float]:
    """The settings of Muon in --optim_args; an `InputError` for one that it has not."""
    settings = {}
    for name, value in (setting.split("=") for setting in _settings(args)):
        try:
            settings[name] = float(value)
        except ValueError:
            settings[name] = math.nan
        if name != "momentum" or not 0 <= settings[name] < 1:
            raise InputError(
                f"--optim_args: {name}={value} is no setting of --optim muon; give momentum=0.95, for example, from 0 "
                "to below 1, and use --adam_beta1, --adam_beta2 and --adam_epsilon for the other weights"
            )
    return settings
