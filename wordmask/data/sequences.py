"""Sequences, which are what the model sees: a line, a block of joined text, or several of these packed together.

A sequence has one or more *documents*. A document is a line, a part of a long line, or a block: a slice of the stream
of all tokens, without special tokens.
"""

from __future__ import annotations

import bisect
import copy
import itertools
import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.advice import left_out
from wordmask.data.collator import Example
from wordmask.data.corpora import MOST, Corpus
from wordmask.data.division import Division, divide, joined, long_lines
from wordmask.data.findings import SplitFindings, SplitText, total
from wordmask.data.plan import Draw
from wordmask.data.sources import Stream, Texts
from wordmask.data.text_counts import REPORTED
from wordmask.data.token_store import StoredTokens, Tokenization
from wordmask.data.tokenized_dataset import TokenizedDataset
from wordmask.tokenization.backend import Tokenizer
from wordmask.tokenization.special_tokens import special_affixes
from wordmask.utils.errors import InputError

logger = logging.getLogger(__name__)

STREAM_BATCH = 1000  # texts that are tokenized together while training
FIRST_TEXTS = 2000  # of a stream, for the data report


def count_special_tokens(tokenizer: Tokenizer) -> int:
    """The number of special tokens around a document."""
    return sum(map(len, special_affixes(tokenizer)))


def no_tokens(flag: str, where: str = "this text") -> InputError:
    """The error for a text that has no token."""
    return InputError(f"{flag}: the tokenizer finds no token in {where}; give text that it was made for")


