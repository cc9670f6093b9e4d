"""The options of segmenters: read from a command line or a file, and turned into what a class takes."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from wordmask.utils.errors import InputError

FLAG = "--segmenter_options"
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# The types that a word can become, and what is said of one that cannot. An annotation `int | float` takes 0.5.
_TYPES: dict[type, str] = {
    bool: "neither true nor false; give one of them",
    float: "not a number; give one",
    int: "not a whole number; give one",
}


def parse_options(text: str) -> dict[str, str]:
    """The options in `mode=C,dictionary=core`, or in a JSON object, which a mapping in a YAML file becomes.

    A comma ends a value only if a name and `=` follow it: `user_dict=a,b.txt,hmm=false` has two options. A JSON object
    may hold any value.

    Raises:
        InputError: if a part has no `=` or no name, or a name comes twice.
    """
    if text.lstrip().startswith("{"):
        return _from_json(text)
    options: dict[str, str] = {}
    for part in re.split(r",(?=\s*[^\W\d]\w*\s*=)", text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals):
            raise InputError(f"{FLAG}: {part!r} is no name=value; write for example mode=C,dictionary=core")
        if name in options:
            raise InputError(f"{FLAG}: {name} is there twice; give it once")
        options[name] = value
    return options


def _from_json(text: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"{FLAG}: {text} is no JSON object ({error}); write name=value,name=value") from None
    nested = [name for name, value in values.items() if isinstance(value, list | dict)]
    if nested:
        raise InputError(f"{FLAG}: {nested[0]} has several values; give one")
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
        if value is not None
    }


def converted(parameters: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with words, such as `false` and `8`, as the types that the parameters of a class have.

    The type is that of the annotation, or else that of the default. We leave a word as it is if a string may be given.

    Raises:
        InputError: if a word is of another type.
    """
    result = dict(options)
    for name, value in options.items():
        types = _types(parameters[name]) if name in parameters else ()
        kind = next((kind for kind in _TYPES if kind in types), None)
        if kind is None or not isinstance(value, str) or str in types:
            continue
        try:
            result[name] = _TRUTH[value.lower()] if kind is bool else kind(value)
        except (KeyError, ValueError):
            raise InputError(f"{FLAG}: {name}={value} is {_TYPES[kind]}") from None
    return result


def _types(parameter: inspect.Parameter) -> Sequence[Any]:
    if parameter.annotation is parameter.empty or isinstance(parameter.annotation, str):
        return (type(parameter.default),)
    return get_args(parameter.annotation) or (parameter.annotation,)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise an `InputError` if an option has a value that is not one of these."""
    if value not in choices:
        raise InputError(f"{FLAG}: {name}={value} is not known; give {', '.join(choices[:-1])} or {choices[-1]}")
