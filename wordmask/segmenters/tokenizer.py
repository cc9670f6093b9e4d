"""The words that a tokenizer finds itself, before it divides them into tokens: those of BertJapaneseTokenizer.

`WordTokenizer` finds them in a line as the tokenizer normalizes it. `TokenizerSegmenter` gives them as they stand in
the line.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wordmask.segmenters.base import Segmenter
from wordmask.segmenters.libraries import replace_surrogates
from wordmask.segmenters.long_lines import split_long
from wordmask.utils.alignment import align
from wordmask.utils.errors import InputError

_MOST_BYTES = 49_149  # Sudachi refuses longer texts, and MeCab takes quadratic time for unknown words


class Word(str):
    """A word that a tokenizer has found. Added tokens, such as `[MASK]` in a text, are plain strings."""


class WordTokenizer:
    """Calls a tokenizer such as BertJapaneseTokenizer, and stops where it would divide words into tokens.

    Args:
        tokenizer: a tokenizer for which `has_words` is true.
    """

    def __init__(self, tokenizer: Any):
        # A copy that shares everything but its two inner tokenizers, so it finds the same added tokens.
        self._copy = object.__new__(type(tokenizer))
        vars(self._copy).update(vars(tokenizer))
        vars(self._copy).update(word_tokenizer=_ShortTexts(tokenizer.word_tokenizer), subword_tokenizer=_AsWord())

    def __call__(self, line: str) -> list[str]:
        """The words and added tokens of a line, normalized."""
        return self._copy.tokenize(line)

    @staticmethod
    def has_words(tokenizer: Any) -> bool:
        """Whether a tokenizer first finds words, and then divides each of them into tokens."""
        method = getattr(type(tokenizer), "_tokenize", None)  # a subclass may have its own, which we do not know
        is_japanese = getattr(method, "__qualname__", "") == "BertJapaneseTokenizer._tokenize"
        return is_japanese and hasattr(tokenizer, "word_tokenizer") and hasattr(tokenizer, "subword_tokenizer")


class _AsWord:
    """Leaves a word whole."""

    def tokenize(self, word: str) -> list[str]:
        return [Word(word)]


class _ShortTexts:
    """Gives a word tokenizer texts of bounded length."""

    def __init__(self, inner: Any):
        self._inner = inner

    def tokenize(self, text: str, **options: Any) -> list[str]:
        if len(unicodedata.normalize("NFKC", text).encode()) <= _MOST_BYTES:
            return self._inner.tokenize(text, **options)
        halves = split_long(text, len(unicodedata.normalize("NFD", text)) // 2)
        return [word for half in halves for word in self.tokenize(half, **options)]


class TokenizerSegmenter(Segmenter):
    """The words of the run's own tokenizer.

    Args:
        tokenizer: a tokenizer with a morphological analyser inside (BertJapaneseTokenizer with MeCab, Sudachi or
            Juman++), or one whose pre-tokenizer is written in Python (RoFormerTokenizer with jieba).

    Raises:
        InputError: if the tokenizer finds no words.
    """

    def __init__(self, tokenizer: Any):
        self._words: Callable[[str], list[str]]
        kind = getattr(tokenizer, "word_tokenizer_type", "")
        projection = (getattr(tokenizer, "sudachi_kwargs", None) or {}).get("sudachi_projection")
        if tokenizer.is_fast and _is_python(inner := tokenizer.backend_tokenizer.pre_tokenizer):
            self._words = lambda line: [line[start:end] for _, (start, end) in inner.pre_tokenize_str(line)]
        elif kind == "basic" or (kind and not getattr(tokenizer, "do_word_tokenize", True)):
            option = "word_tokenizer_type basic" if kind == "basic" else "do_word_tokenize false"
            raise InputError(
                f"--segmenter tokenizer: with {option}, {type(tokenizer).__name__} finds no words in text without "
                "spaces; give --segmenter mecab or sudachi, or a tokenizer with word_tokenizer_type mecab"
            )
        elif not WordTokenizer.has_words(tokenizer):
            raise InputError(
                f"--segmenter tokenizer: {type(tokenizer).__name__} finds no words itself, as BertJapaneseTokenizer "
                "with MeCab or Sudachi does; give another segmenter, such as whitespace for words joined by _"
            )
        elif projection not in (None, "surface"):
            raise InputError(
                f"--segmenter tokenizer: with sudachi_projection {projection}, the words of this tokenizer are not "
                "those of the text; give another segmenter"
            )
        else:
            self._words = WordTokenizer(tokenizer)
        self._identity = word_identity(tokenizer)

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        return [self._in_line(line) for line in lines]

    def _in_line(self, line: str) -> list[str]:
        words = self._words(replace_surrogates(line))
        spans = align(line, words)
        if spans is None:  # they are not the words of the line, so the caller says so
            return words
        # A character that became several words, as `…` becomes `.` `.` `.`, belongs to the first of them.
        ends = [0, *(end for _, end in spans)]
        found = (line[max(start, before) : end] for before, (start, end) in zip(ends, spans, strict=False))
        return [*filter(None, found)]

    @property
    def identity(self) -> dict[str, str]:
        return {"name": "tokenizer", **self._identity}


def _is_python(pre_tokenizer: Any) -> bool:
    """Whether a pre-tokenizer, or a part of it, is written in Python, so it cannot be serialized."""
    try:
        return pre_tokenizer is not None and not pre_tokenizer.__getstate__()
    except Exception:  # the library has no exception type of its own
        return True


# The package of each `word_tokenizer_type`. A dictionary is a package of its own.
_PACKAGES = {"mecab": "fugashi", "sudachi": "sudachipy", "jumanpp": "rhoknp"}


def word_identity(tokenizer: Any) -> dict[str, str]:
    """What the words of a tokenizer depend on: its class, the options and the packages of its word tokenizer."""
    identity = {"class": type(tokenizer).__name__}
    kind = getattr(tokenizer, "word_tokenizer_type", None)
    if kind:
        options = getattr(tokenizer, f"{kind}_kwargs", None) or {}
        dictionaries = {
            "mecab": options.get("mecab_dic", "unidic_lite"),
            "sudachi": f"sudachidict_{options.get('sudachi_dict_type', 'core')}",
        }
        identity |= {"words": kind, "options": json.dumps(options, sort_keys=True, default=str)}
        for package in filter(None, (_PACKAGES.get(kind), dictionaries.get(kind))):
            with suppress(PackageNotFoundError):
                identity[package] = version(package)
    return identity
