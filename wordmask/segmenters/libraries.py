"""Helpers for segmenters that call a library: import it, replace surrogates, restore text that it left out."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from types import ModuleType

from wordmask.utils.errors import InputError


class LostTextError(ValueError):
    """The words of a library do not add up to the line that it got."""


def import_package(module: str, segmenter: str, distribution: str) -> ModuleType:
    """Import a package that `--segmenter SEGMENTER` needs.

    Raises:
        InputError: if it cannot be imported, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"--segmenter {segmenter} needs the package {distribution}, which cannot be imported ({error}): "
            f"pip install {distribution}"
        ) from error


_SURROGATE = re.compile("[\ud800-\udfff]")


def replace_surrogates(line: str) -> str:
    """A copy of equal length that can be encoded. A `str` may contain lone surrogates, which libraries refuse."""
    return _SURROGATE.sub("\ufffd", line)


def restore(line: str, words: Sequence[str]) -> list[str]:
    """The words of `line`, from those of `replace_surrogates(line)` or of its end.

    A library may leave out the start of a line. This becomes a word of its own, unless it is white space: with
    `line="\\x00中国"`, `words=["中国"]` gives `["\\x00", "中国"]`.

    Raises:
        LostTextError: if the words leave out anything else.
    """
    joined = "".join(words)
    if joined == line:
        return [*words]
    start = len(line) - len(joined)
    if not line.endswith(joined):
        if not replace_surrogates(line).endswith(joined):
            raise LostTextError(f"the words {words} do not add up to the line {line!r}")
        borders = accumulate(map(len, words), initial=start)  # words 2 and 1 long, after 1 character: 1, 3, 4
        words = [line[begin:end] for begin, end in pairwise(borders)]
    return [line[:start], *words] if line[:start].strip() else [*words]
