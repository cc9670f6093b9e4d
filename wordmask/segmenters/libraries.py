"""What segmenters that call a library share: to import it, and to find its words in the line."""

from __future__ import annotations

import importlib
import os
import re
import reprlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from wordmask.segmenters.base import Segmenter
from wordmask.segmenters.long_lines import split_long
from wordmask.utils.errors import InputError, reported


class LostTextError(ValueError):
    """The words of a library do not add up to the line that it got."""


def import_package(module: str, segmenter: str, distribution: str, before: str = "") -> ModuleType:
    """Import a package that `--segmenter SEGMENTER` needs.

    Args:
        module: what to import.
        segmenter: the segmenter's name.
        distribution: what pip installs.
        before: a command to run before pip, if any.

    Raises:
        InputError: if it cannot be imported, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"--segmenter {segmenter} needs the package {distribution}, which cannot be imported ({error}): "
            f"{before and f'{before} && '}pip install {distribution}"
        ) from error


def read_user_words(path: str | os.PathLike[str]) -> bytes:
    """The content of `--user_dict`, a text file in UTF-8.

    Raises:
        InputError: if it cannot be read.
    """
    with reported(f"--user_dict {path}: cannot read it", "; give a text file in UTF-8"):
        content = Path(path).read_bytes()
        content.decode("utf-8")
    return content


LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def replace_surrogates(line: str) -> str:
    """A copy of equal length that can be encoded. A `str` may contain lone surrogates, which libraries refuse."""
    return LONE_SURROGATE.sub("\ufffd", line)


def restore(line: str, copy: str, words: Sequence[str]) -> list[str]:
    """The words of `line`, from those that a library found in a copy of equal length.

    The library may leave out white space, and give words without characters. It may also leave out the start of a
    line. This becomes a word of its own: of the line `\\x00中国 人`, the words 中国, 人 become `\\x00`, 中国, 人.

    Raises:
        LostTextError: if the words leave out anything else.
    """
    if "".join(words) == line:
        return [*filter(None, words)]
    found, end = list[str](), 0
    for word in filter(None, words):
        start = copy.find(word, end)
        gap = line[end:start]
        if start < 0 or (end > 0 and gap.strip()):
            raise LostTextError(_lost(line, words))
        end = start + len(word)
        if gap.strip():
            found.append(gap)
        found.append(line[start:end])
    if copy[end:].strip():
        if found:
            raise LostTextError(_lost(line, words))
        found.append(line)
    return found


def _lost(line: str, words: Sequence[str]) -> str:
    """A sentence about words that do not add up; of long lines it has the beginning and the end."""
    return f"the words {reprlib.repr([*words])} do not add up to the line {reprlib.repr(line)}"


class LineSegmenter(Segmenter):
    """A segmenter whose library divides one text at a time.

    A subclass has the method `cut`, and its constructor sets `_identity`. The library gets texts that it can read; the
    words that it finds there become words of the line.

    Attributes:
        longest: the most characters of a text for the library. Longer lines are divided, see `split_long`. If `None`,
            none are.
    """

    longest: ClassVar[int | None] = None
    _identity: dict[str, str]

    @abstractmethod
    def cut(self, text: str) -> list[str]:
        """The words of a text, in order. They may leave out white space, and the start of the line, see `restore`.

        The library must change no character. If it would, for example since it composes accents, let `readable` give
        it a copy without these.
        """

    def readable(self, line: str) -> str:
        """A copy of equal length that the library can read."""
        return replace_surrogates(line)

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        return [self._words(line) for line in lines]

    def _words(self, line: str) -> list[str]:
        copy = self.readable(line)
        texts = split_long(copy, self.longest) if self.longest else [copy]
        try:
            return restore(line, copy, [word for text in texts for word in self.cut(text)])
        except LostTextError as error:
            raise InputError(
                f"--segmenter: {error}; use another segmenter, or let yours leave out white space only, and change no "
                "character"
            ) from error

    @property
    def identity(self) -> dict[str, str]:
        return dict(self._identity)
