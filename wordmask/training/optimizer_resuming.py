"""A Trainer whose optimizer and schedule resume with the values of today's flags."""

from __future__ import annotations

import logging
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from wordmask.data.sampler import Progress
from wordmask.training.timing import TimedTrainer

logger = logging.getLogger(__name__)

# Settings in an optimizer's state that flags set.
_SETTINGS = ("weight_decay", "betas", "eps", "momentum")


class OptimizerResumingTrainer(TimedTrainer):
    """A `Trainer` that keeps today's learning rate, weight decay and the like when it loads an older state.

    Attributes:
        done: the progress before this call of `train`.
    """

    done: Progress = Progress()
    _optimizer_done: str | None = None  # the kind of the optimizer whose state the checkpoint holds

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load their states, but keep the values of today's flags, which the Trainer would replace by the old ones."""
        if checkpoint is None or self.is_deepspeed_enabled:
            return super()._load_optimizer_and_scheduler(checkpoint)
        optimizer: Any = self.optimizer
        schedule: Any = self.lr_scheduler
        settings = [{name: group[name] for name in _SETTINGS if name in group} for group in optimizer.param_groups]
        rates = getattr(schedule, "base_lrs", None)
        if self._optimizer_done in (None, self._optimizer_kind):
            super()._load_optimizer_and_scheduler(checkpoint)
        else:
            logger.warning("--optim or --lr_scheduler_type has changed, so the optimizer starts without its old state")
        if not schedule.last_epoch:  # a checkpoint of --save_only_model has no states
            schedule.last_epoch = self.done.step
        for group, values in zip(optimizer.param_groups, settings, strict=True):
            group.update(values)
        if rates is not None:
            schedule.base_lrs = rates
        return self._set_learning_rates()

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
