"""Tokenize texts. Each token gets one bit: whether it continues the word of the token before it.

Words are decided in `tokenization/words.py` (by the rule for text), by a segmenter, or by a reference file. Here they
become one bit for each token. Everything after this, up to `masking.py`, sees only this bit.

Worker processes run this module. It imports neither torch nor datasets, so they start in a second. It logs nothing:
see `findings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, compress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.findings import Findings, TokenBatch, unknown_scripts
from wordmask.data.text_counts import REPORTED, count_words, counts_of_texts
from wordmask.references.positions import LineReferences, continuations
from wordmask.references.provenance import Provenance, check_tokenizer
from wordmask.segmenters import Segmenter, identity_of, words_of
from wordmask.tokenization.backend import Backend, is_backend_alone, tokenizer_digest
from wordmask.tokenization.encoding import Encodings, set_apart
from wordmask.tokenization.segmented import segmented
from wordmask.tokenization.special_tokens import special_affixes, special_ids, vocabulary_size
from wordmask.tokenization.tokenize import tokenize
from wordmask.tokenization.words import SCRIPTS
from wordmask.utils.errors import InputError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from wordmask.data.sources import Texts

VERSION = 8  # of the rule for words and of the form on disk; tokens of another version are made again or refused


class TextTokenizer:
    """Turns batches of texts into tokens.

    Args:
        tokenizer: the tokenizer. If it gives no offsets and whole words are not needed, each token is a word.
        texts: where the texts and their references come from.
        separator: the token to put after each text, if any.
        segmentation: the flags of the segmenter; `None` if whole words are not needed.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: Texts[Any],
        separator: int | None,
        segmentation: SegmentationArguments | None,
    ):
        self.tokenizer, self.separator, self.segmentation = tokenizer, separator, segmentation
        if texts.references and segmentation and segmentation.segmenter:
            raise InputError(
                f"{texts.reference_flag}: {texts.references[0]} has references in its column chinese_ref, and "
                "--segmenter defines the words, too; drop --segmenter, or give the text without this column"
            )
        self.text_flag, self.reference_flag = texts.flag, texts.reference_flag
        self.reference_files = list(texts.references)
        # (reference files,) What `LineReferences` needs of the file of each line.
        of_files = [texts.provenance.get(path) for path in self.reference_files]
        self.classic = np.array([one is None for one in of_files], bool)
        self.decides = np.array([one is not None and bool(one.decides) for one in of_files], bool)
        self.any_script = np.array([one is not None and (one.mixed_words or one.any_script) for one in of_files], bool)
        self.prefix = len(special_affixes(tokenizer)[0])
        self.special_ids = special_ids(tokenizer)
        # An unknown token with another role, such as GPT-2's end of text, never stands for text.
        unknown = tokenizer.unk_token_id
        self.unknown_id = -1 if unknown is None or unknown in self.special_ids else int(unknown)
        self.size = vocabulary_size(tokenizer)
        self.dtype = np.uint16 if self.size <= 2**15 else np.uint32  # the largest code is 2 * size - 1
        for path, provenance in texts.provenance.items():
            check_tokenizer(provenance, tokenizer, path, texts.reference_flag)

    @property
    def finds_words(self) -> bool:
        """Whether tokens come with words. Without offsets it takes time to find them, so we do if they are needed."""
        return self.tokenizer.is_fast or self.segmentation is not None

    def identity(self) -> dict[str, Any]:
        """What the tokens depend on, except for the text; part of the name in the cache, and of records."""
        without_words, joins = {} if self.finds_words else {"without_words": True}, self.any_script.sum()
        return without_words | {
            "version": VERSION,
            "tokenizer": tokenizer_digest(self.tokenizer),
            "special_tokens": self.prefix,
            "separator": self.separator,
            "mixed_references": bool(joins) if joins in (0, len(self.any_script)) else self.any_script.tolist(),
            "deciding_references": self.decides.tolist() if self.decides.any() else None,
            "classic_references": self.classic.tolist() if self.classic.any() != self.classic.all() else None,
            "segmenter": identity_of(self.segmenter) if self.segmenter else None,
            "mixed_words": bool(self.segmenter and self.segmentation and self.segmentation.mixed_words),
        }

    @cached_property
    def segmenter(self) -> Segmenter | None:
        """The segmenter, if the flags name one. Each process loads its own."""
        if self.segmentation is None or self.segmentation.segmenter is None:
            return None
        return self.segmentation.load(lambda: self.tokenizer)

    @property
    def words_from(self) -> str:
        """Where the segmenter's words come from, for messages; empty without one."""
        if self.segmenter is None or self.segmentation is None:
            return ""
        return Provenance(segmenter=identity_of(self.segmenter), mixed_words=self.segmentation.mixed_words).words

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: no segmenter, and of most tokenizers only the backend."""
        state = {name: value for name, value in vars(self).items() if name != "segmenter"}
        if is_backend_alone(self.tokenizer):
            state["tokenizer"] = Backend(self.tokenizer, self.special_ids)
        return state

    def __call__(self, batch: pa.Table) -> TokenBatch:
        """The tokens of a table of texts."""
        try:
            lines = [text or "" for text in batch["text"].to_pylist()]
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.text_flag}: {one_line(error)}; convert the file, for example with iconv"
            ) from None
        findings, tokens = Findings(), None
        if self.finds_words:
            tokens = tokenize(self.tokenizer, lines)
            ids, lengths = tokens.ids, tokens.lengths  # (tokens,) and (texts,)
        else:
            of_lines = self.tokenizer(lines, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            lengths = np.fromiter(map(len, of_lines), np.int64, len(of_lines))
            ids = np.fromiter(chain.from_iterable(of_lines), np.int64, lengths.sum())
        special, continues = np.isin(ids, self.special_ids), np.zeros(len(ids), bool)
        if tokens is not None:
            continues, findings = self._continuations(tokens, special, batch)
        if REPORTED in batch.column_names and (reported := batch[REPORTED].to_numpy()).any():
            counted: Any = slice(None) if reported.all() else np.flatnonzero(np.repeat(reported, lengths))  # tokens
            texts = [*compress(lines, reported)]
            counts = counts_of_texts(texts, ids[counted], lengths[reported], special[counted], self.unknown_id)
            if tokens is not None:
                counts = replace(counts, **count_words(tokens, counted, continues, special, self.unknown_id))
            findings = replace(findings, counts=counts)
        codes = ids << 1
        codes |= continues  # the id 8 becomes 16, or 17 where it continues a word
        if self.separator is not None:
            # Lengths 2, 0, 1 give ends 2, 3: separators stand before tokens 2 and 3. A text without tokens gets none.
            ends = np.cumsum(lengths)[lengths > 0]
            codes = np.insert(codes, ends, self.separator << 1)
            lengths = lengths + (lengths > 0)
        self._check_ids(codes)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return TokenBatch(pa.ListArray.from_arrays(offsets, codes.astype(self.dtype)), findings)

    def _continuations(
        self, tokens: Encodings, special: NDArray[np.bool_], batch: pa.Table
    ) -> tuple[NDArray[np.bool_], Findings]:
        """(tokens,) Which tokens continue a word, by the text, references and a segmenter; and the findings."""
        continues, characters = tokens.continues, tokens.characters
        has_references = "chinese_ref" in batch.column_names
        findings = Findings.of(characters, self._without_words(has_references))
        if has_references:
            positions = [reference or [] for reference in batch["chinese_ref"].to_pylist()]
            name_line = partial(self._name_line, batch)
            file = batch["file"].to_numpy() if "file" in batch.column_names else np.zeros(len(batch), np.int64)
            of_lines = self.classic[file], self.any_script[file], self.decides[file]
            references = LineReferences(positions, name_line, *of_lines, self.reference_flag)
            joined, left_out = continuations(tokens, references, self.prefix, special)
            continues = tokens.with_words(joined, references.decided(characters))
            example = references.place(int(left_out[0])) if len(left_out) else ""
            count = sum(map(len, positions))
            findings = replace(findings, positions=count, left_out=len(left_out), example=example)
        if self.segmenter and self.segmentation:
            words, mixed = words_of(self.segmenter, characters.lines), self.segmentation.mixed_words
            character_words = segmented(characters, words, mixed, any_script=self.segmenter.any_script)
            continues = tokens.with_words(tokens.continuations(character_words), characters.decided)
        return set_apart(continues, special), findings

    def _without_words(self, has_references: bool) -> Sequence[str]:
        """The scripts in which nothing gives words: with references that only join, all but Chinese."""
        if self.segmenter:
            return unknown_scripts(self.segmenter)
        if has_references and self.decides.all():
            return ()
        return SCRIPTS[1:] if has_references else SCRIPTS

    def _check_ids(self, codes: NDArray[np.integer]) -> None:
        """Raise an `InputError` for an id outside the vocabulary: with few bits it would be stored as another id."""
        highest = int(codes.max(initial=0)) >> 1
        if highest >= self.size:
            raise InputError(
                f"--tokenizer_name: the tokenizer gives the id {highest}, and the largest id of its vocabulary is "
                f"{self.size - 1}; repair its files"
            )

    def _name_line(self, batch: pa.Table, index: int) -> str:
        """The name of a line of a batch, for a message."""
        if "line" not in batch.column_names:
            return f"{index + 1} of its batch"
        file = self.reference_files[batch["file"][index].as_py()] if "file" in batch.column_names else ""
        return f"{batch['line'][index].as_py()} of the text ({file})"


def tokens_of_split(tokenizers: Mapping[str, TextTokenizer], batch: tuple[str, pa.Table]) -> TokenBatch:
    """Tokenize the texts of a split, which come with its name."""
    split, texts = batch
    return tokenizers[split](texts)
