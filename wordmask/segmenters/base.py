"""The base class of all segmenters, and what is asked of one: its words and its identity."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, ClassVar

from wordmask.segmenters.own_class import called
from wordmask.utils.errors import InputError, kind_of


class Segmenter(ABC):
    """Splits lines of text into words. One of your own is a class with one method:

        class Pairs(wordmask.Segmenter):
            def segment(self, lines):
                return [[line[place : place + 2] for place in range(0, len(line), 2)] for line in lines]

    `load_segmenter` passes its options on to the constructor. One of ours that it made is pickled by its name and its
    options, since dictionaries and models of libraries cannot be.

    Attributes:
        made_with: the options of one that is not ours, see `contents`.
        made_by: makes one of ours again; `None` for others.
        any_script: whether its words count in scripts that are written with spaces, too: làm_việc is three words by
            the rule for text. If not, such text follows the rule, and so does a word with white space in it, such as
            `học sinh`. In Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan text the words always count, see
            `wordmask.tokenization.words`.
        scripts: the scripts without spaces that it was made for, by their names in Unicode; empty if it does not say.
    """

    any_script: ClassVar[bool] = False
    scripts: ClassVar[Collection[str]] = ()
    made_with: Mapping[str, str] = MappingProxyType({})
    made_by: Callable[[], Segmenter] | None = None

    @abstractmethod
    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        """For each line its words, in order: `["研究生命。"]` gives `[["研究", "生命", "。"]]`.

        The joined words of a line must be the line, except for white space: this may be missing between words and at
        both ends, be inside a word, or be a word. A line without words gives an empty list. No lines give no lists.
        """

    def __reduce_ex__(self, protocol: Any) -> Any:
        """How it is pickled. With its identity, so that datasets' cache knows when a dictionary changes."""
        if self.made_by is None:
            return super().__reduce_ex__(protocol)
        return _made_again, (self.made_by, self.identity)

    @property
    def identity(self) -> dict[str, str]:
        """What the words depend on: a name, and versions and a digest of the model if there are any.

        Segmenters with equal identities give equal words, except for rounding in a neural model. It has no paths and
        no device, so it is the same on every machine. A class of the user's own that does not say otherwise has the
        code of its module, and its options: of a file, the content. Override it if words depend on more, such as a
        model or another module.
        """
        return _own_identity(self)


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(options: Mapping[str, Any]) -> dict[str, str]:
    """What the options of a segmenter say now: for the name of a file, the digest of its content.

    Objects are left out, since they look different in each process.
    """
    said = {}
    for name, value in options.items():
        if isinstance(value, str | os.PathLike) and os.path.isfile(value):
            said[name] = file_digest(value)
        elif isinstance(value, set | frozenset):
            said[name] = str(sorted(map(str, value)))
        elif isinstance(value, str | int | float | list | tuple | dict | os.PathLike) and name != "device":
            said[name] = str(value)
    return said


def _own_identity(segmenter: Segmenter) -> dict[str, str]:
    options = {f"option {name}": value for name, value in segmenter.made_with.items()}
    return {"name": _name_of(segmenter), **options, "code": _code_of(type(segmenter))}


def _code_of(cls: type) -> str:
    """The digest of the module that a class is in; `unknown` if its code is in no file."""
    try:
        return hashlib.sha256(inspect.getsource(sys.modules[cls.__module__]).encode()).hexdigest()
    except (OSError, TypeError, KeyError):
        return "unknown"


def _made_again(make: Callable[[], Segmenter], _identity: dict[str, str]) -> Segmenter:
    return make()


def words_of(segmenter: Segmenter, lines: Sequence[str]) -> list[list[str]]:
    """For each line its words, as `Segmenter.segment` gives them.

    Raises:
        InputError: if a segmenter does not give one list of strings for each line, or one of the user's own raises an
            error.
    """
    with called(
        type(segmenter).__module__,
        lambda: f"--segmenter: {_name_of(segmenter)} cannot segment {_failing(segmenter, lines)}",
        "; repair its method segment",
    ):
        words = segmenter.segment([*lines])  # a list of its own, which it may change
    if _is_no_list(words):
        wrong = f"{kind_of(words)}, not a list"
    elif bad := [*filter(_is_no_list, {type(one): one for one in words}.values())]:  # one of each class is enough
        wrong = f"{kind_of(bad[0])} for a line, not a list"
    elif not all(issubclass(kind, str) for kind in set(map(type, chain.from_iterable(words)))):
        wrong = "words that are no strings"
    elif len(words) != len(lines):
        wrong = f"{len(words)} lists of words for {len(lines)} lines"
    else:
        return words
    raise InputError(
        f"--segmenter: {_name_of(segmenter)} gave {wrong}; let its method segment return one list of strings for each "
        "line, which may be empty"
    )


def _is_no_list(value: Any) -> bool:
    return isinstance(value, str) or not isinstance(value, Collection)


def identity_of(segmenter: Segmenter) -> dict[str, str]:
    """What the words depend on, see `Segmenter.identity`.

    Raises:
        InputError: if a segmenter of the user's own does not give a dictionary that JSON can hold.
    """
    start = f"--segmenter: the identity of {_name_of(segmenter)} cannot be used"
    with called(type(segmenter).__module__, start, "; let it be a dictionary of strings"):
        values = {"name": _name_of(segmenter)} | dict(segmenter.identity)
        identity = {str(name): one if isinstance(one, str) else json.dumps(one) for name, one in values.items()}
    is_ours = type(segmenter).__module__.startswith("wordmask.")
    defined_in = next(cls.__module__ for cls in type(segmenter).__mro__ if "identity" in vars(cls))
    if is_ours or not defined_in.startswith("wordmask."):
        return identity
    return identity | _own_identity(segmenter)  # of a class that is derived from one of ours


def _name_of(segmenter: Segmenter) -> str:
    """How the command line names a class."""
    module = type(segmenter).__module__.replace("__mp_main__", "__main__")  # as a worker calls it
    return f"{module}:{type(segmenter).__qualname__}"


def _failing(segmenter: Segmenter, lines: Sequence[str]) -> str:
    """The first line that a segmenter alone cannot segment, for a message."""
    for line in lines:
        try:
            segmenter.segment([line])
        except (Exception, SystemExit):
            return repr(line if len(line) <= 40 else f"{line[:40]}…")
    return f"{len(lines)} lines at once"
