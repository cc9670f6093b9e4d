"""Sources of words: the interface of a segmenter, and the registry that finds one by name.

A segmenter of your own is a subclass of `Segmenter`, named on the command line as `package.module:Class` or
registered under a short name:

    @register("characters")
    class CharacterSegmenter(Segmenter):
        def segment(self, lines):
            return [list(line) for line in lines]

Importing this package imports none of the libraries that do the work; a segmenter imports its own when it is made.
"""

from __future__ import annotations

import importlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from wordmask.utils.errors import InputError

__all__ = ["Segmenter", "available", "load_segmenter", "register", "words_of"]


class Segmenter(ABC):
    """Cuts lines of text into words.

    The parameters of the constructor are the options that `load_segmenter` passes on.

    Attributes:
        any_script: whether `--segmenter` takes words without a Chinese character from it, too, when training. If not,
            such words are by the rule for text: a Chinese segmenter knows little of other languages.
    """

    any_script: ClassVar[bool] = False

    @abstractmethod
    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        """For each line its words, in order: `["研究生命。"]` gives `[["研究", "生命", "。"]]`.

        The words of a line, joined, are the line but for white space: that may be missing between two words and at
        either end, stand inside a word, or be a word. A line without words gives an empty list, no lines give none.
        """

    @property
    def identity(self) -> dict[str, str]:
        """What the words depend on, for provenance: at least a name; versions and a digest of the model, if any.

        Equal identities promise equal words, but for rounding in a neural model. It says nothing of the machine: no
        paths, no device.
        """
        return {"name": f"{type(self).__module__}:{type(self).__qualname__}"}


def words_of(segmenter: Segmenter, lines: Sequence[str]) -> list[list[str]]:
    """For each line its words, as `Segmenter.segment` gives them.

    Raises:
        InputError: where a segmenter does not give as many lists as there are lines.
    """
    words = segmenter.segment(lines)
    if len(words) != len(lines):
        raise InputError(
            f"--segmenter: {type(segmenter).__module__}:{type(segmenter).__qualname__} gave {len(words)} lists of "
            f"words for {len(lines)} lines; let its method segment return one for each line, if need be an empty one"
        )
    return words


S = TypeVar("S", bound=Segmenter)

# A class, or where to import it from: the built-in ones wait until they are asked for.
_REGISTRY: dict[str, str | type[Segmenter]] = {
    "jieba": "wordmask.segmenters.jieba:JiebaSegmenter",
    "ltp": "wordmask.segmenters.ltp:LTPSegmenter",
    "whitespace": "wordmask.segmenters.whitespace:WhitespaceSegmenter",
}

# The flag a user sees; an option without one goes by its own name.
_FLAGS = {"model": "--ltp", "user_dict": "--user_dict", "hmm": "--no_hmm"}


def register(name: str) -> Callable[[type[S]], type[S]]:
    """Decorator that makes a class known to `load_segmenter` as `name`.

    Raises:
        ValueError: where the name is taken.
    """

    def add(cls: type[S]) -> type[S]:
        if name in _REGISTRY:
            raise ValueError(f"a segmenter named {name!r} is registered already: {_REGISTRY[name]}")
        _REGISTRY[name] = cls
        return cls

    return add


def available() -> list[str]:
    """The registered names, sorted."""
    return sorted(_REGISTRY)


def load_segmenter(name: str, /, **options: Any) -> Segmenter:
    """Make the segmenter called `name`: a registered name, or `package.module:Class`.

    An option that is `None` counts as not given; every other one has to be a parameter of the segmenter's class.

    Raises:
        InputError: where the name or an option is unknown, a needed option or package is missing, or the segmenter
            cannot use what it was given.
    """
    cls = _find_class(name)
    given = {option: value for option, value in options.items() if value is not None}
    _check_options(name, cls, given)
    return cls(**given)


def _find_class(name: str) -> type[Segmenter]:
    entry = _REGISTRY.get(name, name)
    if not isinstance(entry, str):
        return entry
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", entry):
        raise InputError(
            f"--segmenter {name}: no such segmenter; choose from {', '.join(available())}, "
            "or name a class of your own as package.module:Class"
        )
    module_name, class_name = entry.split(":")
    try:
        cls = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        raise InputError(f"--segmenter {name}: cannot import {module_name} ({error}); is it on PYTHONPATH?") from error
    if not (isinstance(cls, type) and issubclass(cls, Segmenter)):
        raise InputError(
            f"--segmenter {name}: {module_name} has no class {class_name} derived from wordmask.segmenters.Segmenter"
        )
    return cls


def _check_options(name: str, cls: type[Segmenter], given: dict[str, Any]) -> None:
    parameters = inspect.signature(cls).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    unknown = [option for option in given if option not in known]
    if unknown:
        takes = f"it takes {_as_flags(known)}" if known else "it takes no options"
        raise InputError(f"--segmenter {name} cannot use {_as_flags(unknown)}; {takes}")
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
    if missing:
        raise InputError(f"--segmenter {name} needs {_as_flags(missing)}")


def _as_flags(options: list[str]) -> str:
    return ", ".join(_FLAGS.get(option, option) for option in options)


def import_package(module: str, segmenter: str, distribution: str) -> ModuleType:
    """Import what `--segmenter SEGMENTER` works with.

    Raises:
        InputError: where it cannot be imported, with the line that installs it.
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
    """A copy of equal length that can be encoded: compiled libraries refuse the lone surrogates a `str` may hold."""
    return _SURROGATE.sub("\ufffd", line)


def restore(line: str, words: list[str]) -> list[str]:
    """The words of `line`, from those of `replace_surrogates(line)`, which may lack its start.

    What they lack comes back as a word of its own unless it is white space: with `line="\\x00中国"`, `words=["中国"]`
    gives `["\\x00", "中国"]`.

    Raises:
        ValueError: where they lack anything else.
    """
    joined = "".join(words)
    if joined == line:
        return words
    start = len(line) - len(joined)
    if not line.endswith(joined):
        if not replace_surrogates(line).endswith(joined):
            raise ValueError(f"the words {words} do not add up to the line {line!r}")
        borders = accumulate(map(len, words), initial=start)
        words = [line[begin:end] for begin, end in pairwise(borders)]
    return [line[:start], *words] if line[:start].strip() else words