class Sequences(torch.utils.data.Dataset):
    """The sequences of a tokenized text.

    Args:
        stream: the tokens.
        tokenization: how they were made.
        length: the largest number of tokens of a sequence, with special tokens.
        packed: whether documents share sequences.
        limit: the largest number of documents, of each corpus; all if `None`.
        corpora: the parts of the text, none of which shares a sequence with another one. Without any, it is one.

    Attributes:
        bounds: the index of the first sequence of each corpus, and the number of all sequences.
    """

    def __init__(
        self,
        stream: StoredTokens,
        tokenization: Tokenization,
        length: int,
        packed: bool = False,
        limit: int | None = None,
        corpora: Sequence[Corpus] = (),
    ):
        arguments, special_count = tokenization.arguments, count_special_tokens(tokenization.tokenizer)
        room, lengths = length - special_count, stream.lengths
        self.long_lines, self.corpora = long_lines(lengths, room, arguments), list(corpora)
        texts = np.cumsum([0, *(corpus.texts for corpus in corpora or [Corpus("", len(lengths))])]).tolist()
        options = stream.separated, special_count, length, arguments, packed, limit
        of_corpora = [lengths[start:stop] for start, stop in itertools.pairwise(texts)]
        parts = [divide(one, *options) for one in of_corpora]
        offsets = [*itertools.accumulate((int(one.sum()) for one in of_corpora), initial=0)][:-1]
        self.division, self.bounds = joined(parts, offsets), np.cumsum([0, *map(len, parts)]).tolist()
        self.stream, self.special_count, self.length = stream, special_count, length

    def __len__(self) -> int:
        return len(self.division)

    @property
    def evaluated_apart(self) -> list[str]:
        """The names of the corpora whose losses are shown; none if there is one alone, or more than `MOST`."""
        return [corpus.name for corpus in self.corpora] if 1 < len(self.corpora) <= MOST else []

    @property
    def text(self) -> SplitText:
        """What the data report needs."""
        texts, sequences = self.stream.lengths, self.division.lengths(0)
        return SplitText(self.stream.findings, len(texts), self.long_lines, int(texts.sum()), sequences)

    @property
    def document_count(self) -> int:
        """The number of documents. Without packing, it is the number of sequences."""
        return len(self.division.starts)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(sequences,) The number of tokens of each sequence, with special tokens."""
        return self.division.lengths(self.special_count)

    def subset(self, indices: NDArray[np.int64]) -> Sequences:
        """Some of these sequences, without their corpora. They must not be packed."""
        part = copy.copy(self)
        part.corpora, part.bounds = [], [0, len(indices)]
        part.division = Division(self.division.starts[indices], self.division.sizes[indices])
        return part

    def __getitem__(self, draw: Draw) -> Example:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw], offset: int = 0) -> list[Example]:
        """The sequences of a batch, for a `DataLoader`. The first sequence of this dataset has the index `offset`."""
        read, spans_of_all = self.stream.read, self.division.documents([draw.index - offset for draw in draws])
        return [
            Example([read(*span) for span in spans], *draw, self.length)
            for spans, draw in zip(spans_of_all, draws, strict=True)
        ]


class StagedSequences(torch.utils.data.Dataset):
    """The sequences of all stages of a training, one stage after the other.

    Args:
        stages: the sequences of each stage.
        shares: the share of the training's steps that each stage has.
        weights: the share of the sequences of an epoch that each corpus has; without any, each sequence comes once.
    """

    def __init__(
        self,
        stages: Sequence[Sequences | TokenizedDataset],
        shares: Sequence[float] = (1.0,),
        weights: Sequence[float] = (),
    ):
        self.stages, self.shares, self.weights = stages, shares, weights
        self.bounds = np.cumsum([0, *map(len, stages)]).tolist()  # stages of 5 and 3 sequences have bounds 0 5 8

    def __len__(self) -> int:
        return self.bounds[-1]

    def __getitem__(self, draw: Draw) -> Any:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> Sequence[Any]:
        """The sequences of a batch, which belong to one stage. A `DataLoader` calls this."""
        stage = bisect.bisect_right(self.bounds, draws[0].index) - 1
        return self.stages[stage].__getitems__(draws, self.bounds[stage])


class StreamedSequences(torch.utils.data.IterableDataset):
    """Sequences that are made while training, from a stream of texts, one epoch after the other without end.

    Sequences and masks do not depend on the number of processes and workers. Texts are tokenized, divided and packed a
    thousand at a time, and each worker takes its share of these batches. A mask depends on the epoch and on the place
    of the sequence: its file, its batch, and its number in the batch. If the files can be dealt to the workers of all
    processes in even shares, each worker reads only its own files.

    Args:
        texts: the texts.
        tokenization: how they are tokenized.
        length: the largest number of tokens of a sequence, with special tokens.
        rates: the masking rate, which does not depend on the length of the training.
        processes: the number of processes that train together.
        process: the number of this process, from 0.
    """

    def __init__(
        self,
        texts: Texts[Stream],
        tokenization: Tokenization,
        length: int,
        rates: RateSchedule,
        processes: int = 1,
        process: int = 0,
    ):
        self.arguments, self.tokenizer = tokenization.arguments, tokenization.of(texts)
        limit = self.arguments.max_train_samples
        self.source = texts.source.take(limit) if limit else texts.source
        self.shard_sizes = self.source.shard_sizes
        self.flags = texts.flag, texts.reference_flag
        self.warned = multiprocessing.Value("b", False)  # whether a worker of this machine has warned
        self.special_count, self.length, self.rates = count_special_tokens(tokenization.tokenizer), length, rates
        self.processes, self.process = processes, process
        self.first_lengths = np.zeros(0, np.int64)  # of the first sequences, for the data report

    def __iter__(self) -> Iterator[Example]:
        empty_epochs = 0
        for epoch in itertools.count():
            is_empty = True
            for example in self.one_epoch(epoch):
                is_empty = False
                yield example
            empty_epochs = empty_epochs + 1 if is_empty else 0
            if empty_epochs >= self._workers()[0]:  # this worker had each share once, and none had a sequence
                return

    def one_epoch(self, epoch: int) -> Iterator[Example]:
        """This worker's sequences of one epoch."""
        for place, table in self._own_batches(epoch):
            tokens, findings = self.tokenizer(table)
            self._warn_once(left_out(findings, self.flags[1], ", and so will be those in other texts"))
            values, division = tokens.values.to_numpy(), self._divide(tokens)
            # Sequence 5 of batch 2 of file 1 is ((1 << 20 | 2) << 24) + 5. A batch ends after 4 million characters and
            # one text, so it has fewer than 2**24 sequences, unless that text has more tokens.
            identities = place << 24 | np.arange(len(division))
            rates = self.rates.at(np.zeros(len(division)), epoch, identities)
            of_each = zip(division.documents(range(len(division))), identities.tolist(), rates.tolist(), strict=True)
            for spans, identity, rate in of_each:
                documents = [values[start:stop] for start, stop in spans]
                yield Example(documents, identity, epoch, rate, self.length)

    def first_text(self) -> SplitText:
        """What the first texts say, before workers start. They are tokenized once more than needed.

        The segmenter is loaded for this alone: only a worker may keep one.
        """
        tokenizer, batches, count = copy.copy(self.tokenizer), [], 0
        shards = (self.source.tables(shard, STREAM_BATCH) for shard in range(len(self.shard_sizes)))
        for table in itertools.chain.from_iterable(shards):
            batches.append(tokenizer(table.append_column(REPORTED, pa.array(np.ones(len(table), bool)))))
            if (count := count + len(table)) >= FIRST_TEXTS:
                break
        lengths = np.concatenate([np.zeros(0, np.int64), *(batch.tokens.value_lengths() for batch in batches)])
        divisions = (self._divide(batch.tokens) for batch in batches)
        self.first_lengths = np.concatenate(
            [np.zeros(0, np.int64), *(division.lengths(self.special_count) for division in divisions)]
        )
        lines = long_lines(lengths, self.length - self.special_count, self.arguments)
        found = SplitFindings(total(batch.findings for batch in batches), *self.flags, tokenizer.words_from)
        self.warned.value = found.findings.left_out > 0  # the report says so
        return SplitText(found, None, lines, int(lengths.sum()))

    def _divide(self, tokens: pa.ListArray) -> Division:
        """The sequences of a batch of texts."""
        lengths, separated = tokens.value_lengths().to_numpy().astype(np.int64), self.tokenizer.separator is not None
        packed = self.arguments.pack_sequences
        return divide(lengths, separated, self.special_count, self.length, self.arguments, packed)

    def _warn_once(self, sentences: Sequence[str]) -> None:
        """Log sentences, unless another worker has done so."""
        with self.warned.get_lock():
            for sentence in sentences if not self.warned.value else ():
                logger.warning(sentence)
                self.warned.value = True

    def _workers(self) -> tuple[int, int]:
        """The number of workers of all processes, and the number of this one."""
        worker = torch.utils.data.get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        return workers * self.processes, self.process * workers + number

    def _own_batches(self, epoch: int) -> Iterator[tuple[int, pa.Table]]:
        """This worker's batches of texts in an epoch, each with its place in the stream.

        Batch 2 of file 1 has the place 1 << 20 | 2, and no other batch has it: 2**20 batches of a file are a thousand
        million texts. Places stay below 2**39 for half a million files, so that an index of 64 bits has 24 more bits
        for the sequence. Beyond these bounds, two sequences may have the same random numbers, and nothing else.

        Shares rotate from epoch to epoch. So every worker gets texts, even if there are more workers than batches.
        """
        workers, worker = self._workers()
        share, shards = (worker + epoch) % workers, even_shares(self.shard_sizes, workers)
        number = 0  # of the batch in all files
        for shard in range(len(self.shard_sizes)) if shards is None else shards[share]:
            for batch, table in enumerate(self.source.tables(shard, STREAM_BATCH)):
                if shards is not None or number % workers == share:
                    yield shard << 20 | batch, table
                number += 1


def even_shares(sizes: Sequence[int], workers: int) -> list[list[int]] | None:
    """Deal shards to workers, the largest first, each to the worker that has least.

    With uneven shares, a worker would begin the next epoch, and read what another one has not come to yet.

        >>> even_shares([5, 3, 3, 1], 2)
        [[0, 3], [1, 2]]

    Returns:
        The shards of each worker, in order; `None` if one has over a tenth more than another.
    """
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for shard in sorted(range(len(sizes)), key=lambda shard: -sizes[shard]):
        worker = loads.index(min(loads))
        shares[worker].append(shard)
        loads[worker] += sizes[shard]
    is_even = min(loads) > 0 and max(loads) <= 1.1 * min(loads)
    return [sorted(share) for share in shares] if is_even else None
