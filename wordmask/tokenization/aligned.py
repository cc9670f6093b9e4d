"""Encode lines with tokenizers that give no offsets, and find out which characters each token covers.

Tokenizers without the library `tokenizers` run in Python: BertJapaneseTokenizer, PhoBERT's, BERTweet's, XLM's. They
give the surface of each token. We align the surfaces of a *unit* with its text (`utils/alignment.py`), once for each
distinct unit. A unit is a text that the tokenizer never looks beyond:

    a word that its own word tokenizer finds    BertJapaneseTokenizer
    what stands between two spaces              `_SPLITS_AT_SPACES`
    a line                                      all others

Where surfaces do not match the text (BERTweet makes `HTTPURL` of a link), we do not guess. The tokens then stand for
another text: that which we rebuild from the surfaces, with white space where the tokenizer's mark (`##`, `@@`, …, see
surfaces.py) shows it. All that follows, segmenters included, sees this text in place of the unit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from wordmask.segmenters.libraries import replace_surrogates
from wordmask.segmenters.tokenizer import Word, WordTokenizer
from wordmask.tokenization.encoding import Encodings
from wordmask.tokenization.per_tokenizer import PerTokenizer
from wordmask.tokenization.surfaces import ALONE, WHOLE_WORDS, mark_of, reader_of
from wordmask.tokenization.words import Characters
from wordmask.utils.alignment import Span, align
from wordmask.utils.errors import InputError

# Tokenizers that split a text at white space before they look at anything else.
_SPLITS_AT_SPACES = (
    "PhobertTokenizer",
    "BertweetTokenizer",
    "RoCBertTokenizer",
    "ProphetNetTokenizer",
    "BertTokenizerLegacy",
)
_MOST = 400_000  # characters that we keep, and _EACH more for each unit
_EACH = 4


class _Unit(NamedTuple):
    """The tokens of a unit.

    Attributes:
        text: the text that they stand for: that of the unit, or one rebuilt from surfaces.
        ids: their ids.
        spans: which characters of `text` each of them covers.
    """

    text: str
    ids: list[int]
    spans: list[Span]


class Aligner:
    """Encodes lines with one tokenizer, and keeps the tokens of each unit.

    Args:
        tokenizer: a tokenizer without offsets.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._words = WordTokenizer(tokenizer) if WordTokenizer.has_words(tokenizer) else None
        self._at_spaces = _splits_at_spaces(tokenizer)
        self._mark = mark_of(tokenizer)
        self._read = reader_of(self._mark or WHOLE_WORDS)
        self._units: dict[tuple[bool, str, str], _Unit] = {}
        self._size = 0  # see _MOST

    def __call__(self, tokenizer: PreTrainedTokenizerBase, lines: Sequence[str], flag: str) -> Encodings:
        """Encode lines as they are, without special tokens.

        Raises:
            InputError: if the surfaces of a text do not match it and have no mark; it names `flag`.
        """
        texts: list[str] = []
        units: list[_Unit] = []
        starts: list[int] = []  # (units,) the index of each unit's first character, among those of all lines
        lengths: list[int] = []  # (lines,) in tokens
        line_start = 0
        for line in map(replace_surrogates, lines):
            line, words = self._divide(line)
            pieces, place, shift, length = list[str](), 0, line_start, 0
            for word, (start, end) in words:
                text = line[start:end]
                unit = self._unit(tokenizer, word, text, flag)
                units.append(unit)
                starts.append(start + shift)
                length += len(unit.ids)
                if unit.text != text:  # rebuilt, so what follows moves
                    pieces += line[place:start], unit.text
                    place, shift = end, shift + len(unit.text) - len(text)
            texts.append("".join([*pieces, line[place:]]))
            lengths.append(length)
            line_start += len(texts[-1]) + 1
        return _encodings(texts, units, starts, lengths)

    def _divide(self, line: str) -> tuple[str, list[tuple[str, Span]]]:
        """The units of a line with their spans, and the line; it changes if its words are not those of the text."""
        if self._words:
            words = self._words(line)
            spans = align(line, words)
            if spans is None:
                ends = [*accumulate(len(word) + 1 for word in words)]
                spans = [(end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True)]
                line = " ".join(words)
            return line, [*zip(words, spans, strict=True)]
        found = re.finditer("[^ ]+" if self._at_spaces else "(?s).+", line)
        return line, [(match[0], match.span()) for match in found]

    def _unit(self, tokenizer: PreTrainedTokenizerBase, word: str, text: str, flag: str) -> _Unit:
        """The tokens of a unit, from memory if it was met before.

        Args:
            tokenizer: the tokenizer.
            word: the unit as the tokenizer's own word tokenizer gives it, or as in the text.
            text: the unit as it is in the text.
            flag: for an error message.
        """
        key = isinstance(word, Word), word, text
        unit = self._units.get(key)
        if unit is None:
            if self._size > _MOST:
                self._units.clear()
                self._size = 0
            self._size += len(text) + _EACH
            unit = self._units[key] = self._find(tokenizer, word, text, flag)
        return unit

    def _find(self, tokenizer: PreTrainedTokenizerBase, word: str, text: str, flag: str) -> _Unit:
        if self._words:
            tokens = tokenizer.subword_tokenizer.tokenize(word) if isinstance(word, Word) else [word]
        else:
            tokens = tokenizer.tokenize(word)
        ids: Any = tokenizer.convert_tokens_to_ids(tokens)  # a list, with None for a token without an id
        if None in ids:
            name, token = type(tokenizer).__name__, tokens[ids.index(None)]
            raise InputError(
                f"{flag}: {name} has no token for {token!r}, and no unknown token; give another tokenizer"
            )
        known = [None if token == tokenizer.unk_token else token for token in tokens]
        # A word may begin with what is a mark elsewhere: the text `##a` has the token `##a`.
        spans = align(text, self._surfaces(known)) or align(text, known)
        if spans is None and self._words:  # what we do know is the word, so all its tokens cover all of it
            spans = [(0, len(text))] * len(tokens)
        if spans is None and self._mark is None:
            raise InputError(
                f"{flag}: {type(tokenizer).__name__} does not say which characters its tokens cover, and of "
                f"{text[:40]!r} this is not certain; give a tokenizer with a tokenizer.json, or mask tokens with "
                "run_mlm.py"
            )
        if spans is None:
            surfaces = [ALONE if token is None else self._read(token) or ALONE for token in known]
            rebuilt = [surface.decode("utf-8", "replace") for surface in surfaces]
            text, spans = "".join(rebuilt), [*pairwise(accumulate(map(len, rebuilt), initial=0))]
        return _Unit(text, ids, spans)

    def _surfaces(self, tokens: Sequence[str | None]) -> list[str | None]:
        """The text of each token without marks. If some are parts of characters, all are bytes, see `align`."""
        surfaces = [None if token is None else self._read(token) for token in tokens]
        try:
            return [surface if surface is None else surface.decode() for surface in surfaces]
        except UnicodeDecodeError:
            return [surface if surface is None else surface.decode("latin-1") for surface in surfaces]


aligner_of = PerTokenizer(Aligner)  # the aligner of a tokenizer, with what it keeps already


def _encodings(texts: list[str], units: Sequence[_Unit], unit_starts: list[int], lengths: list[int]) -> Encodings:
    """The encodings of lines of units, see `Aligner`."""
    ids = np.fromiter(chain.from_iterable(unit.ids for unit in units), np.int64)
    spans = np.fromiter(chain.from_iterable(chain.from_iterable(unit.spans for unit in units)), np.int64)
    counts = np.array([len(unit.ids) for unit in units], np.int64)
    # (2, tokens): spans count from the start of a unit.
    starts, ends = spans.reshape(-1, 2).T + np.repeat(np.array(unit_starts, np.int64), counts)
    return Encodings.of_spans(ids.astype(np.int32), np.array(lengths, np.int64), starts, ends, Characters(texts))


def _splits_at_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer never looks beyond a space."""
    added = tokenizer.added_tokens_decoder.values()
    return (
        type(tokenizer).__name__ in _SPLITS_AT_SPACES
        and type(tokenizer).__module__.startswith("transformers.")
        and not getattr(tokenizer, "normalization", False)  # of BERTweet: `n 't` becomes one word
        and not any(" " in token.content or token.single_word for token in added)
    )
