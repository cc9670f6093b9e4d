"""Chinese words from pkuseg, in the version that spaCy keeps."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wordmask.segmenters.base import file_digest
from wordmask.segmenters.libraries import LineSegmenter, import_package, read_user_words
from wordmask.segmenters.options import FLAG
from wordmask.utils.errors import InputError, reported

DOWNLOADED = "spacy_ontonotes"
# The files of a model. Models of older versions are pickles, which may run code.
FILES = ("features.msgpack", "weights.npz")


class PkusegSegmenter(LineSegmenter):
    """Words by a conditional random field, and by a dictionary that is a part of the package.

    Args:
        model: spacy_ontonotes, which is downloaded from GitHub once, or a directory with a model, such as one that
            `spacy_pkuseg.train` has made.
        user_dict: a text file with additional words, one in each line. They are always words.

    Raises:
        InputError: if spacy-pkuseg is missing, or the model or `user_dict` cannot be read.
    """

    scripts = ("Han",)

    longest = 2000  # it takes quadratic time to look for words of its dictionary

    def __init__(self, model: str = DOWNLOADED, user_dict: str | os.PathLike[str] | None = None) -> None:
        pkuseg: Any = import_package("spacy_pkuseg", segmenter="pkuseg", distribution="spacy-pkuseg")
        source = f"{FLAG}: model={model}"
        self._identity = {"name": "pkuseg", "spacy-pkuseg": version("spacy-pkuseg")}
        words: list[str] | str = "default"
        if user_dict is not None:
            from wordmask.utils.readers import read_words  # here, since it imports numpy, which takes time

            self._identity["user_dict"] = hashlib.sha256(read_user_words(user_dict)).hexdigest()
            # We read the file, since pkuseg would take a byte order mark for a part of the first word.
            words = [word.split("\t")[0] for word in read_words(os.fspath(user_dict), "--user_dict")]
        directory = Path(pkuseg.config.pkuseg_home if model == DOWNLOADED else "", model)
        missing = [name for name in FILES if not (directory / name).is_file()]
        if missing and model != DOWNLOADED:
            raise InputError(f"{source}: there is no file {missing[0]}; give {DOWNLOADED}, or a model's directory")
        advice = "; download the model where there is a network, and give its directory" if missing else ""
        with reported(f"{source}: cannot {'download' if missing else 'read'} it", advice):
            self._model = pkuseg.pkuseg(model if missing else str(directory), words)
            self._identity |= {name: file_digest(directory / name) for name in FILES}

    def cut(self, text: str) -> list[str]:
        return self._model.cut(text)
