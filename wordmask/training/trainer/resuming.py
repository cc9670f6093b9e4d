"""A Trainer that resumes exactly: from a checkpoint, or with smaller batches after one ran out of memory."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from wordmask.data.plan import Plan, Progress, examples_in
from wordmask.data.sequences import StagedSequences, StreamedSequences
from wordmask.training.memory_errors import smaller_batches_tried
from wordmask.training.records.output_dir import check_checkpoint, last_checkpoint
from wordmask.training.records.progress_record import (
    ProgressRecord,
    StepSettings,
    best_by,
    read_progress,
    read_state,
    write_progress,
)
from wordmask.training.records.run_record import RunRecord
from wordmask.training.records.speed_record import read_speed
from wordmask.training.trainer.optimizer_resuming import OptimizerResumingTrainer
from wordmask.training.trainer.same_steps import check_found, check_loader, check_stages, check_stream
from wordmask.utils.errors import InputError, naming_parameters
from wordmask.utils.library_warnings import errors_only
from wordmask.utils.terminal import terminal
from wordmask.utils.workers import loader_workers

logger = logging.getLogger(__name__)


class ResumableTrainer(OptimizerResumingTrainer):
    """A `Trainer` that counts the examples of an epoch instead of its steps.

    transformers finds its place in the training by the number of steps. That is wrong if the size of a step changes:
    with another batch size, accumulation or number of processes, or with --auto_find_batch_size. Here a checkpoint
    records the examples that its epoch has seen, and the epoch continues with the others. With the same step size, all
    is as in transformers. A work-around; no thread known. It can go when the Trainer resumes by examples.

    Attributes:
        train_sequences: the sequences to train on.
        plan: this process's batches of the whole training, see `make_plan`; `None` for a stream.
        keeps_order: whether a resume goes on in the order of its checkpoint, since nobody has asked for another one.
        stand_in: what `train` calls instead of training, with the size of a batch, the arguments and the checkpoint.
    """

    train_sequences: StagedSequences | StreamedSequences | None
    plan: Plan | None = None
    keeps_order = False
    stand_in: Callable[[int, Any, str | None], None] | None = None
    _first_plan: Plan | None = None  # that of the checkpoint
    _loss_done = 0.0  # the sum of the losses of the steps that are done
    _best_done_by: str | None = None  # by what the best step of the checkpoint was chosen
    _loss_at_step = 0.0  # the part of it from steps since the last log
    _random_state: str | None = None  # a checkpoint whose random state is to be restored after the first batch
    _continued_from: str | None = None  # the checkpoint whose progress the next call of `train` begins with
    _attempts = 0
    _continued_in_memory = False  # whether it continues in memory, with smaller batches

    def batches(self, sequences: StagedSequences) -> Plan:
        """This process's batches of the whole training, from the progress so far on."""
        raise NotImplementedError

    def make_plan(self) -> None:
        """Plan the training from the progress so far and the size of a batch. If either changes, call it again."""
        sequences = self.train_sequences
        self.plan = self.batches(sequences) if isinstance(sequences, StagedSequences) else None

    @property
    def step_settings(self) -> StepSettings:
        """The settings that decide what is in a step."""
        args = self.args
        workers = args.dataloader_num_workers
        tokens = args.tokens_per_step or 0
        return StepSettings(self._train_batch_size, args.gradient_accumulation_steps, args.world_size, workers, tokens)

    @property
    def _sizes(self) -> list[int]:
        return [stage.layout.step_size for stage in self.plan.stages] if self.plan else [self.step_settings.step_size]

    # Where to continue

    def continue_from(self, checkpoint: str, run: RunRecord | None = None) -> str:
        """Take over the progress of a checkpoint.

        Args:
            checkpoint: the directory.
            run: the record of its run, if there is one.

        Returns:
            What is different from before the checkpoint, as the end of a sentence.

        Raises:
            InputError: if it is of another model, or if the size of a step has changed and the place in the training
                cannot be found.
        """
        self.check_fits(checkpoint)
        self._continued_from = checkpoint
        if self.args.auto_find_batch_size:
            self._train_batch_size = read_state(checkpoint).train_batch_size or self._train_batch_size
        sequences = self.train_sequences
        examples = len(sequences.stages[-1]) if isinstance(sequences, StagedSequences) else 0
        record = read_progress(checkpoint, self.step_settings, run, examples)
        self.speed.moments = read_speed(Path(checkpoint).parent)
        self.done, self._loss_done, self._optimizer_done = record.progress, record.loss, record.optimizer
        self._rate_done, self._best_done_by = record.learning_rate, record.best_by
        self.owes_evaluation = record.owes_evaluation and self.eval_dataset is not None
        if self.keeps_order and record.order:
            self.args.train_sampling_strategy = record.order
        if not isinstance(sequences, StagedSequences):
            self._check_stream(record.settings, checkpoint)
            self._check_found(checkpoint, run)
            return ""
        if self.args.ignore_data_skip:
            logger.warning("--ignore_data_skip is for streams; without a stream, nothing is read again")
        self.make_plan()
        self._first_plan = self.plan
        check_stages(record, self._sizes, self.step_settings, checkpoint, run)
        self._check_found(checkpoint, run)
        return self._change(record)

    def _check_stream(self, old: StepSettings, checkpoint: str) -> None:
        """Raise an `InputError` if the place in a stream cannot be found, and say what finding it takes."""
        if self.args.ignore_data_skip:
            logger.warning("--ignore_data_skip: the stream is read from its beginning again")
            return
        if not self.is_finished():
            check_stream(old, self.step_settings, checkpoint)
        if self.args.max_steps > self.done.step:
            logger.warning(
                "--streaming: the text of all steps that are done is read and tokenized again; a run with "
                "--prepared_dir instead goes on at once"
            )

    def _check_found(self, checkpoint: str, run: RunRecord | None) -> None:
        if self.args.auto_find_batch_size and not self.is_finished():
            check_found(self.args, self._train_batch_size, checkpoint, run)

    def _change(self, record: ProgressRecord) -> str:
        """What another step size changes, as the end of a sentence."""
        plan, new, old = self.plan, self.step_settings, record.settings
        batch_size = f", with batches of {self._train_batch_size}, as --auto_find_batch_size found them"
        batch_size = batch_size if self.args.auto_find_batch_size else ""
        if plan is None or new.content == old.content:
            return batch_size
        left = plan.stages[-1].sequence_count - examples_in(plan.shown)
        return (
            f"{batch_size}, with {new.instead_of(old)}: {left} examples of epoch {plan.first_epoch + 1} are "
            f"left, and the run ends with step {plan.planned_steps}"
        )

    @property
    def planned_steps(self) -> int:
        """The number of optimizer steps of the whole training. Call `make_plan` first."""
        return self.plan.planned_steps if self.plan else self.args.max_steps

    def is_finished(self) -> bool:
        """Whether the whole training is done."""
        return 0 < self.done.step >= self.planned_steps

    # The Trainer's loop

    def train(
        self, resume_from_checkpoint: str | os.PathLike[str] | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train, as the Trainer does; `True` resumes from the last whole checkpoint in the output directory.

        Raises:
            InputError: if there is no such checkpoint, if the one that is given cannot be used, or if all weights
                are frozen.
        """
        model: Any = self.model  # the Trainer lets it be `None`
        if not any(weights.requires_grad for weights in model.parameters()):
            raise InputError("model: all of its weights are frozen; set requires_grad of those that training changes")
        self._attempts, self._continued_in_memory, self._random_state = 0, False, None
        self.tokens.reset()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise InputError(
                    f"resume_from_checkpoint: {self.args.output_dir} holds no whole checkpoint; drop it to begin anew"
                )
        elif resume_from_checkpoint and os.fspath(resume_from_checkpoint) != self._continued_from:
            with naming_parameters():
                check_checkpoint(os.fspath(resume_from_checkpoint))
        if isinstance(resume_from_checkpoint, str | os.PathLike):
            resume_from_checkpoint = os.fspath(resume_from_checkpoint)
            if resume_from_checkpoint != self._continued_from:
                self.continue_from(resume_from_checkpoint)
        else:
            self.done, self._loss_done, self.owes_evaluation = Progress(), 0.0, False
            self._optimizer_done = self._best_done_by = None
        self._continued_from = None
        with contextlib.closing(terminal()):
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def _inner_training_loop(  # accelerate's search for a batch size counts its parameters
        self,
        batch_size: int | None = None,
        args: Any = None,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train with batches of this size; if larger ones did some steps, continue after those."""
        with smaller_batches_tried(self.args):
            if self.stand_in is not None:
                return self.stand_in(batch_size or self._train_batch_size, args, resume_from_checkpoint)
            self._begin_attempt(batch_size)
            checkpoint = None if self._continued_in_memory else resume_from_checkpoint
            return super()._inner_training_loop(batch_size, args, checkpoint, trial, ignore_keys_for_eval)

    def _begin_attempt(self, batch_size: int | None) -> None:
        self._attempts += 1
        step, old = self.state.global_step, self._train_batch_size
        if self._attempts > 1:
            found = "--auto_find_batch_size: batches of %d run out of memory after step %d, trying %d"
            logger.warning(found, old, step, batch_size)
            if step > self.done.step:
                self._continue_in_memory(old)
        self.tokens.begin_attempt()

    def _continue_in_memory(self, batch_size: int) -> None:
        """Take over the steps with larger batches: model, optimizer and schedule are those of the last step."""
        if self.plan is None or len(self.plan.stages) > 1:
            flag = "--streaming" if self.plan is None else "--length_schedule"
            raise InputError(
                f"--auto_find_batch_size: batches of {batch_size} run out of memory after step "
                f"{self.state.global_step}, and {flag} continues only in steps of the same size; give a smaller "
                "--per_device_train_batch_size"
            )
        self._continued_in_memory, self.done = True, self.plan.progress(self.state.global_step)
        logged = self._globalstep_last_logged == self.state.global_step
        self._loss_done = self._total_loss_scalar + (0.0 if logged else float(self._loss_at_step))

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple:
        """The Trainer's numbers of epochs, steps and sequences, which count steps of other sizes, too."""
        epochs, steps, examples, samples, size, batches, planned = super().set_initial_training_values(
            args, dataloader
        )
        if self.plan is not None:
            check_loader(self.plan, self._first_plan, self)
            epochs, steps, planned = self.plan.planned_epochs, self.plan.steps_in_epoch, self.plan.planned_steps
            batches = steps * args.gradient_accumulation_steps
            if len(self.plan.stages) == 1:
                samples = round(self.plan.epochs_at(planned) * self.plan.stages[0].sequence_count)
        return epochs, steps, examples, samples, size, batches, planned

    def _init_training_state(
        self, max_steps: int, steps: int, epochs: int, checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        """The state and the epoch to continue from; the plan leaves out the steps of the epoch that are done."""
        if self._continued_in_memory:
            epoch_and_steps = self.plan.first_epoch if self.plan else 0, 0
            self.state.init_training_references(self, max_steps, epochs, trial)
        else:
            with errors_only(transformers.utils.logging):  # changed settings are logged already
                epoch_and_steps = super()._init_training_state(max_steps, steps, epochs, checkpoint, trial)
        self.state.train_batch_size = self._train_batch_size
        self.state.compute_steps(self.args, max_steps)
        if 0 < self.state.global_step >= max_steps:
            return epochs, 0  # all is done but the end of the training
        return (self.plan.first_epoch, 0) if self.plan else epoch_and_steps

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Wrap the model, make optimizer and schedule, and set them to the step to continue from."""
        old_schedule: Any = self.lr_scheduler if self._continued_in_memory else None
        prepared = super()._prepare_for_training(*args, **kwargs)
        if old_schedule is not None:
            schedule: Any = self.lr_scheduler
            schedule.load_state_dict(old_schedule.state_dict())
            self._set_learning_rates()
        return prepared

    def _run_epoch(self, **settings: Any) -> None:  # type: ignore[override]  # the Trainer names them all
        """Run the rest of an epoch."""
        epoch, checkpoint, plan = settings["epoch"], settings["resume_from_checkpoint"], self.plan
        if epoch == settings["epochs_trained"]:
            self._total_loss_scalar = self._loss_done
        if plan is not None:
            steps = plan.steps_left(epoch)
            settings |= {
                "num_update_steps_per_epoch": steps,
                "steps_in_epoch": steps * self.args.gradient_accumulation_steps,
            }
            if epoch == plan.first_epoch and plan.begins_within_epoch:
                self._random_state, settings["resume_from_checkpoint"] = checkpoint, None
        super()._run_epoch(**settings)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of a step.

        A resume within an epoch restores the random state here, since the loader draws from it before the first batch.
        """
        begin = time.monotonic()
        with loader_workers(self.args.dataloader_num_workers):
            batches = super().get_batch_samples(*args, **kwargs)
        self.tokens.waited += time.monotonic() - begin
        if self._random_state:
            self._load_rng_state(self._random_state)
            self._random_state = None
        return batches

    def _maybe_log_save_evaluate(self, tr_loss: Any, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save, with the share of examples seen as the epoch."""
        if self.plan is not None:
            self.state.epoch = self.plan.epochs_at(self.state.global_step)
        if self.args.auto_find_batch_size:
            self._loss_at_step = tr_loss.clone()
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    # Saving and logging

    def _write_checkpoint(self, path: Path, model: Any, trial: Any) -> None:
        """Write a checkpoint with its progress."""
        step = self.state.global_step
        loss = self._total_loss_scalar + float(self.accelerator.reduce(self._tr_loss.clone(), "mean"))
        progress = self.plan.progress(step) if self.plan else Progress(step)
        if self.args.should_save:
            flags = self.args.train_sampling_strategy, self.args.learning_rate
            chosen_by = best_by(self.args) or self._best_done_by  # a run without a metric keeps the best step
            more = self._optimizer_kind, self.owes_evaluation, *flags, chosen_by
            write_progress(path, ProgressRecord(progress, self.step_settings, self._sizes, loss, *more))
        super()._write_checkpoint(path, model, trial)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log. The loss of a training is the mean over all its steps, also those before a resume."""
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Finish, with the loss since the last log averaged over processes.

        A work-around; no thread known. It can go when the Trainer averages this loss as it does at each log.
        """
        self._tr_loss = self.accelerator.reduce(self._tr_loss, "mean")
        if self.state.global_step == self._initial_global_step:  # no step in this call
            self._total_loss_scalar = self._loss_done
        output = super()._finalize_training(*args, **kwargs)
        return output._replace(training_loss=output.metrics["train_loss"])
