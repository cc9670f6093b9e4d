"""Rows of tokens, made from texts once for all runs, or while training."""

from __future__ import annotations

import bisect
import itertools
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from wordmask.arguments import DataArguments
from wordmask.collators import Example
from wordmask.errors import InputError, one_line
from wordmask.references import check_tokenizer, continuations, tokenizer_digest
from wordmask.sampling import Draw
from wordmask.segmentation import SegmentationArguments
from wordmask.segmenters import Segmenter
from wordmask.texts import Texts
from wordmask.tokens import special_affixes, tokenize
from wordmask.vocabulary import special_ids
from wordmask.words import segmented

logger = logging.getLogger(__name__)

STREAM_BATCH = 1000  # texts that are tokenized together while training


class _Places(Sequence[str]):
    """Where each line of a batch comes from, for an error message."""

    def __init__(self, batch: pa.Table, files: Sequence[str]):
        self.batch, self.files = batch, files

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, index: Any) -> Any:
        if "line" not in self.batch.column_names:
            return f"{index + 1} of its batch"
        file = self.files[self.batch["file"][index].as_py()] if "file" in self.batch.column_names else ""
        return f"{self.batch['line'][index].as_py()} of the text ({file})"


class Preparation:
    """Turns a batch of texts into tokens: the same for datasets in memory and for streams.

    Args:
        tokenizer: the tokenizer; one that is not fast knows no words, and then each token is one.
        texts: where the text and its references come from.
        separator: the token to put behind each text, if any.
        words: where words come from besides; `None` where a tokenizer that knows no words will do.
    """

    def __init__(self, tokenizer, texts: Texts, separator: int | None, words: SegmentationArguments | None):
        self.tokenizer, self.separator, self.words = tokenizer, separator, words
        self.mixed = any(provenance.mixed_words for provenance in texts.provenance.values())
        self.flag, self.where, self.files = texts.flag, texts.reference_flag, list(texts.references)
        self.prefix = len(special_affixes(tokenizer)[0])
        self.special_ids = special_ids(tokenizer)
        self.dtype = np.uint16 if len(tokenizer) <= 2**15 else np.uint32
        for path, provenance in texts.provenance.items():
            check_tokenizer(provenance, tokenizer, path, texts.reference_flag)

    def identity(self) -> list[Any]:
        """What the result depends on besides the text, for a cache's fingerprint."""
        digest = tokenizer_digest(self.tokenizer) if self.tokenizer.is_fast else self.tokenizer.name_or_path
        segmenter = self.segmenter.identity if self.segmenter else None
        mixed = self.words.mixed_words if self.words else self.mixed
        return ["wordmask.rows.Preparation:1", digest, self.prefix, self.separator, self.mixed, segmenter, mixed]

    @cached_property
    def segmenter(self) -> Segmenter | None:
        """The segmenter to run on the spot, if any."""
        return self.words.load() if self.words and self.words.segmenter else None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "segmenter"}  # each process loads its own

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Tokens, as `wordmask.collators.Example` has them, for a table of texts."""
        try:
            lines = [text or "" for text in batch["text"].to_pylist()]
        except UnicodeDecodeError as error:
            raise InputError(f"{self.flag}: {one_line(error)}; convert the file, for example with iconv") from None
        if self.tokenizer.is_fast or self.words:
            tokens = tokenize(self.tokenizer, lines)
            codes, lengths = tokens.ids << 1, tokens.lengths
            continues = tokens.continues
            if "chinese_ref" in batch.column_names:
                references = [reference or [] for reference in batch["chinese_ref"].to_pylist()]
                numbers = _Places(batch, self.files)
                continues = continues | continuations(
                    tokens, references, self.prefix, self.special_ids, self.mixed, self.where, numbers
                )
            if self.segmenter and self.words:
                words = self.segmenter.segment(lines)
                continues = continues | tokens.joined(segmented(tokens.characters, words, self.words.mixed_words))
            codes |= continues
        else:
            ids = self.tokenizer(lines, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            lengths = np.fromiter(map(len, ids), np.int64, len(ids))
            codes = np.fromiter((token for line in ids for token in line), np.int64, lengths.sum()) << 1
        if self.separator is not None:
            ends = np.cumsum(lengths)[lengths > 0]
            codes = np.insert(codes, ends, self.separator << 1)
            lengths = lengths + (lengths > 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.table({"tokens": pa.ListArray.from_arrays(offsets, codes.astype(self.dtype))})

    @property
    def features(self) -> datasets.Features:
        return datasets.Features({"tokens": datasets.List(datasets.Value(np.dtype(self.dtype).name))})


class TokenStream:
    """All tokens of a prepared dataset, one text behind the other, read where they lie on disk."""

    def __init__(self, dataset: datasets.Dataset):
        self.dataset = dataset

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset}  # what is cached is mapped anew in each worker

    @cached_property
    def _chunks(self) -> list[tuple[NDArray[np.int32], NDArray[np.integer]]]:
        chunks = self.dataset.data.table.column("tokens").chunks
        return [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in chunks]

    @cached_property
    def _edges(self) -> list[int]:
        """Where each chunk begins in the stream, and where the last one ends."""
        return np.cumsum([0, *(int(offsets[-1] - offsets[0]) for offsets, _ in self._chunks)]).tolist()

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(texts,) The number of tokens of each text."""
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(offsets) for offsets, _ in self._chunks)])

    def read(self, start: int, stop: int) -> NDArray[np.integer]:
        """The tokens from `start` to `stop`."""
        parts, chunk = [], bisect.bisect_right(self._edges, start) - 1
        while start < stop:
            offsets, values = self._chunks[chunk]
            shift = int(offsets[0]) - self._edges[chunk]
            end = min(stop, self._edges[chunk + 1])
            parts.append(values[start + shift : end + shift])
            start, chunk = end, chunk + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Rows(torch.utils.data.Dataset):
    """Rows of tokens: slices of a stream, without the special tokens around them.

    Args:
        stream: the tokens.
        starts, stops: (rows,) where each row lies in the stream.
    """

    def __init__(self, stream: TokenStream, starts: NDArray[np.int64], stops: NDArray[np.int64]):
        self.stream, self.starts, self.stops = stream, starts, stops

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) The number of tokens of each row."""
        return self.stops - self.starts

    def __getitem__(self, draw: Draw) -> Example:
        return Example(self.stream.read(int(self.starts[draw.index]), int(self.stops[draw.index])), *draw)


def prepare(
    texts: Texts,
    tokenizer,
    arguments: DataArguments,
    length: int,
    words: SegmentationArguments | None,
    limit: int | None,
) -> Rows:
    """Tokenize a text, on as many processes as asked for and once for all runs, and divide it into rows.

    Args:
        texts: the text.
        tokenizer: the tokenizer.
        arguments: how rows are made.
        length: the most tokens in a row, special ones included.
        words: where words come from besides; `None` where a tokenizer that knows no words will do.
        limit: the most rows, all if `None`.
    """
    prepared = Preparation(tokenizer, texts, _separator(tokenizer, arguments), words)
    dataset = texts.rows.with_format("arrow").map(
        prepared,
        batched=True,
        num_proc=_processes(arguments.preprocessing_num_workers, len(texts.rows)),
        remove_columns=texts.rows.column_names,
        features=prepared.features,
        load_from_cache_file=not arguments.overwrite_cache,
        new_fingerprint=datasets.fingerprint.Hasher.hash([texts.rows._fingerprint, prepared.identity()]),
        desc="Tokenizing",
    )
    stream, room = TokenStream(dataset), length - _special_count(tokenizer)
    if arguments.line_by_line:
        starts, stops = _lines(stream.lengths, room, arguments)
    else:
        starts, stops = _blocks(int(stream.lengths.sum()) - (prepared.separator is not None), room)
    if not len(starts):
        raise InputError(f"{texts.flag}: the tokenizer finds no token in this text; give text that it was made for")
    return Rows(stream, starts[:limit], stops[:limit])


def _special_count(tokenizer) -> int:
    """The number of special tokens around a row."""
    return sum(map(len, special_affixes(tokenizer)))


def _separator(tokenizer, arguments: DataArguments) -> int | None:
    """The token between two texts of a block."""
    if arguments.line_by_line:
        return None
    return tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id


def _processes(asked: int | None, rows: int) -> int | None:
    """As many processes as asked for, but none without a row."""
    return min(asked, rows) if asked and asked > 1 else None


def _lines(
    lengths: NDArray[np.int64], room: int, arguments: DataArguments
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the rows of a line-by-line dataset lie: empty lines left out, long ones cut or split."""
    stops = np.cumsum(lengths)
    starts = stops - lengths
    long = int((lengths > room).sum())
    if long:
        logger.warning(
            "%d of %d lines are longer than %d tokens and are %s (--long_lines %s)",
            long,
            len(lengths),
            room,
            "cut" if arguments.long_lines == "truncate" else "split",
            arguments.long_lines,
        )
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


