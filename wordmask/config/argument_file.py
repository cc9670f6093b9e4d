"""The argument file: flags and their values in YAML or JSON, and the words of a command line that they stand for."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers.hf_argparser import string_to_bool

from wordmask.utils.errors import InputError, one_line


def is_switch(action: argparse.Action | None) -> bool:
    """Whether a flag can be on or off."""
    return action is not None and action.type is string_to_bool


# What the record of a run holds beside its arguments.
IN_RECORD = (
    *("script", "versions", "processes", "trains", "described", "resumes"),
    *("identity", "changed_arguments", "arguments"),
)


class _Loader(yaml.SafeLoader):
    """Reads YAML, and refuses a name that comes twice. YAML and JSON would take the last value without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):  # anything else is refused there
            _once([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return super().construct_mapping(node, deep)


class _Number(str):
    """A number in YAML, as it is written, since a name may look like one.

    `output_dir: 1.10` and `output_dir: 2026_11_29` would be 1.1 and 20261129, and `seed: 010` would be 8.
    """


def _as_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _as_number(loader: _Loader, node: yaml.ScalarNode) -> _Number:
    return _Number(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _as_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _as_number)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _as_text)
# YAML 1.1 wants a dot and a sign in a number with an exponent. Without them, as in 1e-6 or 1.5e3, it would be text.
_WITH_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _WITH_EXPONENT, list("-+.0123456789"))


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    _once([name for name, _ in pairs])
    return dict(pairs)


def _once(names: Sequence[str]) -> None:
    """Raise a `ValueError` for a name that comes twice."""
    if twice := next((name for name, times in Counter(names).items() if times > 1), None):
        raise ValueError(f"{twice} is in it twice; keep one of them")


def read_argument_file(path: str, flags: Mapping[str, argparse.Action]) -> dict[str, object]:
    """The names and values in an argument file; of the record of a run, those of its flags.

    Args:
        path: the file.
        flags: the action of each flag, by its name; `no_bf16: true` becomes `bf16: false`.

    Raises:
        InputError: if it cannot be read, or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors write a byte order mark
        values = json.loads(text, object_pairs_hook=_object) if path.endswith(".json") else yaml.load(text, _Loader)
    except FileNotFoundError:
        raise InputError(f"the argument file {path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the argument file {path} cannot be read: {one_line(error)}") from None
    except yaml.YAMLError as error:
        raise InputError(f"the argument file {path} is not YAML: {one_line(error)}") from None
    if isinstance(values, dict) and isinstance(values.get("arguments"), dict):
        if beside := [name for name in values if name not in IN_RECORD]:
            raise InputError(f"the argument file {path}: {beside[0]} is not read beside arguments; move it in there")
        values = values["arguments"]
    if not isinstance(values, dict) or not all(type(name) is str for name in values):
        raise InputError(f"the argument file {path} does not hold names with values, such as learning_rate: 1e-4")
    return dict(_positive(name, value, flags) for name, value in values.items())


def _with_numbers(value: Any) -> Any:
    """Settings such as `{num_decay_steps: 10}` with the numbers that YAML finds in them."""
    if isinstance(value, dict):
        return {name: _with_numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_numbers(one) for one in value]
    if isinstance(value, _Number):
        return float(value) if _WITH_EXPONENT.match(value) else yaml.safe_load(value)
    return value


def _positive(name: str, value: object, flags: Mapping[str, argparse.Action]) -> tuple[str, object]:
    """A flag of an argument file without `no_`: `no_bf16: true` is `bf16: false`."""
    switch = name.removeprefix("no_")
    if switch == name or not isinstance(value, bool) or not is_switch(flags.get(switch)):
        return name, value
    return switch, not value


def as_words(values: Mapping[str, object], flags: Mapping[str, argparse.Action]) -> list[str]:
    """The words of a command line that say the same, so that the same checks apply.

    Args:
        values: the value of each flag in an argument file.
        flags: the action of each flag, by its name.

    Raises:
        InputError: for a list where a flag takes one value.
    """
    arguments = []
    for name, value in values.items():
        if value is None or value == []:
            continue
        if isinstance(value, bool) and name in flags and not is_switch(flags[name]):
            value = "yes" if value else "no"  # YAML reads `eval_strategy: no` as false
        if isinstance(value, dict):
            value = json.dumps(_with_numbers(value))
        elif isinstance(value, list):
            if name in flags and flags[name].nargs not in ("+", "*"):
                raise InputError(f"--{name}: {_with_numbers(value)} in the argument file is a list; give one value")
            arguments += [f"--{name}", *map(str, value)]
            continue
        # As one word, since a value may begin with a dash.
        arguments.append(f"--{name}={value}")
    return arguments
