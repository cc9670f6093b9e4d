"""A Trainer whose optimizer and schedule resume with the values of today's flags."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from wordmask.config.optimizer_checks import settings_given
from wordmask.config.schedule_checks import schedule_settings
from wordmask.data.plan import Progress
from wordmask.training.records.progress_record import optimizer_in
from wordmask.training.trainer.timing import TimedTrainer
from wordmask.utils.errors import InputError, reported

logger = logging.getLogger(__name__)

# Settings in an optimizer's state that flags set, beside those that --optim_args names.
_SETTINGS = ("weight_decay", "betas", "eps", "momentum", "fused")
# What the parameters of a schedule become in its state. GreedyLR counts `reset_start` down, and keeps what was given.
_KEPT_AS = {"min_lr": "min_lrs", "max_lr": "max_lrs", "reset_start": "reset_start_original"}


class OptimizerResumingTrainer(TimedTrainer):
    """A `Trainer` that keeps today's learning rate, weight decay and the like when it loads an older state.

    Args:
        kept_optimizer: the checkpoint of another run whose optimizer's state a new training starts with, if any.
        others: those of the Trainer.

    Attributes:
        done: the progress before this call of `train`.
    """

    done: Progress = Progress()
    _optimizer_done: str | None = None  # the kind of the optimizer whose state the checkpoint holds
    _rate_done: float | None = None  # the --learning_rate of the checkpoint

    def __init__(self, *args: Any, kept_optimizer: str | None = None, **options: Any):
        super().__init__(*args, **options)
        self.kept_optimizer = kept_optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule, with the settings that follow from the number of steps."""
        given = self.args.lr_scheduler_kwargs
        self.args.lr_scheduler_kwargs = schedule_settings(self.args, num_training_steps)
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        finally:
            self.args.lr_scheduler_kwargs = given

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Wrap the model, and make optimizer and schedule; a new training may start with an older state."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if resume_from_checkpoint is None and self.kept_optimizer and not self.state.global_step:
            self._start_with(self.kept_optimizer)
        return prepared

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load their states, but keep the values of today's flags, which the Trainer would replace by the old ones."""
        if checkpoint is None or self.is_deepspeed_enabled:
            return super()._load_optimizer_and_scheduler(checkpoint)
        optimizer: Any = self.optimizer
        schedule: Any = self.lr_scheduler
        names = {*_SETTINGS, *settings_given(self.args)}
        settings = [{name: group[name] for name in names if name in group} for group in optimizer.param_groups]
        rates, of_schedule = getattr(schedule, "base_lrs", None), _settings_of(schedule)
        if self._optimizer_done not in (None, self._optimizer_kind):
            logger.warning("--optim or --lr_scheduler_type has changed, so the optimizer starts without its old state")
        elif any(Path(checkpoint).glob("optimizer*")):
            super()._load_optimizer_and_scheduler(checkpoint)
            if rates is None:  # it changes the rates of the optimizer by what it sees, so they have no formula
                vars(schedule).update(of_schedule)
                change = self.args.learning_rate / self._rate_done if self._rate_done else 1.0
                for group in optimizer.param_groups:
                    group["lr"] *= change
        else:
            logger.warning(
                "%s holds the model alone (--save_only_model), so the optimizer and the random numbers start anew",
                checkpoint,
            )
        if not schedule.last_epoch and rates is not None:  # it had no state, and its rates follow from the step
            schedule.last_epoch = self.done.step
        _set(optimizer, settings)
        if rates is not None:
            schedule.base_lrs = rates
        return self._set_learning_rates()

    def _start_with(self, checkpoint: str) -> None:
        """Load the state of an optimizer, such as AdamW's moments, and keep all else: settings, rates and schedule.

        Raises:
            InputError: if it is the state of another optimizer, or of other weights.
        """
        optimizer: Any = self.optimizer
        schedule: Any = self.lr_scheduler
        settings = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        beginning = copy.deepcopy(schedule.state_dict())
        sentence = f"--keep_optimizer: {checkpoint} holds no state for this optimizer and model"
        advice = "; give its --optim, or drop the flag"
        with reported(sentence, advice):
            own, kept = self._optimizer_kind.split(",")[0], optimizer_in(checkpoint)
            if kept not in (None, own):
                raise InputError(f"{sentence}, but that of {kept}, and this one is {own}{advice}")
            super()._load_optimizer_and_scheduler(checkpoint)
        if not _fits(optimizer):
            raise InputError(sentence + advice)
        schedule.load_state_dict(beginning)
        _set(optimizer, settings)
        logger.warning("--keep_optimizer: the optimizer starts with its state in %s", checkpoint)

    @property
    def _optimizer_kind(self) -> str:
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return f"{type(optimizer).__name__}, {type(self.lr_scheduler).__name__}"

    def _set_learning_rates(self) -> None:
        """Set the learning rates of the next step, by a schedule over the whole training."""
        schedule, optimizer = self.lr_scheduler, self.optimizer
        if isinstance(schedule, LambdaLR) and optimizer is not None:
            parts = zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
            for group, rate, factor in parts:
                group["initial_lr"], group["lr"] = rate, rate * factor(schedule.last_epoch)
            schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


def _settings_of(schedule: Any) -> dict[str, Any]:
    """The settings that a schedule was made with, by the names that they have in its state."""
    names = {_KEPT_AS.get(name, name) for name in inspect.signature(type(schedule)).parameters}
    return {name: value for name, value in vars(schedule).items() if name in names}


def _set(optimizer: Any, settings: Sequence[Mapping[str, Any]]) -> None:
    """Set settings of the groups of an optimizer whose state was loaded with others."""
    groups = list(zip(optimizer.param_groups, settings, strict=True))
    places_differ = any(group.get("fused") != values.get("fused") for group, values in groups)
    for group, values in groups:
        group.update(values)
    if places_differ:  # the number of steps lies on the device if `fused`, else on the CPU, and loading puts it there
        optimizer.load_state_dict(optimizer.state_dict())


def _fits(optimizer: Any) -> bool:
    """Whether an optimizer has a state, and what it has for each place of a weight fits the weight's shape."""
    return bool(optimizer.state) and all(
        value.shape == weight.shape
        for group in optimizer.param_groups
        for weight in group["params"]
        for value in optimizer.state.get(weight, {}).values()
        if isinstance(value, torch.Tensor) and value.ndim == weight.ndim
    )
