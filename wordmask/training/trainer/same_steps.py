"""Where the place in a training cannot be found after a resume, since its steps were other ones: refused here."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from wordmask.config.run_arguments import RunArguments
from wordmask.data.plan import Plan
from wordmask.training.records.progress_record import ProgressRecord, StepSettings
from wordmask.training.records.run_record import RunRecord
from wordmask.utils.errors import InputError

logger = logging.getLogger(__name__)


def check_stream(old: StepSettings, new: StepSettings, checkpoint: str) -> None:
    """Raise an `InputError` if a stream is divided in another way."""

    def sizes(settings: StepSettings) -> tuple[int, ...]:
        workers = max(settings.workers, 1)
        return settings.step_size, settings.processes, workers, settings.batch_size if workers > 1 else 0

    if sizes(old) != sizes(new):
        raise InputError(
            f"--streaming: {checkpoint} was trained with {old}, and a stream continues only with the same; give these "
            "again, or --ignore_data_skip to read the stream from its beginning"
        )


def check_stages(
    record: ProgressRecord, sizes: Sequence[int], new: StepSettings, checkpoint: str, run: RunRecord | None
) -> None:
    """Raise an `InputError` if the last stages of a length schedule have not the steps that the record tells of.

    Args:
        record: that of the checkpoint.
        sizes: the examples in a step of each stage of this run.
        new: the settings of this run.
        checkpoint: for the sentence.
        run: the record of the checkpoint's run, if there is one.
    """
    if len(sizes) == 1 or [*sizes[-len(record.sizes) :]] == [*record.sizes]:
        return
    same = record.settings.step_size == new.step_size
    schedule = run.arguments.get("length_schedule") if run else None
    lengths = f"--length_schedule {schedule}" if schedule else "other lengths"
    raise InputError(
        f"--length_schedule: {checkpoint} was trained with {lengths if same else record.settings}, and a schedule "
        f"continues only {'with the same lengths' if same else 'in steps of the same size'}; give these again, or "
        "--overwrite_output_dir to start over"
    )


def check_loader(plan: Plan, of_checkpoint: Plan | None, trainer: object) -> None:
    """Raise an `InputError` if a subclass makes its own batches: a checkpoint does not say which it has seen.

    Args:
        plan: that of the training. Our `get_train_dataloader` has made it anew.
        of_checkpoint: the one that was made to find the place of a checkpoint, if there is one.
        trainer: for the sentence.
    """
    if plan is of_checkpoint:
        raise InputError(
            f"resume_from_checkpoint: {type(trainer).__name__} has a get_train_dataloader of its own, whose place in "
            "the data no checkpoint records; begin anew, or do without that method"
        )


def check_found(args: RunArguments, found: int, checkpoint: str, run: RunRecord | None) -> None:
    """Raise an `InputError` for another batch size than that of a checkpoint, with which the Trainer's search begins.

    Without a record, nobody knows whether an earlier search from this size has found that one, so we only warn.

    Args:
        args: those of this run, which searches a batch size.
        found: the batch size of the checkpoint.
        checkpoint: for the sentence.
        run: the record of its run, if there is one.
    """
    asked = args.per_device_train_batch_size
    old = run.arguments if run else {}
    was_found = old.get("auto_find_batch_size") and old.get("per_device_train_batch_size") == asked
    if found == asked or was_found:
        return
    sentence = (
        f"--auto_find_batch_size: {checkpoint} was trained with batches of {found}, and the search goes on from "
        f"there; drop the flag to train with --per_device_train_batch_size {asked}"
    )
    if run is None:
        logger.warning("%s", sentence)
    else:
        raise InputError(sentence)
