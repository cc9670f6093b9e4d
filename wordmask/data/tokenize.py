"""Tokenizing texts: with one fact for each token, whether it continues the word of the token before it.

A process that does nothing else starts in a second: neither torch nor datasets is imported here. Nothing is logged
here either, see `wordmask.data.findings`.
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
from wordmask.references.format import LineReferences, check_tokenizer, continuations, tokenizer_digest
from wordmask.segmenters import Segmenter, words_of
from wordmask.tokenization.encoding import (
    Backend,
    TokenizedLines,
    backend_state,
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

VERSION = 4  # of the rule for words, and of how tokens are kept; other tokens are made again or refused


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
        """What the result depends on besides the text, for a cache's fingerprint or a record."""
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
        """The segmenter to run on the spot, if any."""
        return self.words.load() if self.words and self.words.segmenter else None

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it loads its own segmenter, and the backend of a fast tokenizer will do."""
        state = {name: value for name, value in vars(self).items() if name != "segmenter"}
        if self.tokenizer.is_fast and backend_state(self.tokenizer) is not None:
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
            codes, lengths = tokens.ids << 1, tokens.lengths
            codes |= continues
        else:
            ids = self.tokenizer(lines, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            lengths = np.fromiter(map(len, ids), np.int64, len(ids))
            codes = np.fromiter((token for line in ids for token in line), np.int64, lengths.sum()) << 1
        if self.separator is not None:
            ends = np.cumsum(lengths)[lengths > 0]
            codes = np.insert(codes, ends, self.separator << 1)
            lengths = lengths + (lengths > 0)
        self._check_ids(codes)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return TokenBatch(pa.ListArray.from_arrays(offsets, codes.astype(self.dtype)), findings)

    def _words(self, tokens: TokenizedLines, batch: pa.Table) -> tuple[NDArray[np.bool_], Findings]:
        """(tokens,) Which tokens continue a word by all that says so, and what there is to be said of these texts."""
        special = np.isin(tokens.ids, self.special_ids)
        continues, characters = tokens.continues, tokens.characters
        has_references = "chinese_ref" in batch.column_names
        findings = Findings.of(characters, has_words=has_references or self.segmenter is not None)
        if has_references:
            positions = [reference or [] for reference in batch["chinese_ref"].to_pylist()]
            places = _Places(batch, self.files)
            references = LineReferences(positions, places, self._are_classic(batch), self.mixed, self.where)
            joined, wrong = continuations(tokens, references, self.prefix, special)
            first = references.place(int(wrong[0])) if len(wrong) else ""
            findings += Findings(positions=sum(map(len, positions)), left_out=len(wrong), first=first)
            continues = continues | joined
        if self.segmenter and self.words:
            words, mixed = words_of(self.segmenter, characters.lines), self.words.mixed_words
            joins = segmented(characters, words, mixed, any_script=self.segmenter.any_script)
            continues = continues | tokens.joined(joins)
        return set_apart(continues, special), findings

    def _check_ids(self, codes: NDArray[np.integer]) -> None:
        """Raise an `InputError` for an id that the vocabulary does not have: narrowed, it would become another."""
        highest = int(codes.max(initial=0)) >> 1
        if highest >= self.size:
            raise InputError(
                f"--tokenizer_name: the tokenizer gives the id {highest}, and the largest id of its vocabulary is "
                f"{self.size - 1}; mend its files"
            )

    def _are_classic(self, batch: pa.Table) -> NDArray[np.bool_]:
        """(lines,) Whether the reference of each line is from a file without provenance."""
        if "file" in batch.column_names:
            return self.classic[batch["file"].to_numpy()]
        return np.full(len(batch), self.classic.all())


def tokens_of_split(preparations: Mapping[str, Preparation], batch: tuple[str, pa.Table]) -> TokenBatch:
    """The tokens of texts that come with the name of their split."""
    split, texts = batch
    return preparations[split](texts)


def tokenizer_identity(tokenizer) -> str:
    """What tells tokenizers apart that divide text differently."""
    return tokenizer_digest(tokenizer) if tokenizer.is_fast else f"{type(tokenizer).__name__}:{tokenizer.name_or_path}"


def separator(tokenizer, line_by_line: bool) -> int | None:
    """The token between two texts of a block, if they share one."""
    if line_by_line:
        return None
    return tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
