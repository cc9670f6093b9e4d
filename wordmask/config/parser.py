"""The command line parser: `--no_x` for every switch, old flags, help, errors of one sentence."""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from transformers.hf_argparser import HfArgumentParser, string_to_bool

from wordmask.config.argument_file import as_words, is_switch, read_argument_file
from wordmask.config.short_form import USAGE, split_words, words_as_flags
from wordmask.utils.errors import InputError, suggest

T = TypeVar("T")

logger = logging.getLogger(__name__)


def argument(text: str, **default: Any) -> Any:
    """A dataclass field with its help text."""
    return field(metadata={"help": text}, **default)


OFF = ("no", "false", "f", "n", "0")  # the values of a switch that is off


@dataclass(frozen=True)
class Gone:
    """An old flag without a replacement.

    Attributes:
        advice: what to do instead.
        unset: the values that asked for nothing, so that they are passed over; dumps of old arguments have them.
    """

    advice: str
    unset: Sequence[str] = OFF


@dataclass(frozen=True)
class Switch:
    """Translates an old switch: the arguments if it was on, and those if it was off."""

    then: Sequence[str] = ()
    otherwise: Sequence[str] = ()

    def __call__(self, value: str | None) -> list[str]:
        return list(self.then if is_true(value) else self.otherwise)


class Unknown(NamedTuple):
    """A word that belongs to no flag, and the argument file that has it; `None` for the command line."""

    word: str
    path: str | None = None


# What replaces an old flag: the new name for the same values; or a description, and a function from the value (`None`
# if there is none) to new arguments; or advice.
OldFlag = str | tuple[str, Callable[[str | None], list[str]]] | Gone


def is_true(value: str | None) -> bool:
    """Whether a switch with this value, or without a value, is on."""
    return value is None or string_to_bool(value)


# The flags of transformers that take several values, for a parser without them.
TRAINER_LISTS = ("include_for_metrics", "label_names", "debug")
TRUTH_VALUES = ("yes", "true", "t", "y", "1", *OFF)  # as `string_to_bool` has them

_NEGATIVE = re.compile(r"-(\.?\d|inf$)")  # how a value begins that is no flag: -1e-4, -16:1, -inf

# What argparse and transformers say of a value, and what we say.
_SENTENCES = (
    ("expected one argument$", "the value is missing; give one"),
    ("expected at least one argument$", "the value is missing; give one or more"),
    ("invalid int value: '(.*)'$", r"\1 is not a whole number; give one"),
    ("invalid float value: '(.*)'$", r"\1 is not a number; give one"),
    (r"invalid \w+ value: '(.*)'$", r"\1 is not a value of this flag; give another"),
    ("Truthy value expected: got (.*) but expected one of .*$", r"\1 is neither true nor false; give one of them"),
    (r"invalid choice: '(.*)' \(choose from (.*)\)$", r"\1 is not known; choose from \2"),
)

EPILOG = "A YAML or JSON file of flags may come first. The command line wins over it."


