"""What a training will take, computed without a step: tokens, padding, evaluations, checkpoints, room on the disk."""

from __future__ import annotations

import copy
import io
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.trainer_callback import DefaultFlowCallback, TrainerControl
from transformers.trainer_utils import SaveStrategy

from wordmask.config.optimizer_checks import MUON
from wordmask.data.plan import Draw
from wordmask.data.sequences import StagedSequences
from wordmask.training.padding import Lengths
from wordmask.training.records.manifest import checkpoints_in
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.errors import InputError
from wordmask.utils.quantities import counted, plain, size

EXACT, STRETCHES = 2000, 20  # batches that are all counted; of more, so many, in stretches over the whole training
SMALL_FILES = 16_000  # bytes of a checkpoint's random state and schedule
LOG = 200  # bytes of a log in a checkpoint
RECORDS = 3_000  # bytes of its record of progress and its manifest
PAGES = 80_000  # bytes of the report, the model card and the records of a run


def steps_from(trainer: MlmTrainer, step: int) -> Iterator[list[list[Draw]]]:
    """The batches of this process in each step of the training, from one on and over the ends of epochs."""
    assert trainer.plan is not None
    plan = trainer.plan.after(step)
    for epoch in itertools.count(plan.first_epoch):
        plan.set_epoch(epoch)
        batches = iter(plan)
        for _ in range(plan.steps_left(epoch)):
            yield list(itertools.islice(batches, trainer.args.gradient_accumulation_steps))


