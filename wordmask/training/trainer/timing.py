"""A Trainer that records the tokens and the time that its training takes."""

from __future__ import annotations

from typing import Any

import torch

from wordmask.training.records.speed_record import SpeedRecord, TokenCount
from wordmask.training.trainer.stopping import StoppableTrainer


class TimedTrainer(StoppableTrainer):
    """A `Trainer` that keeps a `SpeedRecord`, and writes it with each checkpoint and at the end.

    Attributes:
        tokens: counts the tokens of this process in this call of `train`.
        speed: the tokens and the time of the whole training.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.tokens, self.speed = TokenCount(), SpeedRecord()

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Make what a training needs, then begin the clock, but not again where smaller batches are tried."""
        prepared = super()._prepare_for_training(*args, **kwargs)
        if not self.tokens.earlier:
            self.speed.begin(self.state.global_step)
        return prepared

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and record the speed. The last log gets the tokens in a second of the last attempt."""
        if "eval_runtime" in logs:
            self.speed.evaluated(logs["eval_runtime"])
        if "loss" in logs or "train_loss" in logs:
            tokens = self._record_speed()
            if "train_loss" in logs:
                add_speed(logs, tokens - of_all(self, self.tokens.earlier), self.tokens.waited)
        super().log(logs, start_time)

    def _record_speed(self) -> int:
        """Record the tokens and the time up to this step. On several processes, all must call this.

        Returns:
            The tokens of all processes in this call of `train`.
        """
        total = of_all(self, self.tokens.total)
        self.speed.add(self.state.global_step, total)
        return total

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._record_speed()
        self._write_speed()
        super()._save_checkpoint(*args, **kwargs)

    def save_state(self) -> None:
        """Save the state of the trainer, and the speed of its training."""
        super().save_state()
        self._write_speed()

    def _write_speed(self) -> None:
        if self.args.should_save:
            self.speed.write(str(self.args.output_dir))


def of_all(trainer: TimedTrainer, tokens: torch.Tensor | int) -> int:
    """The sum over all processes."""
    return int(trainer.accelerator.reduce(torch.as_tensor(tokens, device=trainer.args.device), "sum"))


def add_speed(metrics: dict[str, float], tokens: int, waited: float) -> None:
    """Add the tokens in a second, and `train_data_share`: the share of the time that this process waited for batches.

    The metrics stay as they are without `train_runtime`.
    """
    if seconds := metrics.get("train_runtime"):
        metrics["train_data_share"] = round(waited / seconds, 4)
        metrics["train_tokens_per_second"] = round(tokens / seconds, 3)