class Parser(HfArgumentParser):
    """The parser of `transformers` with argument files, old flags, errors of one sentence, and `--no_x` for switches.

    Args:
        concerns: the dataclasses whose fields are the flags.
        old_flags: what replaces each old flag.
        quiet: whether to use old flags without a warning.
        takes_words: whether the first words may name a model and its text, see `wordmask.config.short_form`.
        options: other parameters of `argparse.ArgumentParser`.

    Attributes:
        given: the names of the flags that the command line or its argument file gives; known after parsing.
    """

    def __init__(
        self,
        concerns: type | Sequence[type],
        old_flags: Mapping[str, OldFlag] | None = None,
        quiet: bool = False,
        takes_words: bool = False,
        **options: Any,
    ):
        options = {
            "prog": _program(),
            "usage": "%(prog)s [ARGUMENT_FILE] --flag value ...",
            "epilog": EPILOG,
        } | options
        super().__init__(concerns, allow_abbrev=False, formatter_class=HelpFormatter, **options)  # type: ignore[arg-type]
        self.old_flags, self.quiet, self.takes_words = old_flags or {}, quiet, takes_words
        self.given: set[str] = set()
        # Their absence is said after unknown flags, which may be misspelled ones.
        self.needed = [action for action in self._actions if action.required]
        for action in self.needed:
            action.required = False
        self._negative_number_matcher = _NEGATIVE  # argparse takes -1e-4 for a flag
        for action in self._actions:
            if is_switch(action) and action.nargs is None:  # a switch whose default is None
                action.nargs, action.const = "?", True
            if isinstance(action, argparse._StoreFalseAction):  # named in the help of the switch
                action.help = argparse.SUPPRESS

    def error(self, message: str) -> NoReturn:
        """Raise the sentence that argparse would print below the usage of two hundred flags."""
        sentence = re.sub(r"(--\w+)/--[\w-]+", r"\1", message.removeprefix("argument "))
        for theirs, ours in _SENTENCES:
            sentence = re.sub(theirs, ours, sentence)
        raise InputError(sentence)

    @cached_property
    def flags(self) -> dict[str, argparse.Action]:
        """The action of each flag, by the flag's name without dashes. It is asked for when all flags are there."""
        return {
            option.lstrip("-"): action
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--") and "-" not in option[2:]
        }

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse a command line. It may begin with an argument file, whose values later flags override."""
        namespace, unknown = self.parse_known(argv)
        if unknown:
            word, path = unknown[0]
            name = flag_name(word)
            nearest = suggest(name, self.flags, "" if path else "--")
            if not word.startswith("-"):
                raise InputError(f"{word} belongs to no flag of this script{nearest}")
            where = f"{path}: {name}" if path else word.partition("=")[0]
            raise InputError(f"{where} is not a flag of this script{nearest}")
        if lacking := [f"--{action.dest}" for action in self.needed if getattr(namespace, action.dest) is None]:
            raise InputError(f"{', '.join(lacking)}: the value is missing; give one")
        return namespace

    def parse_known(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[Unknown]]:
        """Parse, and also return the words that belong to no flag, those of the argument file first."""
        _check_encoding(argv)
        path, words, flags = split_words(argv)
        values = read_argument_file(path, self.flags) if path else {}
        known = {name: value for name, value in values.items() if name in self.flags or name in self.old_flags}
        unknown = [Unknown(f"--{name}", path) for name in values if name not in known]
        flags = self._modernize(flags)
        if self.takes_words:
            words = words_as_flags(words, _names(flags))
            self._check_words(flags)
        # The command line comes last, so that it wins, also where the file has a new flag and it has the old one.
        arguments = [*self._modernize(as_words(known, self.flags)), *words, *flags]
        self.given = _names(arguments)
        namespace, others = self.parse_known_args(arguments)
        return namespace, [*unknown, *map(Unknown, others)]

    def _check_words(self, flags: Sequence[str]) -> None:
        """Raise an `InputError` for a word between or after flags that is no value of the flag before it."""
        left = 0.0  # how many more values the last flag takes
        for place, word in enumerate(flags):
            if _is_flag(word):
                following = flags[place + 1] if place + 1 < len(flags) else ""
                left = 0 if "=" in word else self._values(flag_name(word).replace("-", "_"), following)
            elif left < 1:
                raise InputError(
                    f"{word} is no value of the flag before it, which takes no more; write {USAGE} before all flags"
                )
            else:
                left -= 1

    def _values(self, name: str, following: str) -> float:
        """How many values a flag takes at most, if this word follows it."""
        action = self.flags.get(name)
        if action is None:  # of transformers, or misspelled, which is said later
            lists = [name for name, action in self.flags.items() if action.nargs == "+"]
            return math.inf if name in TRAINER_LISTS or suggest(name, lists) else 1
        if is_switch(action) and action.nargs == "?":
            # argparse refuses other words, and names the switch.
            return int(following.lower() in TRUTH_VALUES or not Path(following).is_file())
        return math.inf if action.nargs in ("+", "*") else 0 if action.nargs == 0 else 1

    def _modernize(self, arguments: list[str]) -> list[str]:
        """Replace old flags, with one warning for each, and replace `--no_x` by `--x false`.

        If an old flag and the new one are both given, the new one counts.
        """
        result, left, new_flags, refused = list[str](), [*arguments], _names(arguments), list[str]()

        def translated(name: str, value: str | None) -> list[str]:
            try:
                return self._translate(name, value, new_flags)
            except InputError as error:  # all of them are said at once
                refused.append(str(error))
                return []

        while left:
            argument = left.pop(0)
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            switch = name.removeprefix("no_")
            if not argument.startswith("--") or name in self.flags:
                result.append(argument)
            elif switch != name and is_switch(self.flags.get(switch)):
                result += [f"--{switch}", "false"]
            elif name in self.old_flags:
                given = value if equals else None
                if not equals and left and not left[0].startswith("--"):
                    given = left.pop(0)
                result += translated(name, given)
            elif switch in self.old_flags:
                result += translated(switch, "false")
            else:
                result.append(argument)
        if refused:
            raise InputError("; and ".join(dict.fromkeys(refused)))
        return result

    def _translate(self, name: str, value: str | None, new_flags: Collection[str]) -> list[str]:
        """New arguments for an old flag and its value; none if a new flag of the command line says the same."""
        new = self.old_flags[name]
        if isinstance(new, Gone):
            if value is not None and value.lower() in ("", *new.unset):
                return []
            raise InputError(f"--{name} is gone: {new.advice}")
        # More values of a list may follow, as in `--train_data_file a.txt b.txt`.
        renamed = [f"--{new}", *([] if value is None else [value])]
        description, translate = (f"--{new}", None) if isinstance(new, str) else new
        try:
            arguments = translate(value) if translate else renamed
        except (ValueError, argparse.ArgumentTypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"--{name}: {value} is not a value of this flag ({error}); give another") from None
        both = sorted(_names(arguments) & {*new_flags})
        if not self.quiet and both:
            logger.warning("--%s has no effect, since --%s is given, too", name, both[0])
        elif not self.quiet:
            logger.warning("--%s", _change(name, value, description, arguments, isinstance(translate, Switch)))
        return [] if both else arguments


def _change(name: str, value: str | None, description: str, arguments: Sequence[str], is_switch: bool) -> str:
    """What became of an old flag: `adafactor false has no effect`."""
    if is_switch and not is_true(value) or value in ("0", "0.0") and not arguments:
        return f"{name} {value} is now {' '.join(arguments)}" if arguments else f"{name} {value} has no effect"
    unneeded = "" if arguments else description[description.find("not needed") :]
    return f"{name} is {unneeded}" if unneeded.startswith("not needed") else f"{name} is now {description}"


class HelpFormatter(argparse.HelpFormatter):
    """Shows each flag under one name, with its value and its default."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=min(shutil.get_terminal_size().columns - 2, 110))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        name = max(action.option_strings, key=lambda option: (option.count("_"), len(option)))
        if action.nargs == 0 or is_switch(action):
            return name
        value = {int: "N", float: "X"}.get(action.type, "VALUE")  # type: ignore[call-overload]
        value = f"{{{','.join(map(str, action.choices))}}}" if action.choices else value
        return f"{name} {value}{' ...' if action.nargs == '+' else ''}"

    def _get_help_string(self, action: argparse.Action) -> str:
        default, text = action.default, action.help or ""
        if default is True and is_switch(action):
            return f"{text} Default: on; --no_{action.dest} turns it off."
        if default is False or default in (None, "", [], argparse.SUPPRESS) or "default" in text.lower():  # 0 == False
            return text
        return f"{text} Default: {str(default).replace('%', '%%')}."


