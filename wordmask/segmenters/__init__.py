"""Segmenters split text into words: their interface, and a registry that finds one by name.

Write your own segmenter as a subclass of `Segmenter`. On the command line, name it as `package.module:Class`. In
Python, you can also register it under a short name:

    @register("characters")
    class CharacterSegmenter(Segmenter):
        def segment(self, lines):
            return [list(line) for line in lines]

If a library finds the words, `wordmask.segmenters.libraries.LineSegmenter` gives it lines that it can read.

Override `identity` if the words depend on a model, an option or the version of a library: the cache keeps tokens by
it. Set `any_script = True` if your words also count in scripts that are written with spaces.

`--segmenter_options name=value` passes parameters of your class. `_REGISTRY` lists the segmenters of this package.
Importing this package imports no library such as jieba. A segmenter imports its library when you make one.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, TypeVar

from wordmask.segmenters.options import converted
from wordmask.segmenters.own_class import called, explained
from wordmask.utils.errors import InputError, suggest

__all__ = ["Segmenter", "available", "identity_of", "load_segmenter", "register", "words_of"]


class Segmenter(ABC):
    """Splits lines of text into words.

    `load_segmenter` passes its options on to the constructor.

    Attributes:
        any_script: whether its words also join text of other scripts than those that are written without spaces:
            làm_việc, three words by the rule for text. If not, such text follows the rule. In Chinese, Japanese, Thai,
            Lao, Khmer, Burmese and Tibetan text the words always count, see `wordmask.tokenization.words`.
    """

    any_script: ClassVar[bool] = False

    @abstractmethod
    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        """For each line its words, in order: `["研究生命。"]` gives `[["研究", "生命", "。"]]`.

        The joined words of a line must be the line, except for white space: this may be missing between words and at
        both ends, be inside a word, or be a word. A line without words gives an empty list. No lines give no lists.
        """

    @property
    def identity(self) -> dict[str, str]:
        """What the words depend on: a name, and versions and a digest of the model if there are any.

        Segmenters with equal identities give equal words, except for rounding in a neural model. It has no paths and
        no device, so it is the same on every machine.
        """
        return {"name": _name_of(self)}


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
        words = segmenter.segment(lines)
    if not isinstance(words, Collection) or any(isinstance(w, str) or not isinstance(w, Collection) for w in words):
        wrong = "words that are in no list"
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


def identity_of(segmenter: Segmenter) -> dict[str, str]:
    """What the words depend on, see `Segmenter.identity`.

    Raises:
        InputError: if a segmenter of the user's own does not give a dictionary that JSON can hold.
    """
    start = f"--segmenter: the identity of {_name_of(segmenter)} cannot be used"
    with called(type(segmenter).__module__, start, "; let it be a dictionary of strings"):
        return dict(json.loads(json.dumps(segmenter.identity)))


def _name_of(segmenter: Segmenter) -> str:
    """How the command line names a class."""
    return f"{type(segmenter).__module__}:{type(segmenter).__qualname__}"


def _failing(segmenter: Segmenter, lines: Sequence[str]) -> str:
    """The first line that a segmenter alone cannot segment, for a message."""
    for line in lines:
        try:
            segmenter.segment([line])
        except Exception:
            return repr(line if len(line) <= 40 else f"{line[:40]}…")
    return f"{len(lines)} lines at once"


S = TypeVar("S", bound=Segmenter)

# A class, or the path to import it from. We import built-in segmenters when someone asks for them.
_REGISTRY: dict[str, str | type[Segmenter]] = {
    "icu": "wordmask.segmenters.icu:ICUSegmenter",
    "jieba": "wordmask.segmenters.jieba:JiebaSegmenter",
    "ltp": "wordmask.segmenters.ltp:LTPSegmenter",
    "mecab": "wordmask.segmenters.mecab:MecabSegmenter",
    "pkuseg": "wordmask.segmenters.pkuseg:PkusegSegmenter",
    "pythainlp": "wordmask.segmenters.pythainlp:PyThaiNLPSegmenter",
    "sudachi": "wordmask.segmenters.sudachi:SudachiSegmenter",
    "tokenizer": "wordmask.segmenters.tokenizer:TokenizerSegmenter",
    "whitespace": "wordmask.segmenters.whitespace:WhitespaceSegmenter",
}

# The options that have a flag of their own. The others are given by `--segmenter_options name=value`.
_FLAGS = {"user_dict": "--user_dict", "hmm": "--no_hmm"}


def register(name: str) -> Callable[[type[S]], type[S]]:
    """A decorator that registers a class for `load_segmenter` under `name`.

    Raises:
        ValueError: if another class has this name.
    """

    def add(cls: type[S]) -> type[S]:
        if name in _REGISTRY:
            raise ValueError(f"a segmenter named {name!r} is registered already: {_REGISTRY[name]}")
        _REGISTRY[name] = cls
        return cls

    return add


ADVICE = "; check --segmenter_options and the class"


def available() -> list[str]:
    """The registered names, sorted."""
    return sorted(_REGISTRY)


def load_segmenter(name: str, /, tokenizer: Callable[[], Any] | None = None, **options: Any) -> Segmenter:
    """Make the segmenter called `name`: a registered name, or `package.module:Class`.

    Args:
        name: the name.
        tokenizer: gives the tokenizer of the run, for a class that has the parameter `tokenizer`.
        options: parameters of the class. An option that is `None` counts as not given.

    Raises:
        InputError: if the name or an option is unknown, an option or package is missing, the segmenter cannot use an
            option, or a class of the user's own raises an error.

    Example: `load_segmenter("sudachi", mode="C")`.
    """
    cls, parameters = check_segmenter(name, tokenizer is not None, **options)
    given = {option: value for option, value in options.items() if value is not None}
    if tokenizer and "tokenizer" in parameters:
        given["tokenizer"] = tokenizer()
    arguments = converted(parameters, given)
    with called(cls.__module__, f"--segmenter {name}: it cannot be made", ADVICE):
        return cls(**arguments)


def check_segmenter(
    name: str, /, has_tokenizer: bool = True, **options: Any
) -> tuple[type[Segmenter], Mapping[str, inspect.Parameter]]:
    """The class called `name` and its parameters, without loading what it needs; see `load_segmenter`.

    Raises:
        InputError: if the name or an option is unknown, or an option is missing.
    """
    cls = _find_class(name)
    given = {option: value for option, value in options.items() if value is not None}
    with called(cls.__module__, f"--segmenter {name}: nothing says which options it takes", ADVICE):
        parameters = _parameters(cls)
    own = {option: p for option, p in parameters.items() if not (has_tokenizer and option == "tokenizer")}
    _check_options(name, own, given)
    return cls, parameters


def _find_class(name: str) -> type[Segmenter]:
    entry = _REGISTRY.get(name, name)
    if not isinstance(entry, str):
        return entry
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", entry):
        raise InputError(
            f"--segmenter {name}: no such segmenter{suggest(name, available())}; choose from "
            f"{', '.join(available())}, or name your own class as package.module:Class"
        )
    module_name, class_name = entry.split(":")
    start = f"--segmenter {name}: cannot import {module_name}"
    with explained(module_name, start, "; is it right and on PYTHONPATH?"):
        cls = getattr(importlib.import_module(module_name), class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, Segmenter)):
        raise InputError(
            f"--segmenter {name}: {module_name} has no class {class_name} derived from wordmask.segmenters.Segmenter"
        )
    return cls


def _parameters(cls: type[Segmenter]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(cls, eval_str=True).parameters
    except Exception:  # an annotation may name what only a type checker imports
        return inspect.signature(cls).parameters


def _check_options(name: str, parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> None:
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    unknown = [option for option in given if option not in parameters]
    if unknown:
        takes = f"it takes {_as_flags(name, parameters)}" if parameters else "it takes no options"
        raise InputError(f"--segmenter {name} cannot use {_as_flags(name, unknown)}; {takes}")
    missing = [option for option, p in parameters.items() if p.default is p.empty and option not in given]
    if missing:
        needed = _as_flags(name, missing)
        how = "; add --segmenter_options name=value" if "=" in needed else "; add it"
        raise InputError(f"--segmenter {name} needs {needed}{how}")


def _as_flags(name: str, options: Iterable[str]) -> str:
    """How a command line gives options: `mode=, --user_dict`."""
    flags = _FLAGS | {"model": "--ltp"} if name == "ltp" else _FLAGS
    return ", ".join(flags.get(option, f"{option}=") for option in options)
