"""The data report of a run: the padding in its batches is added, then it is shown and kept."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from wordmask.data.collator import MaskingCollator, round_up
from wordmask.data.data_report import FILE, DataReport
from wordmask.data.sequences import StreamedSequences
from wordmask.models.micro_batches import FIXED_COST, cheapest_sizes
from wordmask.training.records.run_record import read_run
from wordmask.training.trainer import MlmTrainer
from wordmask.utils.arrays import IntArray
from wordmask.utils.files import write_json

BATCHES = 100  # the first batches of training tell the share of padding


def report_data(report: DataReport, trainer: MlmTrainer) -> None:
    """Show the report, and write it to the output directory. An evaluation leaves the report of a training there."""
    args = trainer.args
    if args.do_train:
        report = report.with_padding(padding_share(trainer))
    report.show()
    run = read_run(str(args.output_dir))
    if report.splits and trainer.is_world_process_zero() and (args.do_train or run is None or not run.trains):
        write_json(Path(str(args.output_dir), FILE), report.to_json())


def padding_share(trainer: MlmTrainer) -> float | None:
    """The share of padding in what goes through the model in the first batches; `None` if there is no batch."""
    tokens = positions = 0
    for lengths, longest in islice(_batches(trainer), BATCHES):
        tokens += int(lengths.sum())
        positions += _positions(lengths, longest, trainer)
    return 1 - tokens / positions if positions else None


def _batches(trainer: MlmTrainer) -> Iterator[tuple[IntArray, int]]:
    """For each batch of this process, the lengths of its sequences, and the length of the longest possible one."""
    sequences, size = trainer.train_sequences, trainer.args.train_batch_size
    if isinstance(sequences, StreamedSequences):
        for start in range(0, len(sequences.first_lengths), size):
            yield sequences.first_lengths[start : start + size], sequences.length
    elif sequences is not None:
        lengths_of_stages = [stage.lengths for stage in sequences.stages]
        for draws in trainer.plan or ():
            indices = np.array([draw.index for draw in draws])
            stage = bisect.bisect_right(sequences.bounds, indices[0]) - 1
            yield lengths_of_stages[stage][indices - sequences.bounds[stage]], sequences.stages[stage].length


def _positions(lengths: IntArray, longest: int, trainer: MlmTrainer) -> int:
    """The positions of a batch, padding included, as the collator and the micro-batches make them."""
    collator, most = trainer.collator, trainer.forward.micro_batch_tokens
    if isinstance(collator, MaskingCollator) and collator.fixed:
        return len(lengths) * longest
    if trainer.forward.flat:
        return round_up(int(lengths.sum()), collator.multiple_of)
    widths = np.array(
        [min(longest, round_up(length, collator.multiple_of)) for length in sorted(lengths.tolist())[::-1]]
    )
    if not most:
        return len(widths) * int(widths[0])
    sizes = np.array(cheapest_sizes(widths, most, int(most * FIXED_COST)))
    # Micro-batches of 2 and 3 sequences begin at 0 and 2. Each is as wide as its first sequence.
    return int((sizes * widths[np.cumsum(sizes) - sizes]).sum())
