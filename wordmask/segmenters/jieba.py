"""Words from jieba, or from its Rust build rjieba if this gives the same words."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import parent_process
from typing import Any

from wordmask.segmenters.libraries import LineSegmenter, import_package, read_user_words

logger = logging.getLogger(__name__)


class JiebaSegmenter(LineSegmenter):
    """Words by jieba's dictionary and, with `hmm`, its hidden Markov model for words that are not in the dictionary.

    The Rust build rjieba is ten times as fast. Without the hidden Markov model it gives exactly the same words (jieba
    0.42.1 and rjieba 0.2.2 on 1.2 million lines: every word of the dictionary, reviews, random Unicode). With it, the
    two differ on 2.7 % of real lines ("1-6" is one word for rjieba and three for jieba), and rarely inside Chinese
    text. So we use rjieba only if it is installed, `hmm` is off and there is no `user_dict`. Then it changes the speed
    and never the words. `identity` names the one that we use.

    Args:
        user_dict: a UTF-8 file in jieba's format: one word in each line, optionally with frequency and tag. Only this
            segmenter uses it. A warning names an entry that jieba never finds in a text.
        hmm: guess words that are not in the dictionary.

    Raises:
        InputError: if jieba is missing or `user_dict` cannot be read.
    """

    scripts = ("Han",)

    def __init__(self, user_dict: str | os.PathLike[str] | None = None, hmm: bool = True) -> None:
        self._identity = {"name": "jieba", "hmm": str(bool(hmm)).lower()}
        user_words = None
        if user_dict is not None:
            user_words = read_user_words(user_dict)
            self._identity["user_dict"] = hashlib.sha256(user_words).hexdigest()
        rust = not hmm and user_words is None and find_spec("rjieba") is not None
        self._cut = _rust_cut() if rust else _python_cut(user_words, hmm)
        backend = "rjieba" if rust else "jieba"
        self._identity[backend] = version(backend)
        if user_dict is not None and user_words is not None and parent_process() is None:  # workers read the same file
            _warn_of_useless_entries(user_words, user_dict)

    def cut(self, text: str) -> list[str]:
        return self._cut(text)


Cut = Callable[[str], list[str]]


def _rust_cut() -> Cut:
    """A function that splits a text with rjieba, without the hidden Markov model."""
    import rjieba

    # An object of our own: other code may add words to the one that the module shares.
    return partial(rjieba.Jieba().cut, hmm=False)


def _python_cut(user_words: bytes | None, hmm: bool) -> Cut:
    """A function that splits a text with jieba, with its own dictionary and the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pkg_resources and invalid escapes, on today's Python
        jieba: Any = import_package("jieba", segmenter="jieba", distribution="jieba")
    tokenizer = jieba.Tokenizer()
    # We do not call `initialize`. It writes to stderr, and trusts a file in the temporary directory, which another
    # version of jieba or another user may have written. Building the dictionary takes as long: 0.4 s.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    never_words: set[str] = set()
    if user_words is not None:
        with _never_words(jieba.finalseg, never_words):
            tokenizer.load_userdict(io.BytesIO(user_words))

    def cut(text: str) -> list[str]:
        with _never_words(jieba.finalseg, never_words):
            return list(tokenizer.cut(text, HMM=hmm))

    return cut


def _warn_of_useless_entries(content: bytes, path: str | os.PathLike[str]) -> None:
    """Log a warning if jieba never finds a word of a dictionary: it takes a tab, or `5.0`, for a part of the word."""
    jieba: Any = import_package("jieba", segmenter="jieba", distribution="jieba")
    lines = enumerate(content.decode("utf-8-sig").splitlines(), 1)
    entries = {number: line.strip() for number, line in lines if line.strip()}
    words = {number: jieba.re_userdict.match(entry)[1] for number, entry in entries.items()}
    useless = [number for number, word in words.items() if not jieba.re_han_default.fullmatch(word)]
    if useless:
        logger.warning(
            "--user_dict %s: jieba never finds %d of %d entries, such as %r in line %d; write a word of Chinese "
            "characters, letters, digits and +#&._%%-, and behind it, each after one space, a whole number and a tag "
            "of small letters, if you want them",
            os.fspath(path),
            len(useless),
            len(entries),
            words[useless[0]],
            useless[0],
        )


@contextmanager
def _never_words(finalseg: Any, words: set[str]) -> Iterator[None]:
    """Forbid the hidden Markov model to form `words`.

    These are the words of frequency 0 in a user dictionary. jieba keeps them in one set for the whole process, even if
    each tokenizer has its own dictionary. Without this, a dictionary would change the words of every other segmenter.
    """
    shared = finalseg.Force_Split_Words
    finalseg.Force_Split_Words = words
    try:
        yield
    finally:
        finalseg.Force_Split_Words = shared
