"""Japanese words from MeCab, as the models of cl-tohoku have them."""

from __future__ import annotations

import os
import shlex
from importlib.metadata import version

from wordmask.segmenters.base import file_digest
from wordmask.segmenters.libraries import LineSegmenter, import_package
from wordmask.segmenters.options import FLAG
from wordmask.utils.errors import InputError, reported

DICTIONARIES = {"unidic-lite": "unidic_lite", "unidic": "unidic", "ipadic": "ipadic"}  # package and module


class MecabSegmenter(LineSegmenter):
    """Words by MeCab, through fugashi.

    Lines of more than 2,000 characters are split at the ends of sentences.

    Args:
        dictionary: unidic-lite (of bert-base-japanese-v2 and -v3), unidic or ipadic (of the first bert-base-japanese),
            each in a package of its own; or the directory of a dictionary in UTF-8.
        user_dict: a user dictionary, compiled for this dictionary.

    Raises:
        InputError: if a package is missing, or a dictionary cannot be used.
    """

    scripts = ("Han", "Hiragana", "Katakana")

    # On longer lines MeCab takes quadratic time for unknown words; one of a million characters ended the process.
    longest = 2000

    def __init__(self, dictionary: str = "unidic-lite", user_dict: str | os.PathLike[str] | None = None) -> None:
        fugashi = import_package("fugashi", segmenter="mecab", distribution="fugashi")
        self._identity = {"name": "mecab", "fugashi": version("fugashi")}
        directory, source = dictionary, f"{FLAG}: dictionary={dictionary}"
        if dictionary in DICTIONARIES:
            directory = import_package(DICTIONARIES[dictionary], segmenter="mecab", distribution=dictionary).DICDIR
            self._identity["dictionary"] = f"{dictionary} {version(dictionary)}"
        else:
            with reported(f"{source}: cannot read it", f"; give a directory, or one of {', '.join(DICTIONARIES)}"):
                self._identity["dictionary"] = file_digest(os.path.join(directory, "sys.dic"))
        arguments = ["-Owakati", "-r", os.devnull, "-d", directory]
        if user_dict is not None:
            source = f"--user_dict {user_dict}"
            with reported(f"{source}: cannot read it"):
                self._identity["user_dict"] = file_digest(user_dict)
            arguments += ["-u", os.fspath(user_dict)]
        try:
            self._tagger = fugashi.GenericTagger(shlex.join(arguments))
        except RuntimeError as error:
            reason = [*filter(None, str(error).strip(" \n-").splitlines())][-1].strip()
            raise InputError(f"{source}: MeCab cannot use it ({reason})") from None
        if charsets := {found["charset"].lower() for found in self._tagger.dictionary_info} - {"utf8", "utf-8"}:
            raise InputError(f"{source}: it is in {min(charsets)}; give a dictionary in UTF-8")

    def readable(self, line: str) -> str:
        return super().readable(line).replace("\0", "\ufffd")  # a text ends for MeCab at a NUL

    def cut(self, text: str) -> list[str]:
        # It leaves out spaces, and gives the words with one space between them.
        return self._tagger.parse(text).split(" ")
