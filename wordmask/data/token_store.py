"""The tokens of a text: made once for all runs, kept on disk, and read from disk."""

from __future__ import annotations

import bisect
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from wordmask.config.data_arguments import DataArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.findings import SplitFindings, TokenBatch, findings_in
from wordmask.data.sources import Source, Texts
from wordmask.data.text_counts import COUNTS
from wordmask.data.text_tokenizer import TextTokenizer
from wordmask.utils.cache import cache_directory, hashed, made_once
from wordmask.utils.errors import one_line
from wordmask.utils.files import write_atomically
from wordmask.utils.progress import tracked
from wordmask.utils.workers import parallel_map
from wordmask.utils.write_errors import output_of_workers

logger = logging.getLogger(__name__)

_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of a stream in Arrow's format


@dataclass(frozen=True)
class Tokenization:
    """How a run turns texts into tokens. A run makes this once, for all splits.

    Attributes:
        tokenizer: the tokenizer.
        arguments: how sequences are made.
        segmentation: the flags of the segmenter; `None` if whole words are not needed.
        cache_dir: the user's directory for the tokens; `None` for that of `datasets`.
    """

    tokenizer: PreTrainedTokenizerBase
    arguments: DataArguments
    segmentation: SegmentationArguments | None = None
    cache_dir: str | None = None

    @property
    def separator(self) -> int | None:
        """The token after each text if texts are joined into blocks; `None` if each line is its own sequence."""
        if self.arguments.line_by_line:
            return None
        separator = self.tokenizer.sep_token_id
        return self.tokenizer.eos_token_id if separator is None else separator

    def of(self, texts: Texts[Any]) -> TextTokenizer:
        """The tokenizer of these texts."""
        return TextTokenizer(self.tokenizer, texts, self.separator, self.segmentation)


class StoredTokens:
    """All tokens of a text, one document after the other, read from disk.

    Args:
        dataset: the tokens of each document.
        separated: whether a separator stands after each document.
        findings: what was found in the text.
    """

    def __init__(self, dataset: datasets.Dataset, separated: bool = False, findings: SplitFindings | None = None):
        self.dataset, self.separated, self.findings = dataset, separated, findings or SplitFindings()

    def __getstate__(self) -> dict[str, Any]:
        # Each worker maps the file into memory itself, and needs no findings.
        return {"dataset": self.dataset, "separated": self.separated, "findings": SplitFindings()}

    @property
    def _chunks(self) -> list[pa.ListArray]:
        return self.dataset.data.table.column("tokens").chunks

    @cached_property
    def _tokens(self) -> list[NDArray[np.integer]]:
        """The tokens of each chunk of the file."""
        return [chunk.flatten().to_numpy() for chunk in self._chunks]

    @cached_property
    def _bounds(self) -> list[int]:
        """The place of each chunk's first token in the stream of all tokens, then the number of all tokens."""
        return np.cumsum([0, *map(len, self._tokens)]).tolist()

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """(documents,) The number of tokens of each document."""
        return np.concatenate([np.zeros(0, np.int32), *(chunk.value_lengths().to_numpy() for chunk in self._chunks)])

    def read(self, start: int, stop: int) -> NDArray[np.integer]:
        """(stop - start,) The tokens from `start` to `stop`."""
        if len(self._tokens) == 1:  # as of a text below a thousand examples, or of one that was prepared
            return self._tokens[0][start:stop]
        # With bounds 0 5 9, the tokens 3 to 7 are 3 and 4 of the first chunk, then 0 and 1 of the second.
        chunks = slice(bisect.bisect_right(self._bounds, start) - 1, bisect.bisect_left(self._bounds, stop))
        tokens_and_bounds = zip(self._tokens[chunks], self._bounds[chunks], strict=False)
        pieces = [tokens[max(start - bound, 0) : stop - bound] for tokens, bound in tokens_and_bounds]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def tokenized(texts: Texts[Source], tokenization: Tokenization) -> StoredTokens:
    """Tokenize a text, once for all runs.

    Raises:
        InputError: if the tokens cannot be written to the cache, or a worker dies.
    """
    tokenizer, arguments = tokenization.of(texts), tokenization.arguments
    key = hashed(texts.fingerprint, tokenizer.identity(), COUNTS)  # tokens without counts are made again
    path = cache_directory(tokenization.cache_dir) / f"tokens-{key}.arrow"
    go_on = "run again, or give another --cache_dir"
    with output_of_workers("--cache_dir", path.parent, "--preprocessing_num_workers", go_on):
        write = partial(_write, path, texts, tokenizer, arguments.preprocessing_num_workers or 1)
        made_once(path, write, lambda path: _is_whole(path) and not arguments.overwrite_cache)
        try:
            found = findings_in(path)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            logger.warning("%s is damaged (%s), so the text is tokenized again", path, one_line(error)[:100])
            made_once(path, write, lambda path: False)
            found = findings_in(path)
    texts.segmented_by = tokenizer.words_from
    findings = SplitFindings(found, texts.flag, texts.reference_flag, texts.segmented_by)
    return StoredTokens(datasets.Dataset.from_file(str(path)), tokenization.separator is not None, findings)


def _is_whole(path: Path) -> bool:
    """Whether a file of tokens is there, with the mark at its end that Arrow writes last."""
    if not path.exists() or path.stat().st_size < len(_END):
        return False
    with open(path, "rb") as file:
        file.seek(-len(_END), os.SEEK_END)
        return file.read() == _END


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
