"""The progress that a checkpoint records: the examples seen, the sizes of steps, and the sum of the losses.

To keep something more, add a field to `ProgressRecord`, and read it with `values.get`: older checkpoints lack it. In
training/trainer/resuming.py, `_write_checkpoint` makes the record, and `continue_from` takes it over. So must
`_continue_in_memory`, which reads no checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import TrainerState

from wordmask.config.run_arguments import RunArguments
from wordmask.data.plan import Piece, Progress, StepSize
from wordmask.training.records.file_names import PROGRESS, STATE
from wordmask.training.records.run_record import RunRecord
from wordmask.utils.files import read_json, write_json


@dataclass(frozen=True)
class StepSettings(StepSize):
    """The settings of a run that decide what is in a step.

    Attributes:
        workers: the value of --dataloader_num_workers.
        tokens: the value of --tokens_per_step, which counts instead of examples; 0 without.
    """

    workers: int = 0
    tokens: int = 0

    @property
    def content(self) -> tuple[int, str]:
        """How much is in a step, and what is counted."""
        return (self.tokens, "tokens") if self.tokens else (self.step_size, "examples")

    def instead_of(self, old: StepSettings) -> str:
        """What is in a step, and what was in one, for a sentence."""
        (count, unit), (old_count, old_unit) = self.content, old.content
        former = f"{old_count}" if unit == old_unit else f"{old_count} {old_unit}"
        return f"{count} {unit} in a step instead of {former}"

    def __str__(self) -> str:
        plural = "es" if self.processes > 1 else ""
        return (
            f"--per_device_train_batch_size {self.batch_size}, --gradient_accumulation_steps {self.accumulation} and "
            f"--dataloader_num_workers {self.workers} on {self.processes} process{plural}"
        )


@dataclass(frozen=True)
class ProgressRecord:
    """The record of a checkpoint.

    Attributes:
        progress: the steps done and the examples seen.
        settings: those of its last steps.
        sizes: the examples in a step of each stage.
        loss: the sum of the losses of all steps.
        optimizer: the classes of the optimizer and of the schedule, whose states are in the checkpoint.
        owes_evaluation: whether the evaluation after its last step is still to be made.
        order: the `--train_sampling_strategy` of its sequences; `None` if it is not known.
        learning_rate: the value of the flag, from which its learning rates follow; `None` if it is not known.
        best_by: by what its best step was chosen, such as `eval_loss, less`; `None` if by nothing that is known.
    """

    progress: Progress
    settings: StepSettings
    sizes: Sequence[int]
    loss: float
    optimizer: str | None = None
    owes_evaluation: bool = False
    order: str | None = None
    learning_rate: float | None = None
    best_by: str | None = None


def write_progress(checkpoint: str | Path, record: ProgressRecord) -> None:
    """Write a record. Call it before the Trainer writes its state, which makes the checkpoint complete."""
    progress = record.progress
    values = {
        "step": progress.step,
        "epoch": progress.epoch,
        "seen": [
            {"step_size": piece.size, "steps": piece.steps, "examples": piece.examples, "carried": piece.carried}
            for piece in progress.pieces
        ],
        "constant": progress.constant,
        "division": asdict(record.settings),
        "step_sizes": list(record.sizes),
        "loss": record.loss,
        "optimizer": record.optimizer,
        "owes_evaluation": record.owes_evaluation,
        "order": record.order,
        "learning_rate": record.learning_rate,
        "best_by": record.best_by,
    }
    write_json(Path(checkpoint) / PROGRESS, values)


def read_progress(checkpoint: str, default: StepSettings, run: RunRecord | None, examples: int) -> ProgressRecord:
    """Read the record of a checkpoint. Those of the plain `Trainer` have none: all their steps were as the flags say.

    Args:
        checkpoint: the directory.
        default: the settings of this run, for what is not known of such a checkpoint.
        run: the record of the run, if there is one.
        examples: the examples in an epoch; 0 for a stream.
    """
    path = Path(checkpoint, PROGRESS)
    if not path.exists():
        return _assumed(checkpoint, default, run, examples)
    values = read_json(path)
    pieces = tuple(
        Piece(piece["step_size"], piece["steps"], piece["examples"], piece["carried"]) for piece in values["seen"]
    )
    return ProgressRecord(
        Progress(values["step"], values["epoch"], pieces, values["constant"]),
        StepSettings(**values["division"]),
        values["step_sizes"],
        values["loss"],
        values["optimizer"],
        values["owes_evaluation"],
        values.get("order") or (run.order if run else None),
        values.get("learning_rate"),
        values.get("best_by"),
    )


def optimizer_in(checkpoint: str) -> str | None:
    """The class of the optimizer whose state is in a checkpoint; `None` if there is no record of it."""
    path = Path(checkpoint, PROGRESS)
    kinds = read_json(path)["optimizer"] if path.exists() else None
    return kinds and kinds.split(",")[0]


def read_state(checkpoint: str) -> TrainerState:
    """The Trainer's own state in a checkpoint."""
    return TrainerState.load_from_json(os.path.join(checkpoint, STATE))


def best_by(args: RunArguments) -> str | None:
    """By what the best step of a training is chosen, such as `eval_loss, less`; `None` if none is."""
    metric = args.metric_for_best_model
    return f"eval_{metric.removeprefix('eval_')}, {'more' if args.greater_is_better else 'less'}" if metric else None


def saved_step(args: RunArguments, state: TrainerState) -> int:
    """The step of the model after training: the last one, or that of the best checkpoint if it was loaded."""
    loads_best = args.load_best_model_at_end and state.best_model_checkpoint
    return (state.best_global_step if loads_best else None) or state.global_step


def _assumed(checkpoint: str, default: StepSettings, run: RunRecord | None, examples: int) -> ProgressRecord:
    state, given = read_state(checkpoint), run.arguments if run else {}
    settings = StepSettings(
        state.train_batch_size or default.batch_size,
        given.get("gradient_accumulation_steps", default.accumulation),
        run.processes if run else default.processes,
        given.get("dataloader_num_workers", default.workers),
    )
    if run is None and examples and state.epoch and state.global_step:
        # No flags are known, but the epochs done: 6 steps that show 0.4 of 120 examples have 8, in batches of 4 two.
        batches = round(state.epoch * examples / state.global_step / settings.batch_size) or 1
        if settings.step_size != batches * settings.batch_size:
            settings = replace(settings, accumulation=batches, processes=1)
    progress = Progress(state.global_step)
    if examples and state.global_step:
        epoch, steps = divmod(state.global_step - 1, -(-examples // settings.step_size))
        piece = Piece(settings.step_size, steps + 1, min((steps + 1) * settings.step_size, examples))
        progress = Progress(state.global_step, epoch, (piece,))
    return ProgressRecord(progress, settings, [settings.step_size], _logged_loss(state))


def _logged_loss(state: TrainerState) -> float:
    """The sum of the losses of all steps, from the log; steps after its last entry get the loss of that entry."""
    total, logged_step, mean = 0.0, 0.0, 0.0
    for entry in state.log_history:
        if "loss" in entry:
            mean = entry["loss"]
            total, logged_step = total + mean * (entry["step"] - logged_step), entry["step"]
    return total + mean * (state.global_step - logged_step)