def build(concern: type[T], namespace: argparse.Namespace) -> T:
    """Make a dataclass of those flags that are its fields."""
    names = {flag.name for flag in fields(concern) if flag.init}  # type: ignore[arg-type]
    return concern(**{name: value for name, value in vars(namespace).items() if name in names})


def _program() -> str:
    """What was called: `run_mlm.py`, or `wordmask mlm` for the command of that name and `python -m wordmask`."""
    name = Path(sys.argv[0]).name
    return f"wordmask {sys.argv[1]}" if name in ("wordmask", "__main__.py") and len(sys.argv) > 1 else name


def _names(arguments: Sequence[str]) -> set[str]:
    """The names of the flags in a command line."""
    return {flag_name(word).replace("-", "_") for word in arguments if word.startswith("--")}


def _check_encoding(argv: Sequence[str]) -> None:
    """Raise an `InputError` for bytes that are not UTF-8, which Python reads as surrogates and cannot write."""
    flag = "the command line"
    for word in argv:
        flag = word.partition("=")[0] if _is_flag(word) else flag
        if re.search("[\ud800-\udfff]", word):
            value = word.removeprefix(f"{flag}=")
            try:
                os.fsencode(word).decode()
            except UnicodeError:
                raise InputError(f"{flag}: {value} has bytes that are not UTF-8; rename it") from None
            raise InputError(f"{flag}: the locale cannot read {value}, which is UTF-8; set PYTHONUTF8=1")


def _is_flag(word: str) -> bool:
    """Whether a word is a flag, and no negative number."""
    return word.startswith("-") and not _NEGATIVE.match(word) and " " not in word.partition("=")[0]


def flag_name(word: str) -> str:
    """The name in a flag, with or without a value: `seed` in `--seed` and `--seed=1`."""
    return word.partition("=")[0].lstrip("-")