def tokens_and_positions(trainer: MlmTrainer, sequences: StagedSequences, steps: range) -> tuple[NDArray[Any], bool]:
    """(2,) The tokens and the positions of these steps over all processes, and whether each step was counted."""
    lengths, sums, count = Lengths.of_stages(trainer, sequences.stages), np.zeros(2, np.int64), 0
    most = max(EXACT // trainer.args.gradient_accumulation_steps, STRETCHES)
    exact = len(steps) <= most
    stretch = len(steps) if exact else most // STRETCHES
    for start in np.linspace(steps.start, steps.stop - stretch, 1 if exact else STRETCHES).astype(int).tolist():
        for batches in itertools.islice(steps_from(trainer, start), stretch):
            sums, count = sums + lengths.of(batches), count + 1
    over_all = trainer.accelerator.reduce(torch.tensor(sums, device=trainer.args.device), "sum").cpu().numpy()
    return over_all * (len(steps) / max(count, 1)), exact


class Stops(NamedTuple):
    """How often a training evaluates, logs, and saves a checkpoint."""

    evaluations: int
    logs: int
    saved: int


def stops_of(trainer: MlmTrainer, steps: range) -> Stops:
    """How often it does in these steps, by the Trainer's own rules."""
    args, plan, flow = trainer.args, trainer.plan, DefaultFlowCallback()
    control, state = TrainerControl(), copy.copy(trainer.state)
    counts = (plan.steps_left(epoch) for epoch in range(plan.first_epoch, plan.planned_epochs)) if plan else ()
    ends = {steps.stop, *itertools.accumulate(counts, initial=steps.start)}
    evaluated, saved, logs = list[int](), set[int](), 0
    if args.eval_on_start and not steps.start:
        evaluated.append(0)
    for step in range(steps.start + 1, steps.stop + 1):
        state.global_step, state.epoch = step, plan.epochs_at(step) if plan and step in ends else 0.0
        for happens in (flow.on_step_end, flow.on_epoch_end) if step in ends else (flow.on_step_end,):
            control.should_evaluate = control.should_save = control.should_log = False
            happens(args, state, control)
            if control.should_evaluate:
                evaluated.append(step)
            logs += control.should_log
            is_saved = control.should_save
            if args.save_strategy == SaveStrategy.BEST:  # each evaluation may be the best, and the last step is saved
                is_saved |= control.should_evaluate or step == steps.stop
            if is_saved:
                saved.add(step)
    if args.do_eval and (steps.stop not in evaluated or args.load_best_model_at_end):
        evaluated.append(steps.stop)  # at the end
    return Stops(len(evaluated), logs, len(saved))


class _Counter(io.RawIOBase):
    """A file that only counts its bytes."""

    size = 0

    def write(self, content: Any) -> int:
        """Count some bytes."""
        self.size += memoryview(content).nbytes
        return memoryview(content).nbytes


def saved_size(content: Any) -> int:
    """The bytes of what `torch.save` would write."""
    counter = _Counter()
    torch.save(content, counter)  # type: ignore[arg-type]  # it only writes
    return counter.size


def model_size(model: Any, tokenizer: Any, args: Any) -> int:
    """The bytes of a saved model with its tokenizer. Tied weights are saved once."""
    weights = {weight.data_ptr(): (weight, name) for name, weight in model.state_dict().items()}
    header = 80  # bytes for a name, a type and a shape in JSON
    total = sum(weight.numel() * weight.element_size() + len(name) + header for weight, name in weights.values())
    with TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        model.config.save_pretrained(directory)
        return total + saved_size(args) + sum(file.stat().st_size for file in Path(directory).iterdir())


def checkpoint_size(trainer: MlmTrainer, model: int, logs: int) -> int:
    """The bytes of a checkpoint, after a step has made the optimizer's state; `model` is the size of the model."""
    args, optimizer = trainer.args, trainer.optimizer
    model += RECORDS + LOG * (logs + 5)
    if args.save_only_model or optimizer is None:
        return model
    parts = args.world_size if args.fsdp or args.deepspeed else 1
    return model + saved_size(optimizer.state_dict()) * parts + SMALL_FILES


def expected_checkpoint_size(trainer: MlmTrainer, model: int, logs: int) -> int:
    """The bytes of a checkpoint before any step: at least, since the optimizer's state is known after one."""
    moments = {"adamw_torch": 2, "adamw_torch_fused": 2, MUON: 1}.get(plain(trainer.args.optim), 0)
    weights: Any = [] if trainer.model is None or trainer.args.save_only_model else trainer.model.parameters()
    state = sum(weight.numel() * weight.element_size() for weight in weights if weight.requires_grad)
    return model + moments * state + LOG * logs


def check_room(trainer: MlmTrainer) -> None:
    """Raise an `InputError` if the checkpoints and the model of a training have no room on the disk."""
    steps = range(trainer.done.step, trainer.planned_steps)
    trainer.state.max_steps = steps.stop
    trainer.state.compute_steps(trainer.args, steps.stop)
    stops = stops_of(trainer, steps)
    model = model_size(trainer.model, trainer.processing_class, trainer.args)
    checkpoint = expected_checkpoint_size(trainer, model, stops.logs + stops.evaluations)
    room_on_disk(trainer, checkpoint, model, stops.saved)


def room_on_disk(trainer: MlmTrainer, checkpoint: int, model: int, saved: int) -> tuple[int, int, int]:
    """The checkpoints that a run leaves, the most bytes that it adds at one moment, and the bytes that are free.

    An old checkpoint is removed only after a new one is written.

    Args:
        trainer: the trainer.
        checkpoint, model: their sizes in bytes.
        saved: how often it saves a checkpoint.

    Raises:
        InputError: if there is less room than this.
    """
    args, directory = trainer.args, Path(str(trainer.args.output_dir)).absolute()
    present = len(checkpoints_in(directory)) if trainer.done.step else 0
    limit, count = args.save_total_limit or 0, present + saved
    least = 2 if args.load_best_model_at_end or args.metric_for_best_model else 1  # the best one stays, too
    kept, most = (min(count, max(limit, least) + one) if limit > 0 else count for one in (0, 1))
    needed = max((most - present) * checkpoint, (kept - present) * checkpoint + model + PAGES)
    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if 0 < free < needed:  # some file systems cannot tell, and say 0
        fewer = "--save_only_model, " if kept > 0 else ""
        if kept > 1:
            fewer = f"--save_total_limit 1, {fewer}"
        raise InputError(
            f"--output_dir: {counted(kept, 'checkpoint')} of {size(checkpoint)} and the model need {size(needed)} "
            f"there, and {size(free)} are free; give {fewer}--save_strategy no, or another directory"
        )
    return kept, needed, free
