"""A Trainer that ends after the step in which a signal came, such as Ctrl-C, with a checkpoint to go on from."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from wordmask.training.records.manifest import checkpoints_in
from wordmask.training.trainer.finite import FiniteTrainer
from wordmask.utils.signals import Interrupted, received


class EvaluationStopped(Exception):
    """Raised to leave an evaluation within training."""


class StopRequest:
    """The signal that has asked any process of a launch to stop. All processes learn of it in the same step.

    Args:
        accelerator: of the launch.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._sent: tuple[torch.Tensor, Any] | None = None

    def agreed(self) -> int:
        """The number of the signal, 0 without one. All processes must call this.

        On a GPU, it tells what the processes knew at the last call, since it would have to wait for this one.
        """
        mine = received() or 0
        if self.accelerator.num_processes == 1:
            return mine
        device = self.accelerator.device
        found = self.accelerator.gather(torch.full((1,), mine, dtype=torch.int32, device=device)).max()
        if device.type == "cpu":
            return int(found)
        copied = None
        if torch.accelerator.is_available():
            found = found.to("cpu", non_blocking=True)
            copied = torch.accelerator.current_stream().record_event()
        sent, self._sent = self._sent, (found, copied)
        if sent is None:
            return 0
        number, copied = sent
        if copied is not None:
            copied.synchronize()
        return int(number)


class StoppableTrainer(FiniteTrainer):
    """A `Trainer` that finishes its step, saves a checkpoint and raises `Interrupted`, once a signal asks it to.

    An evaluation that is due after that step would take too long. The checkpoint says that it is owed, and a run that
    goes on from there begins with it. So do checkpoints at the end of an epoch, before its evaluation.
    """

    stop_request: StopRequest
    owes_evaluation = False  # whether the checkpoint to continue from, or to save, lacks an evaluation
    _stopped_by = 0  # the signal
    _step_called = _saved_step = _last_of_epoch = -1

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stop_request = StopRequest(self.accelerator)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train.

        Raises:
            Interrupted: after a signal, when a checkpoint is saved.
        """
        self._stopped_by, self._step_called, self._saved_step = 0, -1, -1
        return super().train(*args, **kwargs)

    def leave_evaluation(self) -> None:
        """Leave an evaluation within training if the processes are asked to stop. All processes must call this.

        Raises:
            EvaluationStopped: then.
            Interrupted: instead, if no step is done that would be lost.
        """
        if self.is_in_train and (number := self.stop_request.agreed()):
            if self.state.global_step == self._initial_global_step:
                raise Interrupted(number)
            self._stopped_by = number
            raise EvaluationStopped

    def _run_epoch(self, **settings: Any) -> None:  # type: ignore[override]  # the Trainer names them all
        """Run the rest of an epoch, after the evaluation that was owed at its beginning."""
        if settings["epoch"] == settings["epochs_trained"]:
            names = ("model", "trial", "epoch", "ignore_keys_for_eval", "start_time")
            self._evaluate_owed(*(settings[name] for name in names))
        self._last_of_epoch = min(self.state.global_step + self._steps_left(**settings), self.state.max_steps)
        super()._run_epoch(**settings)

    def _steps_left(self, **settings: Any) -> int:
        """The steps of an epoch that the Trainer does not skip."""
        done = 0
        continues = settings["epoch"] == settings["epochs_trained"] and settings["resume_from_checkpoint"] is not None
        if continues and not self.args.ignore_data_skip:
            done = settings["steps_trained_in_current_epoch"] // self.args.gradient_accumulation_steps
        return settings["num_update_steps_per_epoch"] - done

    def _evaluate_owed(self, *settings: Any) -> None:
        """Make the evaluation that a checkpoint lacks."""
        if self.owes_evaluation:
            self.control.should_evaluate = True
            super()._maybe_log_save_evaluate(self._tr_loss, None, *settings)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate in training."""
        metrics = super()._evaluate(*args, **kwargs)
        self.owes_evaluation = False
        return metrics

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *others: Any, **more: Any
    ) -> None:
        """Log, evaluate and save after a step, and again at the end of an epoch; stop if a signal asks for it."""
        step, control = self.state.global_step, self.control
        if self._stopped_by:  # within an epoch: what its end brings is not due yet
            control.should_log = control.should_evaluate = control.should_save = False
            return
        last_of_epoch = step != self._step_called and step == self._last_of_epoch
        self._step_called = step
        self._look_for_signal(last_of_epoch)
        works = control.should_evaluate or control.should_save
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *others, **more)
        except EvaluationStopped:
            self.owes_evaluation = True
        else:
            if works and not (last_of_epoch or self._stopped_by):
                self._stopped_by = self.stop_request.agreed()
        if self._stopped_by:
            self._end_training(model, trial)

    def _look_for_signal(self, last_of_epoch: bool) -> None:
        """Before what is due after a step: if a signal asks to stop, save, and leave the evaluation to a resume."""
        control = self.control
        if last_of_epoch:  # it stops at the end of the epoch, whose evaluation comes after this step's checkpoint
            if self.args.eval_strategy == IntervalStrategy.EPOCH:
                self.owes_evaluation = self.args.eval_delay <= (self.state.epoch or 0)
            return
        self._stopped_by = self.stop_request.agreed()
        if self._stopped_by:
            self.owes_evaluation = control.should_evaluate or self.owes_evaluation
            control.should_evaluate, control.should_save = False, True

    def _end_training(self, model: Any, trial: Any) -> None:
        """Let the training end, with a checkpoint of this step."""
        self.control.should_training_stop, self.control.should_evaluate = True, False
        self._save_last(model, trial)

    def _save_last(self, model: Any, trial: Any) -> None:
        """Save a checkpoint of the last step, unless there is one."""
        if self._saved_step != self.state.global_step:
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint, once for each step."""
        if self._saved_step != self.state.global_step:
            super()._save_checkpoint(*args, **kwargs)
            self._saved_step = self.state.global_step

    def _newest_lags(self) -> bool:
        """Whether the newest checkpoint does not say that all is done: the best one, or that of an earlier signal."""
        if self.args.save_strategy == SaveStrategy.NO and self._initial_global_step:
            return bool(checkpoints_in(str(self.args.output_dir)))
        return self.args.save_strategy == SaveStrategy.BEST

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        """Finish, or raise `Interrupted` if the training was stopped: there are no results then."""
        if not self._stopped_by:
            if self.state.global_step == self._initial_global_step:  # it was stopped after the last step
                self._evaluate_owed(self.model_wrapped, trial, self.state.epoch, None, start_time)
            elif self._newest_lags():
                self._save_last(self.model_wrapped, trial)
            return super()._finalize_training(trial, num_train_samples, start_time)
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self._finish_current_push()
        self.is_in_train = False
        self.accelerator.wait_for_everyone()  # a launcher ends the others when one leaves
        raise Interrupted(self._stopped_by)