class StreamedRows(torch.utils.data.IterableDataset):
    """Rows made while training, from a stream of texts, one pass after the other without end.

    Rows and masks are the same with any number of workers: a mask depends on the row's place in the stream, and on the
    pass instead of an epoch. Line by line, each worker tokenizes its share of the texts; blocks run on from text to
    text, so each worker tokenizes all and takes its share of the blocks.

    Args:
        texts: the text.
        tokenizer: the tokenizer.
        arguments: how rows are made.
        length: the most tokens in a row, special ones included.
        words: where words come from besides; `None` where a tokenizer that knows no words will do.
        rate: the masking rate.
    """

    def __init__(
        self,
        texts: Texts,
        tokenizer,
        arguments: DataArguments,
        length: int,
        words: SegmentationArguments | None,
        rate: float,
    ):
        limit = arguments.max_train_samples
        self.texts = texts.rows.take(limit) if limit else texts.rows
        self.preparation = Preparation(tokenizer, texts, _separator(tokenizer, arguments), words)
        self.room = length - _special_count(tokenizer)
        self.arguments, self.rate = arguments, rate

    def __iter__(self) -> Iterator[Example]:
        for epoch in itertools.count():
            some_row = False
            for example in self.one_pass(epoch):
                some_row = True
                yield example
            if not some_row:
                return

    def one_pass(self, epoch: int) -> Iterator[Example]:
        """This worker's rows of one pass through the stream."""
        worker = torch.utils.data.get_worker_info()
        workers, own = (worker.num_workers, worker.id) if worker else (1, 0)
        pieces = self._lines(workers, own) if self.arguments.line_by_line else self._blocks(workers, own)
        for place, piece in pieces:
            yield Example(piece, place, epoch, self.rate)

    def _lines(self, workers: int, own: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """The rows of one worker's texts, each with its place: the batch of its text, and its number there."""
        for number, batch in enumerate(self.texts.iter(batch_size=STREAM_BATCH)):
            if number % workers == own:
                offsets, values = self._tokenized(batch)
                spans = zip(*_lines(np.diff(offsets).astype(np.int64), self.room, self.arguments), strict=True)
                yield from ((number << 32 | place, values[start:stop]) for place, (start, stop) in enumerate(spans))

    def _blocks(self, workers: int, own: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """One worker's share of the blocks, each with its number."""
        rest, number = np.zeros(0, self.preparation.dtype), 0
        for batch in self.texts.iter(batch_size=STREAM_BATCH):
            rest = np.concatenate([rest, self._tokenized(batch)[1]])
            # The last token waits: a separator behind the last text is dropped.
            whole = max(len(rest) - 1, 0) // self.room
            for block in range(whole):
                if (number + block) % workers == own:
                    yield number + block, rest[block * self.room : (block + 1) * self.room]
            rest, number = rest[whole * self.room :], number + whole
        rest = rest[: len(rest) - (self.preparation.separator is not None)]
        if len(rest) and number % workers == own:
            yield number, rest

    def _tokenized(self, batch: dict[str, Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Where each text of a batch begins and ends in its tokens, and the tokens."""
        columns = {name: batch[name] for name in ("text", "chinese_ref", "line", "file") if name in batch}
        tokens = self.preparation(pa.table(columns))["tokens"].combine_chunks()
        return tokens.offsets.to_numpy(), tokens.values.to_numpy()
