"""How much of what goes through the model is padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordmask.data.collator import round_up
from wordmask.data.plan import Draw
from wordmask.data.sequences import StreamedSequences
from wordmask.models.micro_batches import micro_batch_shapes
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.batches import divided

BATCHES = 100  # the first batches of training tell the share of padding


class Lengths:
    """How many tokens batches have, and at how many positions the model computes: padding counts there.

    Args:
        trainer: divides batches into micro-batches while it trains.
        lengths: (sequences,) the tokens of each sequence.
        longest: (sequences,) the most tokens that it could have.
        trains: whether these are batches of training, and not of an evaluation.
    """

    def __init__(
        self, trainer: MlmTrainer, lengths: NDArray[np.int64], longest: NDArray[np.int64], trains: bool = True
    ):
        self.fixed, self.pad_to_multiple_of = trainer.forward.fixed, getattr(trainer.collator, "pad_to_multiple_of", 1)
        self.flat = trains and trainer.forward.flat
        self.micro_batch_tokens = trainer.forward.micro_batch_tokens if trains else None
        self.lengths, self.longest = lengths, longest

    @classmethod
    def of_stages(cls, trainer: MlmTrainer, stages: Sequence[Any], trains: bool = True) -> Lengths:
        """Those of the sequences of stages; their draws are numbered one stage after the other."""
        lengths = np.concatenate([stage.lengths for stage in stages])
        longest = np.concatenate([np.full(len(stage.lengths), stage.length) for stage in stages])
        return cls(trainer, lengths, longest, trains)

    def of(self, batches: Sequence[Sequence[Draw]]) -> NDArray[np.int64]:
        """(2,) The tokens and the positions of some batches. What only fills a batch up counts as padding."""
        sums = np.zeros(2, np.int64)
        for batch in batches:
            indices = [draw.index for draw in batch]
            shown = [draw.index for draw in batch if draw.rate > 0]
            sums += int(self.lengths[shown].sum()), self.computed(indices)
        return sums

    def computed(self, indices: Any) -> int:
        """The positions of a batch of these sequences."""
        lengths, longest = self.lengths[indices], int(self.longest[indices[0]])
        if self.flat and not self.fixed:
            return round_up(int(lengths.sum()), self.pad_to_multiple_of)
        width = longest if self.fixed else min(longest, round_up(int(lengths.max()), self.pad_to_multiple_of))
        if not self.micro_batch_tokens:
            return len(lengths) * width
        shapes = micro_batch_shapes(-np.sort(-lengths), self.micro_batch_tokens, self.pad_to_multiple_of)
        return sum(size * min(padded, width) for size, padded in shapes)


def padding_share(trainer: MlmTrainer) -> float | None:
    """The share of padding in what goes through the model in the first batches; `None` if there is no batch."""
    sequences = trainer.train_sequences
    if sequences is None:
        return None
    if isinstance(sequences, StreamedSequences):
        size = trainer.args.train_batch_size
        first = sequences.first_lengths[: BATCHES * size]
        lengths = Lengths(trainer, first, np.full(len(first), sequences.length))
        tokens, positions = int(first.sum()), sum(map(lengths.computed, divided(range(len(first)), size)))
    else:
        lengths = Lengths.of_stages(trainer, sequences.stages)
        tokens, positions = lengths.of(list(islice(iter(trainer.plan or ()), BATCHES))).tolist()
    return 1 - tokens / positions if positions else None
