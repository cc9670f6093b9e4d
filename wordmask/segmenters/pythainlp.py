"""Thai words from PyThaiNLP."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from wordmask.segmenters.libraries import LineSegmenter, import_package, read_user_words
from wordmask.segmenters.options import check_choice
from wordmask.utils.errors import InputError

# The engines that change no character and download nothing, and the package that each needs besides.
ENGINES = {"newmm": None, "nlpo3": "nlpo3", "deepcut": "onnxruntime"}


class PyThaiNLPSegmenter(LineSegmenter):
    """Words by PyThaiNLP, whose dictionary and model are a part of the package.

    Lines of more than 2,000 characters are split at white space.

    Args:
        engine: newmm (by a dictionary), nlpo3 (nearly the same, three times as fast) or deepcut (by a neural network:
            closest to words by hand, and slow).
        user_dict: for newmm, a text file with additional words, one in each line.

    Raises:
        InputError: if a package is missing, `engine` is unknown, or `user_dict` cannot be used.
    """

    scripts = ("Thai",)

    longest = 2000

    def __init__(self, engine: str = "newmm", user_dict: str | os.PathLike[str] | None = None) -> None:
        check_choice("engine", engine, [*ENGINES])
        self._identity = {"name": "pythainlp", "engine": engine}
        package = ENGINES[engine]
        if package is not None:
            import_package(package, "pythainlp", package)
            self._identity[package] = version(package)
        with _read_only():
            thai: Any = import_package("pythainlp.tokenize", "pythainlp", "pythainlp")
        self._identity["pythainlp"] = version("pythainlp")
        self._tokenize, self._options = thai.word_tokenize, {"engine": engine}
        if user_dict is not None:
            if engine != "newmm":
                raise InputError(f"--user_dict is for engine=newmm of pythainlp, not for {engine}; drop one of them")
            from wordmask.utils.readers import read_words  # here, since it imports numpy, which takes time

            self._identity["user_dict"] = hashlib.sha256(read_user_words(user_dict)).hexdigest()
            known = importlib.import_module("pythainlp.corpus").thai_words()
            trie = importlib.import_module("pythainlp.util").dict_trie
            self._options["custom_dict"] = trie({*known, *read_words(os.fspath(user_dict), "--user_dict")})

    def cut(self, text: str) -> list[str]:
        return self._tokenize(text, **self._options)


@contextmanager
def _read_only() -> Iterator[None]:
    """Let PyThaiNLP write nothing: importing it makes a directory for downloads in the user's home."""
    names = ("PYTHAINLP_READ_ONLY", "PYTHAINLP_READ_MODE")  # it refuses to read both
    if any(name in os.environ for name in names):
        yield
        return
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
