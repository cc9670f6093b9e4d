"""Japanese words from Sudachi."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

from wordmask.segmenters.base import file_digest
from wordmask.segmenters.libraries import LineSegmenter, import_package
from wordmask.segmenters.options import FLAG, check_choice
from wordmask.utils.errors import InputError, reported

MODES = ("A", "B", "C")
DICTIONARIES = ("small", "core", "full")


class SudachiSegmenter(LineSegmenter):
    """Words by Sudachi's dictionary, in units of three lengths.

    With the core dictionary, mode A divides 国家公務員 into 国家, 公務, 員, mode B into 国家, 公務員, and mode C
    leaves it whole. The small dictionary has few words so long; there, only mode A differs: it divides 見合う. Lines
    of more than 1,985 characters are split at the ends of sentences.

    Args:
        mode: A (the shortest units), B or C (the longest, with names).
        dictionary: small, core or full, each in a package of its own; or the file of a dictionary.
        user_dict: a user dictionary, built by `sudachipy ubuild`.

    Raises:
        InputError: if a package is missing, a dictionary cannot be read, or `mode` is unknown.
    """

    scripts = ("Han", "Hiragana", "Katakana")

    # Sudachi refuses more than 65,535 bytes after its normalization (NFKC), which makes up to 33 bytes of a character
    # (ﷺ).
    longest = 65_535 // 33

    def __init__(
        self, mode: str = "C", dictionary: str = "small", user_dict: str | os.PathLike[str] | None = None
    ) -> None:
        check_choice("mode", mode, MODES)
        sudachi = import_package("sudachipy", segmenter="sudachi", distribution="sudachipy")
        source = f"{FLAG}: dictionary={dictionary}" if user_dict is None else f"--user_dict {user_dict}"
        self._identity = {"name": "sudachi", "sudachipy": version("sudachipy"), "mode": mode}
        if dictionary in DICTIONARIES:
            package = f"sudachidict_{dictionary}"
            import_package(package, segmenter="sudachi", distribution=package)
            self._identity["dictionary"] = f"{package} {version(package)}"
        elif Path(dictionary).is_file():
            dictionary = os.path.abspath(dictionary)
            self._identity["dictionary"] = file_digest(dictionary)
        else:
            raise InputError(f"{FLAG}: dictionary={dictionary} is no file; give one, or small, core or full")
        config = sudachi.Config(system=dictionary)
        if user_dict is not None:
            with reported(f"--user_dict {user_dict}: cannot read it"):
                self._identity["user_dict"] = file_digest(user_dict)
            config = config.update(user=[os.path.abspath(user_dict)])
        with reported(f"{source}: Sudachi cannot use it"):
            self._tokenizer = sudachi.Dictionary(config=config).tokenizer(getattr(sudachi.SplitMode, mode))

    def cut(self, text: str) -> list[str]:
        # A character that its normalization makes into several words (㍿) is the first of them, and the others are "".
        return [word.surface() for word in self._tokenizer.tokenize(text)]
