"""`--dry_run`: everything but training. It shows a plan, and writes nothing.

The plan: steps, tokens, padding, time, memory, room on the disk, and what the flags were resolved to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from wordmask.config.arguments import Arguments
from wordmask.data.sequences import StagedSequences
from wordmask.training.dry_run.forecast import (
    PAGES,
    checkpoint_size,
    model_size,
    room_on_disk,
    stops_of,
    tokens_and_positions,
)
from wordmask.training.dry_run.rehearsal import Rehearsal
from wordmask.training.header import show_header
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.memory import available_memory, peak_memory
from wordmask.utils.quantities import counted, duration, number, percent, plain, short, size
from wordmask.utils.terminal import Fact, Message, terminal

DISK = 500e6  # bytes a second that a disk is assumed to write
# The flags whose values the plan shows. Precision and the size of a step are in the header.
_FLAGS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "tokens_per_step", "tokens_per_pass"),
    *("train_sampling_strategy",),
    *("max_seq_length", "per_device_eval_batch_size", "eval_on_start", "eval_strategy", "eval_steps"),
    *("logging_steps", "save_strategy", "save_steps", "save_total_limit", "seed"),
)


def _each(seconds: float) -> str:
    return f"{number(seconds, 2)} s" if seconds < 9.95 else duration(seconds)


class DryRun:
    """The plan of a run.

    Args:
        arguments: of the run.
        trainer: has read the checkpoint, if there is one.
        described: what it trains, see `describe_run`.
    """

    def __init__(self, arguments: Arguments, trainer: MlmTrainer, described: Mapping[str, str]):
        self.arguments, self.args, self.trainer, self.described = arguments, arguments.training, trainer, described
        self.rehearsal = Rehearsal(arguments, trainer, trainer.model)
        self.facts: list[Fact] = []
        self.figures: dict[str, float] = {}

    def run(self, checkpoint: str | None, change: str) -> dict[str, float]:
        """Try and time, show the plan, and return its figures: counts, shares, seconds and bytes.

        Args:
            checkpoint, change: where it would continue, and what is different since then, see `tasks.train`.
        """
        trainer, shown = self.trainer, terminal()
        trainer.callback_handler.callbacks, trainer.history = [], None  # these show and write
        if self.args.do_train and not trainer.is_finished():
            trainer.stand_in = self._rehearse  # `train` sets the model up as the flags say, and then calls this
            trainer.train(resume_from_checkpoint=checkpoint)
        elif self.args.do_eval:
            self._tell_time([], evaluations=1)
        self._tell_memory()
        self._tell_flags()
        if checkpoint:
            shown.show(Message(f"would go on from {checkpoint}{change}"))
        show_header(self.described, trainer, shown)
        for fact in self.facts:
            shown.show(fact)
        shown.show(Message(f"dry run: nothing was trained, and nothing was written to {self.args.output_dir}"))
        return {name: float(value) for name, value in self.figures.items()}

    def _rehearse(self, batch_size: int, args: Any, checkpoint: str | None) -> None:
        """Stand in for the Trainer's loop: try the largest step, time others, and compute the rest."""
        trainer, sequences = self.trainer, self.trainer.train_sequences
        self.facts.clear()
        trainer.accelerator.free_memory()
        trainer._train_batch_size = batch_size  # --auto_find_batch_size calls this with smaller and smaller ones
        model_bytes = model_size(trainer.model, trainer.processing_class, args)
        loader = trainer.get_train_dataloader()
        epochs, in_epoch, *_, planned = trainer.set_initial_training_values(args, loader)
        trainer._init_training_state(planned, in_epoch, epochs, checkpoint, None)
        model, _ = trainer._prepare_for_training(planned, loader, checkpoint)
        self.rehearsal = Rehearsal(self.arguments, trainer, model)
        terminal().doing("trying the largest step")
        self.rehearsal.find_fit()
        steps = range(trainer.done.step, planned)
        terminal().doing("timing some steps")
        seconds, timed = self.rehearsal.time_steps(steps)
        expected = sum(seconds) / len(seconds) * len(steps)
        if isinstance(sequences, StagedSequences):
            (tokens, positions), exact = tokens_and_positions(trainer, sequences, steps)
            expected = sum(seconds) / timed * positions / args.world_size  # since steps differ in size
            about, padding = "" if exact else "about ", 1 - tokens / positions
            self._tell("tokens", f"{about}{short(tokens)} to train on, without padding", tokens=tokens)
            self._tell("padding", f"{about}{percent(padding)} of what the model computes", padding=padding)
        else:
            self._tell("tokens", "unknown, and so are padding and epochs: a stream is known only when it is read")
        stops = stops_of(trainer, steps)
        self._tell_disk(model_bytes, stops.saved, stops.logs + stops.evaluations)
        each = f"{counted(len(steps), 'step')} of {_each(expected / len(steps))} ({len(seconds)} were timed)"
        self.figures["steps"] = len(steps)
        self._tell_time([(expected, each)], stops.evaluations, stops.saved)

    def _tell(self, label: str, text: str, **figures: float) -> None:
        self.facts.append(Fact(label, text))
        self.figures |= figures

    def _tell_time(self, parts: list[tuple[float, str]], evaluations: int, checkpoints: int = 0) -> None:
        """Tell the time of what is timed already, and of evaluations and checkpoints."""
        if evaluations:
            terminal().doing("timing an evaluation")
            seconds = self.rehearsal.time_evaluation()
            parts.append((evaluations * seconds, f"{counted(evaluations, 'evaluation')} of {_each(seconds)}"))
            if self.trainer.probe:
                first, seconds = self.rehearsal.time_probe()
                parts.append(
                    (first + (evaluations - 1) * seconds, f"{counted(evaluations, 'probe')} of {_each(seconds)}")
                )
        if checkpoints:
            seconds = self.figures["checkpoint_bytes"] / DISK
            each = f"{counted(checkpoints, 'checkpoint')} of {_each(seconds)}, at {size(DISK)} a second"
            parts.append((checkpoints * seconds, each))
        total = sum(seconds for seconds, _ in parts)
        self._tell("time", f"about {duration(total)}: {', '.join(text for _, text in parts)}", seconds=total)

    def _tell_disk(self, model: int, saved: int, logs: int) -> None:
        """Tell the room on the disk that the run needs, or raise an `InputError` if there is less."""
        checkpoint = checkpoint_size(self.trainer, model, logs)
        kept, needed, free = room_on_disk(self.trainer, checkpoint, model, saved)
        text = f"{size(model)} for the model; at most {size(needed)} more than now, and {size(free)} are free"
        if kept > 0:
            text = f"{counted(kept, 'checkpoint')} of {size(checkpoint)} and {text}"
        self._tell("disk", text, final_bytes=kept * checkpoint + model + PAGES, checkpoint_bytes=checkpoint)

    def _tell_memory(self) -> None:
        device, peak = self.args.device, peak_memory()
        workers = ""
        if self.args.dataloader_num_workers > 0:
            workers = f", {size(self.rehearsal.workers_memory)} in those that load batches"
        text = f"about {size(peak)} in this process{workers}, and {size(available_memory())} more are free"
        if device.type == "cuda":
            peak, whole = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
            text = f"about {size(peak)} of {size(whole)} on the GPU"
        self._tell("memory", text, peak_memory=peak)

    def _tell_flags(self) -> None:
        """Tell what the flags were resolved to, by the user, by this suite or by the Trainer."""
        trainer, args = self.trainer, self.args
        values = {name: getattr(args, name, None) for name in _FLAGS} | {"max_seq_length": self.rehearsal.longest}
        if args.do_train:
            values["tokens_per_pass"] = trainer.forward.micro_batch_tokens or 0
            values["warmup_steps"] = args.get_warmup_steps(trainer.planned_steps)
        given = [f"--{name} {plain(value)}" for name, value in values.items() if value is not None]
        self._tell("flags", ", ".join(given))
