"""Tokenizing texts. With each token goes one fact: whether it continues the word of the token before it.

Worker processes run this. It imports neither torch nor datasets, so that they start in a second, and it logs nothing,
see `wordmask.data.findings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.findings import Findings, TokenBatch
from wordmask.references.positions import LineReferences, continuations
from wordmask.references.provenance import check_tokenizer, tokenizer_digest
from wordmask.segmenters import Segmenter, words_of
from wordmask.tokenization.encoding import (
    Backend,
    Encodings,
    serialized,
    set_apart,
    special_affixes,
    special_ids,
    vocabulary_size,
)
from wordmask.tokenization.word_cache import tokenize
from wordmask.tokenization.words import segmented
from wordmask.utils.errors import InputError, one_line

if TYPE_CHECKING:
    from wordmask.data.sources import Texts

VERSION = 5  # of the rule for words and of the form on disk; tokens of another version are made again or refused


class _Places(Sequence[str]):
    """The place of each line of a batch, for an error message."""

    def __init__(self, batch: pa.Table, files: Sequence[str]):
        self.batch, self.files = batch, files

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, index: Any) -> Any:
        if "line" not in self.batch.column_names:
            return f"{index + 1} of its batch"
        file = self.files[self.batch["file"][index].as_py()] if "file" in self.batch.column_names else ""
        return f"{self.batch['line'][index].as_py()} of the text ({file})"


class TextTokenizer:
    """Turns batches of texts into tokens.

    Args:
        tokenizer: the tokenizer. A slow one knows no words, so that each token is a word.
        texts: where the texts and their references come from.
        separator: the token to put behind each text, if any.
        words: what gives words besides the tokenizer; `None` if none are needed.
    """

    def __init__(self, tokenizer, texts: Texts[Any], separator: int | None, words: SegmentationArguments | None):
        self.tokenizer, self.separator, self.words = tokenizer, separator, words
        self.mixed = any(provenance.mixed_words for provenance in texts.provenance.values())
        self.flag, self.where, self.files = texts.flag, texts.reference_flag, list(texts.references)
        self.classic = np.array([path not in texts.provenance for path in self.files], bool)
        self.prefix = len(special_affixes(tokenizer)[0])
        self.special_ids = special_ids(tokenizer)
        self.size = vocabulary_size(tokenizer)
        self.dtype = np.uint16 if self.size <= 2**15 else np.uint32  # the largest code is 2 * size - 1
        for path, provenance in texts.provenance.items():
            check_tokenizer(provenance, tokenizer, path, texts.reference_flag)

    def identity(self) -> dict[str, Any]:
        """What the tokens depend on besides the text, for the key of a cache or a record."""
        return {
            "version": VERSION,
            "tokenizer": tokenizer_identity(self.tokenizer),
            "special_tokens": self.prefix,
            "separator": self.separator,
            "mixed_references": self.mixed,
            "classic_references": self.classic.tolist() if self.classic.any() != self.classic.all() else None,
            "segmenter": self.segmenter.identity if self.segmenter else None,
            "mixed_words": bool(self.segmenter and self.words and self.words.mixed_words),
        }

    @cached_property
    def segmenter(self) -> Segmenter | None:
        """The segmenter that runs here, if any."""
        return self.words.load() if self.words and self.words.segmenter else None

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs. It loads its own segmenter; of a fast tokenizer it needs only the backend."""
        state = {name: value for name, value in vars(self).items() if name != "segmenter"}
        if self.tokenizer.is_fast and serialized(self.tokenizer.backend_tokenizer) is not None:
            state["tokenizer"] = Backend(self.tokenizer)
        return state

    def __call__(self, batch: pa.Table) -> TokenBatch:
        """The tokens of a table of texts."""
        try:
            lines = [text or "" for text in batch["text"].to_pylist()]
        except UnicodeDecodeError as error:
            raise InputError(f"{self.flag}: {one_line(error)}; convert the file, for example with iconv") from None
        findings = Findings()
        if self.tokenizer.is_fast or self.words:
            tokens = tokenize(self.tokenizer, lines)
            continues, findings = self._words(tokens, batch)
            codes, lengths = tokens.ids << 1, tokens.lengths  # (tokens,) and (texts,)
            codes |= continues  # the id 8 becomes 16, or 17 where it continues a word
        else:
            ids = self.tokenizer(lines, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            lengths = np.fromiter(map(len, ids), np.int64, len(ids))
            codes = np.fromiter((token for line in ids for token in line), np.int64, lengths.sum()) << 1
        if self.separator is not None:
            # Lengths 2, 0, 1 give ends 2, 3: separators stand before tokens 2 and 3. A text without tokens gets none.
            ends = np.cumsum(lengths)[lengths > 0]
            codes = np.insert(codes, ends, self.separator << 1)
            lengths = lengths + (lengths > 0)
        self._check_ids(codes)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return TokenBatch(pa.ListArray.from_arrays(offsets, codes.astype(self.dtype)), findings)

    def _words(self, tokens: Encodings, batch: pa.Table) -> tuple[NDArray[np.bool_], Findings]:
        """(tokens,) Which tokens continue a word, by the text, references and a segmenter; and what is found here."""
        special = np.isin(tokens.ids, self.special_ids)
        continues, characters = tokens.continues, tokens.characters
        has_references = "chinese_ref" in batch.column_names
        findings = Findings.of(characters, has_words=has_references or self.segmenter is not None)
        if has_references:
            positions = [reference or [] for reference in batch["chinese_ref"].to_pylist()]
            places = _Places(batch, self.files)
            references = LineReferences(positions, places, self._are_classic(batch), self.mixed, self.where)
            joined, left_out = continuations(tokens, references, self.prefix, special)
            example = references.place(int(left_out[0])) if len(left_out) else ""
            findings += Findings(positions=sum(map(len, positions)), left_out=len(left_out), example=example)
            continues = continues | joined
        if self.segmenter and self.words:
            words, mixed = words_of(self.segmenter, characters.lines), self.words.mixed_words
            joins = segmented(characters, words, mixed, any_script=self.segmenter.any_script)
            continues = continues | tokens.continuations(joins)
        return set_apart(continues, special), findings

    def _check_ids(self, codes: NDArray[np.integer]) -> None:
        """Raise an `InputError` for an id beyond the vocabulary. Stored in few bits, it would become another id."""
        highest = int(codes.max(initial=0)) >> 1
        if highest >= self.size:
            raise InputError(
                f"--tokenizer_name: the tokenizer gives the id {highest}, and the largest id of its vocabulary is "
                f"{self.size - 1}; repair its files"
            )

    def _are_classic(self, batch: pa.Table) -> NDArray[np.bool_]:
        """(lines,) Whether the reference of each line is from a file without provenance."""
        if "file" in batch.column_names:
            return self.classic[batch["file"].to_numpy()]
        return np.full(len(batch), self.classic.all())


def tokens_of_split(tokenizers: Mapping[str, TextTokenizer], batch: tuple[str, pa.Table]) -> TokenBatch:
    """The tokens of texts that come with the name of their split."""
    split, texts = batch
    return tokenizers[split](texts)


def tokenizer_identity(tokenizer) -> str:
    """What tells tokenizers apart that split text differently."""
    return tokenizer_digest(tokenizer) if tokenizer.is_fast else f"{type(tokenizer).__name__}:{tokenizer.name_or_path}"
