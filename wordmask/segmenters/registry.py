"""The names of segmenters: find a class by its name, check its options, and make one."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from wordmask.segmenters.base import Segmenter, contents
from wordmask.segmenters.options import converted
from wordmask.segmenters.own_class import called, explained
from wordmask.utils.errors import InputError, kind_of, naming_parameters, suggest

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
_ADVICE = "; check --segmenter_options and the class"


def register(name: str) -> Callable[[type[S]], type[S]]:
    """A decorator that registers a class under `name`, for `--segmenter` and `load_segmenter`.

    Raises:
        ValueError: if another class has this name.
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


def load_segmenter(name: str, /, tokenizer: Any = None, **options: Any) -> Segmenter:
    """Make a segmenter, which divides lines of text into words.

        >>> wordmask.load_segmenter("jieba", hmm=False).segment(["我喜欢你"])
        [['我', '喜欢', '你']]
        >>> wordmask.load_segmenter("sudachi", mode="C")
        >>> wordmask.load_segmenter("ltp", model="LTP/small")

    It can be pickled, for several processes: another process makes it again.

    Args:
        name: `jieba`, `ltp`, `pkuseg` (Chinese), `mecab`, `sudachi` (Japanese), `pythainlp` (Thai), `icu` (these, and
            Khmer, Lao and Burmese), `whitespace`, `tokenizer`, or `package.module:Class` for your own.
        tokenizer: a tokenizer, or a function that gives it, for a class that has the parameter `tokenizer`.
        options: parameters of the class, see docs/languages.md. An option that is `None` counts as not given.

    Raises:
        InputError: (a `ValueError`) as `make_segmenter` does.
    """
    if not isinstance(name, str):
        raise InputError(f"name: {kind_of(name)} is no name of a segmenter; give {', '.join(available())}")
    with naming_parameters(segmenter="load_segmenter:", segmenter_options="options", ltp="model", no_hmm="hmm"):
        return make_segmenter(name, tokenizer, **options)


def make_segmenter(name: str, /, tokenizer: Any = None, **options: Any) -> Segmenter:
    """The same as `load_segmenter`, with messages for the command line.

    Raises:
        InputError: if the name or an option is unknown, an option or package is missing, the segmenter cannot use an
            option, or a class of the user's own raises an error.
    """
    cls, parameters = check_segmenter(name, tokenizer is not None, **options)
    given = {option: value for option, value in options.items() if value is not None}
    if tokenizer and "tokenizer" in parameters:
        given["tokenizer"] = tokenizer if hasattr(tokenizer, "get_vocab") else tokenizer()
    arguments = converted(parameters, given)
    with called(cls.__module__, f"--segmenter {name}: it cannot be made", _ADVICE):
        made = cls(**arguments)
    if cls.__module__.startswith("wordmask."):
        made.made_by = partial(make_segmenter, name, **given)
    else:  # one of the user's own, which is pickled as Python does it
        object.__setattr__(made, "made_with", contents(given))  # also of a frozen dataclass
    return made


def check_segmenter(
    name: str, /, has_tokenizer: bool = True, **options: Any
) -> tuple[type[Segmenter], Mapping[str, inspect.Parameter]]:
    """The class called `name` and its parameters, without loading what it needs; see `make_segmenter`.

    Raises:
        InputError: if the name or an option is unknown, or an option is missing.
    """
    cls = _find_class(name)
    given = {option: value for option, value in options.items() if value is not None}
    with called(cls.__module__, f"--segmenter {name}: nothing says which options it takes", _ADVICE):
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
        how = "; add --segmenter_options name=value" if "=" in needed else "; give it"
        raise InputError(f"--segmenter {name} needs {needed}{how}")


def _as_flags(name: str, options: Iterable[str]) -> str:
    """How a command line gives options: `mode=, --user_dict`."""
    flags = _FLAGS | {"model": "--ltp"} if name == "ltp" else _FLAGS
    return ", ".join(flags.get(option, f"{option}=") for option in options)
