"""The tokens of a text: made once for all runs, kept on disk, and read from there."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
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
from wordmask.data.tokenize import TextTokenizer
from wordmask.utils.cache import cache_directory, hashed
from wordmask.utils.errors import output_of_workers
from wordmask.utils.files import write_atomically
from wordmask.utils.progress import tracked
from wordmask.utils.workers import parallel_map


@dataclass(frozen=True)
class Tokenization:
    """How a run turns texts into tokens. It is made once; every split is tokenized by it.

    Attributes:
        tokenizer: the tokenizer.
        arguments: how sequences are made.
        words: what gives words besides the tokenizer; `None` if none are needed.
        cache_dir: the user's directory for the tokens; `None` for that of `datasets`.
    """

    tokenizer: Any
    arguments: DataArguments
    words: SegmentationArguments | None = None
    cache_dir: str | None = None

    @property
    def separator(self) -> int | None:
        """The token behind each text where texts are joined into blocks; `None` where each line stays apart."""
        if self.arguments.line_by_line:
            return None
        separator = self.tokenizer.sep_token_id
        return self.tokenizer.eos_token_id if separator is None else separator

    def of(self, texts: Texts[Any]) -> TextTokenizer:
        """What tokenizes these texts."""
        return TextTokenizer(self.tokenizer, texts, self.separator, self.words)


class StoredTokens:
    """All tokens of a text, one document behind the other, read from disk.

    Args:
        dataset: the tokens of each document.
        separated: whether a separator stands behind each document.
        found: what there is to say about the text.
    """

    def __init__(self, dataset: datasets.Dataset, separated: bool = False, found: Found = NOTHING):
        self.dataset, self.separated, self.found = dataset, separated, found

    def __getstate__(self) -> dict[str, Any]:
        kept = "dataset", "separated", "found"
        return {name: getattr(self, name) for name in kept}  # each worker maps the file anew

    @cached_property
    def _chunks(self) -> list[tuple[NDArray[np.int32], NDArray[np.integer]]]:
        """For each chunk of the file: where its documents begin and end (documents + 1,), and its tokens."""
        chunks = self.dataset.data.table.column("tokens").chunks
        return [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in chunks]

    @cached_property
    def _edges(self) -> list[int]:
        """Where each chunk begins in the stream, and where the last one ends."""
        return np.cumsum([0, *(int(offsets[-1] - offsets[0]) for offsets, _ in self._chunks)]).tolist()

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(documents,) The number of tokens of each document."""
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(offsets) for offsets, _ in self._chunks)])

    def read(self, start: int, stop: int) -> NDArray[np.integer]:
        """(stop - start,) The tokens from `start` to `stop`."""
        if len(self._chunks) == 1:
            offsets, values = self._chunks[0]
            return values[start + int(offsets[0]) : stop + int(offsets[0])]
        # With edges 0 5 9, the tokens from 3 to 7 are 3 and 4 of the first chunk, 0 and 1 of the second.
        pieces, chunk = [], bisect.bisect_right(self._edges, start) - 1
        while start < stop:
            offsets, values = self._chunks[chunk]
            shift = int(offsets[0]) - self._edges[chunk]
            end = min(stop, self._edges[chunk + 1])
            pieces.append(values[start + shift : end + shift])
            start, chunk = end, chunk + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def tokenized(texts: Texts[Source], tokenization: Tokenization) -> StoredTokens:
    """Tokenize a text, once for all runs.

    Raises:
        InputError: if the tokens cannot be kept in the cache, or a worker dies.
    """
    tokenizer, arguments = tokenization.of(texts), tokenization.arguments
    key = hashed(texts.fingerprint, tokenizer.identity())
    path = cache_directory(tokenization.cache_dir) / f"tokens-{key}.arrow"
    with output_of_workers("--cache_dir", path.parent, "--preprocessing_num_workers", "run again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # of runs that start together, one tokenizes
            if arguments.overwrite_cache or not path.exists():
                _write(path, texts, tokenizer, arguments.preprocessing_num_workers or 1)
    found = Found(findings_in(path), texts.flag, texts.reference_flag)
    return StoredTokens(datasets.Dataset.from_file(str(path)), tokenization.separator is not None, found)


def _write(path: Path, texts: Texts[Source], tokenizer: TextTokenizer, workers: int) -> None:
    """Tokenize texts into a file."""
    tables = tracked(texts.batches(), "tokenizing", "texts", len(texts.source))
    with write_atomically(path, binary=True) as file, parallel_map(tokenizer, workers) as tokenize:
        write_tokens(file, tokenize(tables), token_schema(tokenizer.dtype))


def token_schema(dtype: Any) -> pa.Schema:
    """The schema of a file of tokens, in the form of `datasets`, for integers of this numpy type."""
    return datasets.Features({"tokens": datasets.List(datasets.Value(np.dtype(dtype).name))}).arrow_schema


def write_tokens(file: IO[bytes], batches: Iterable[TokenBatch], schema: pa.Schema) -> None:
    """Write tokens in the form that `StoredTokens` reads."""
    with pa.ipc.new_stream(file, schema) as stream:
        for batch in batches:
            batch.write(stream)
