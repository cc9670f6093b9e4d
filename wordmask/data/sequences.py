"""Rows of tokens: lines, blocks of the joined text, or several lines packed into one."""

from __future__ import annotations

import bisect
import itertools
import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from wordmask.config.arguments import DataArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.collator import Example
from wordmask.data.findings import Findings, Found, left_out
from wordmask.data.packing import Packs, pack
from wordmask.data.sampler import Draw
from wordmask.data.sources import Stream, Texts
from wordmask.data.token_store import TokenStream
from wordmask.data.tokenize import Preparation, separator
from wordmask.tokenization.encoding import special_affixes
from wordmask.tokenization.words import Characters

logger = logging.getLogger(__name__)

STREAM_BATCH = 1000  # texts that are tokenized together while training


@dataclass(frozen=True)
class Division:
    """How a stream of tokens is divided into rows.

    Attributes:
        starts, stops: (lines,) where each line lies in the stream; a block counts as a line.
        packs: which lines share a row; each has its own if `None`.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    packs: Packs | None = None

    def __len__(self) -> int:
        return len(self.starts) if self.packs is None else len(self.packs)

    def documents(self, row: int) -> list[tuple[int, int]]:
        """Where each line of a row lies."""
        if self.packs is None:
            return [(int(self.starts[row]), int(self.stops[row]))]
        own = self.packs[row]
        return list(zip(self.starts[own].tolist(), self.stops[own].tolist(), strict=True))


def divide(
    lengths: NDArray[np.int64],
    separated: bool,
    specials: int,
    length: int,
    arguments: DataArguments,
    packed: bool,
    limit: int | None = None,
) -> Division:
    """Divide texts that lie one behind the other in a stream.

    Args:
        lengths: (texts,) the tokens of each text.
        separated: whether the last token of each text is a separator, of which the very last parts nothing.
        specials: the special tokens around a line.
        length: the most tokens in a row, special ones included.
        arguments: how rows are made.
        packed: whether lines share rows.
        limit: the most lines or blocks, all if `None`.
    """
    room, total = length - specials, int(lengths.sum()) - separated
    starts, stops = _lines(lengths, room, arguments) if arguments.line_by_line else _blocks(total, room)
    starts, stops = starts[:limit], stops[:limit]
    return Division(starts, stops, pack(stops - starts + specials, length) if packed else None)


def _lines(
    lengths: NDArray[np.int64], room: int, arguments: DataArguments
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where lines lie: empty ones left out, long ones cut or split."""
    stops = np.cumsum(lengths)
    starts = stops - lengths
    if arguments.long_lines == "split":
        parts = -(-lengths // room)
        part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
        starts, stops = np.repeat(starts, parts) + part * room, np.repeat(stops, parts)
    stops = np.minimum(stops, starts + room)
    return starts[stops > starts], stops[stops > starts]


def _blocks(total: int, room: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the blocks of a joined text lie; the last one is as short as it is."""
    starts = np.arange(0, total, room)
    return starts, np.minimum(starts + room, total)


def special_count(tokenizer) -> int:
    """The number of special tokens around a line."""
    return sum(map(len, special_affixes(tokenizer)))


class Sequences(torch.utils.data.Dataset):
    """Rows of tokens: slices of a stream, without the special tokens around them.

    Args:
        stream: the tokens.
        division: where each row lies in the stream.
        specials: the special tokens around a line.
        length: the most tokens in a row, special ones included.
    """

    def __init__(self, stream: TokenStream, division: Division, specials: int, length: int):
        self.stream, self.division, self.specials, self.length = stream, division, specials, length

    @classmethod
    def of(
        cls,
        stream: TokenStream,
        tokenizer,
        arguments: DataArguments,
        length: int,
        packed: bool = False,
        limit: int | None = None,
    ) -> Sequences:
        """The rows of a prepared text.

        Args:
            stream: the tokens of the text.
            tokenizer: the tokenizer that they are from.
            arguments: how rows are made.
            length: the most tokens in a row, special ones included.
            packed: whether lines share rows.
            limit: the most lines or blocks, all if `None`.
        """
        specials, lengths = special_count(tokenizer), stream.lengths
        long = int((lengths > length - specials).sum())
        if arguments.line_by_line and long:
            done = "cut" if arguments.long_lines == "truncate" else "split"
            template = "%d of %d lines are longer than %d tokens and are %s (--long_lines %s)"
            logger.warning(template, long, len(lengths), length - specials, done, arguments.long_lines)
        division = divide(lengths, stream.separated, specials, length, arguments, packed, limit)
        return cls(stream, division, specials, length)

    def __len__(self) -> int:
        return len(self.division)

    @property
    def documents(self) -> int:
        """The number of lines or blocks, which is that of rows where none share one."""
        return len(self.division.starts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) The number of tokens of each row, special ones included."""
        lengths, packs = self.division.stops - self.division.starts + self.specials, self.division.packs
        return lengths if packs is None else np.add.reduceat(lengths[packs.documents], packs.edges[:-1])

    def examples(self, draws: Sequence[Draw], first: int = 0) -> list[Example]:
        """The rows of a batch, where the first of these rows has this index."""
        division, read, length = self.division, self.stream.read, self.length
        rows = [draw.index - first for draw in draws]
        if division.packs is not None:
            lines = [[read(*span) for span in division.documents(row)] for row in rows]
        else:
            spans = zip(division.starts[rows].tolist(), division.stops[rows].tolist(), strict=True)
            lines = [[read(*span)] for span in spans]
        return [Example(own, *draw, length) for own, draw in zip(lines, draws, strict=True)]

    def __getitem__(self, draw: Draw) -> Example:
        return self.examples([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[Example]:
        """The rows of a batch, for which a `DataLoader` asks at once."""
        return self.examples(draws)


class StagedSequences(torch.utils.data.Dataset):
    """The rows of the stages of a training, those of one stage behind those of the other.

    Args:
        stages: the rows of each stage.
        shares: the share of the training's steps that each stage has.
    """

    def __init__(self, stages: Sequence[Sequences], shares: Sequence[float] = (1.0,)):
        self.stages, self.shares = stages, shares
        self.edges = np.cumsum([0, *map(len, stages)]).tolist()

    def __len__(self) -> int:
        return self.edges[-1]

    def __getitem__(self, draw: Draw) -> Example:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[Example]:
        """The rows of a batch, for which a `DataLoader` asks at once; they are of one stage."""
        stage = bisect.bisect_right(self.edges, draws[0].index) - 1
        return self.stages[stage].examples(draws, self.edges[stage])


class StreamedSequences(torch.utils.data.IterableDataset):
    """Rows made while training, from a stream of texts, one pass after the other without end.

    Rows and masks are the same with any number of processes and workers: texts are tokenized, divided and packed a
    thousand at a time, each worker takes its share of these batches, and a mask depends on the row's place (the file,
    the batch, and the row in it), and on the pass instead of an epoch. Where there are as many files as workers on all
    processes, each reads only its own.

    Args:
        texts: the text.
        tokenizer: the tokenizer.
        arguments: how rows are made.
        length: the most tokens in a row, special ones included.
        words: where words come from besides; `None` where a tokenizer that knows no words will do.
        rate: the masking rate.
        processes, process: the processes that train together, and which this is.
    """

    def __init__(
        self,
        texts: Texts[Stream],
        tokenizer,
        arguments: DataArguments,
        length: int,
        words: SegmentationArguments | None,
        rate: float,
        processes: int = 1,
        process: int = 0,
    ):
        limit = arguments.max_train_samples
        self.texts = texts.source.take(limit) if limit else texts.source
        self.files = self.texts.shards
        self.flags = texts.flag, texts.reference_flag
        self.warned = multiprocessing.Value("b", False)  # whether any of this machine's workers has warned
        self.preparation = Preparation(tokenizer, texts, separator(tokenizer, arguments.line_by_line), words)
        self.specials, self.length = special_count(tokenizer), length
        self.arguments, self.rate = arguments, rate
        self.processes, self.process = processes, process

    def __iter__(self) -> Iterator[Example]:
        without = 0
        for epoch in itertools.count():
            some_row = False
            for example in self.one_epoch(epoch):
                some_row = True
                yield example
            without = 0 if some_row else without + 1
            if without >= self._workers()[0]:  # in so many passes, every share was this worker's once
                return

    def one_epoch(self, epoch: int) -> Iterator[Example]:
        """This worker's rows of one pass through the stream."""
        for place, batch in self._own_batches(epoch):
            tokens, findings = self.preparation(batch)
            self._warn_once(left_out(findings, self.flags[1], ", as will be any like them in other texts"))
            offsets, values = tokens.offsets.to_numpy(), tokens.values.to_numpy()
            lengths, separated = np.diff(offsets).astype(np.int64), self.preparation.separator is not None
            packed = self.arguments.pack_sequences
            division = divide(lengths, separated, self.specials, self.length, self.arguments, packed)
            for row in range(len(division)):
                lines = [values[start:stop] for start, stop in division.documents(row)]
                yield Example(lines, place << 24 | row, epoch, self.rate, self.length)

    def found(self) -> Found:
        """What the first texts show of all, before there are workers; each of these would say it again."""
        batch = next(self.texts.tables(0, STREAM_BATCH), pa.table({"text": pa.array([], pa.string())}))
        words = self.preparation.words
        has_words = "chinese_ref" in batch.column_names or bool(words and words.segmenter)
        return Found(
            Findings.of(Characters([text or "" for text in batch["text"].to_pylist()]), has_words), *self.flags
        )

    def _warn_once(self, sentences: Sequence[str]) -> None:
        """Log sentences, unless a worker did before."""
        with self.warned.get_lock():
            for sentence in sentences if not self.warned.value else ():
                logger.warning(sentence)
                self.warned.value = True

    def _workers(self) -> tuple[int, int]:
        """The workers of all processes, and the number of this one."""
        worker = torch.utils.data.get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        return workers * self.processes, self.process * workers + number

    def _own_batches(self, epoch: int) -> Iterator[tuple[int, pa.Table]]:
        """The batches of texts that are this worker's in a pass, each with its place in the stream.

        Shares go round from pass to pass, so that none is left without where there are more workers than batches.
        """
        workers, own = self._workers()
        own, by_file = (own + epoch) % workers, self.files >= workers
        for file in range(self.files):
            if by_file and file % workers != own:
                continue
            for batch, table in enumerate(self.texts.tables(file, STREAM_BATCH)):
                if by_file or batch % workers == own:
                    yield file << 20 | batch, table
