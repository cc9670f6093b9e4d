"""The tokens of a text: made once for all runs, kept on disk, and read where they lie."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import datasets
import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray

from wordmask.config.arguments import DataArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.findings import NOTHING, Found, TokenBatch, findings_in
from wordmask.data.sources import Source, Texts
from wordmask.data.tokenize import Preparation, separator
from wordmask.utils.cache import cache_directory, hashed
from wordmask.utils.errors import output_of_workers
from wordmask.utils.files import write_atomically
from wordmask.utils.progress import bar
from wordmask.utils.workers import parallel_map


class TokenStream:
    """All tokens of a prepared dataset, one text behind the other, read where they lie on disk.

    Args:
        dataset: the tokens of each text.
        separated: whether a separator stands behind each text.
        found: what there is to be said of the text.
    """

    def __init__(self, dataset: datasets.Dataset, separated: bool = False, found: Found = NOTHING):
        self.dataset, self.separated, self.found = dataset, separated, found

    def __getstate__(self) -> dict[str, Any]:
        kept = "dataset", "separated", "found"
        return {name: getattr(self, name) for name in kept}  # what is cached is mapped anew in each worker

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
        if len(self._chunks) == 1:
            offsets, values = self._chunks[0]
            return values[start + int(offsets[0]) : stop + int(offsets[0])]
        parts, chunk = [], bisect.bisect_right(self._edges, start) - 1
        while start < stop:
            offsets, values = self._chunks[chunk]
            shift = int(offsets[0]) - self._edges[chunk]
            end = min(stop, self._edges[chunk + 1])
            parts.append(values[start + shift : end + shift])
            start, chunk = end, chunk + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def tokenized(
    texts: Texts[Source],
    tokenizer,
    arguments: DataArguments,
    words: SegmentationArguments | None,
    cache_dir: str | None = None,
) -> TokenStream:
    """Tokenize a text, on as many processes as asked for and once for all runs.

    Args:
        texts: the text.
        tokenizer: the tokenizer.
        arguments: how rows will be made.
        words: where words come from besides; `None` where a tokenizer that knows no words will do.
        cache_dir: where the tokens are kept.

    Raises:
        InputError: where they cannot be kept there, or a worker dies.
    """
    prepared = Preparation(tokenizer, texts, separator(tokenizer, arguments.line_by_line), words)
    path = cache_directory(cache_dir) / f"tokens-{hashed(texts.fingerprint, prepared.identity())}.arrow"
    with output_of_workers("--cache_dir", path.parent, "--preprocessing_num_workers", "run again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # of runs that start together, one tokenizes
            if arguments.overwrite_cache or not path.exists():
                _write(path, texts, prepared, arguments.preprocessing_num_workers or 1)
    found = Found(findings_in(path), texts.flag, texts.reference_flag)
    return TokenStream(datasets.Dataset.from_file(str(path)), prepared.separator is not None, found)


def _write(path: Path, texts: Texts[Source], prepared: Preparation, workers: int) -> None:
    """Tokenize texts into a file."""
    with (
        bar("Tokenizing", " texts", len(texts.source)) as progress,
        write_atomically(path, binary=True) as file,
        parallel_map(prepared, workers) as tokenize,
    ):
        write_tokens(file, token_schema(prepared.dtype), tokenize(texts.batches()), progress.update)


def token_schema(dtype: Any) -> pa.Schema:
    """The schema of a file of tokens, as `datasets` has it, for integers of this type of numpy."""
    return datasets.Features({"tokens": datasets.List(datasets.Value(np.dtype(dtype).name))}).arrow_schema


def write_tokens(
    file: IO[bytes], schema: pa.Schema, batches: Iterable[TokenBatch], advance: Callable[[int], Any]
) -> None:
    """Write tokens as `TokenStream` reads them; `advance` is told of the texts that are done."""
    with pa.ipc.new_stream(file, schema) as stream:
        for batch in batches:
            batch.write(stream)
            advance(len(batch.tokens))
