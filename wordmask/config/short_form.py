"""The short form, `run_mlm_wwm.py MODEL train.txt [dev.txt]`: its words, its defaults and its output directory.

docs/adapt.md has the same table of defaults.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from wordmask.utils.errors import InputError
from wordmask.utils.readers.paths import find_text_files, short_name

WORDS = ("model_name_or_path", "train_file", "validation_file")  # the flags that the words stand for, in order
USAGE = "MODEL train.txt [dev.txt]"
FILE_SUFFIXES = (".yaml", ".yml", ".json")  # of argument files

# `--log_format plain` on a command line, or `log_format: plain` in an argument file.
_LOG_FORMAT = re.compile(
    r"""(?:--log[_-]format(?:\s+|=)|(?:^|[{,])\s*["']?log_format["']?\s*:\s*["']?)(rich|plain)\b""", re.MULTILINE
)

Value = float | int | str | bool

# How the short form continues the training of a model, unless a flag or the argument file says otherwise.
# docs/adapt.md has the same table, with the reason for each value.
DEFAULTS: dict[str, Value] = {
    "learning_rate": 5e-5,
    "warmup_steps": 0.06,
    "weight_decay": 0.01,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32,
    "long_lines": "split",
    "eval_strategy": "steps",
    "eval_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.1,
    "save_total_limit": 2,
    "load_best_model_at_end": True,
}


def split_words(argv: Sequence[str]) -> tuple[str | None, list[str], list[str]]:
    """The argument file, the words, and the flags of a command line.

    Words stand before the first flag, so that none is taken for the value of a flag. Only the first word can be the
    argument file: `run.json bert text.json` is a file, a model and a text.
    """
    first_flag = next((place for place, word in enumerate(argv) if word.startswith("-")), len(argv))
    words, flags = list(argv[:first_flag]), list(argv[first_flag:])
    path = words.pop(0) if words and words[0].endswith(FILE_SUFFIXES) else None
    return path, words, flags


def is_short_form(argv: Sequence[str]) -> bool:
    """Whether a command line names its model by a word."""
    return bool(split_words(argv)[1])


def asked_format(argv: Sequence[str]) -> str | None:
    """The value of --log_format on a command line or in its argument file, before anything is parsed."""
    path, _, flags = split_words(argv)
    texts = [" ".join(flags)]
    if path:
        with contextlib.suppress(OSError, ValueError):
            texts.append(Path(path).read_text(encoding="utf-8"))
    found = next(filter(None, map(_LOG_FORMAT.search, texts)), None)
    return found[1] if found else None


def words_as_flags(words: Sequence[str], flags: Collection[str]) -> list[str]:
    """The flags that words stand for.

    Args:
        words: the words of a command line.
        flags: the names of the flags on that command line.

    Raises:
        InputError: if there are too many words, if the first is a file, or if a flag says the same as a word.
    """
    if len(words) > len(WORDS):
        raise InputError(
            f"{words[3]}: the short form takes {USAGE} and then flags; give several files as one pattern in quotation "
            "marks, such as 'data/*.txt', or by --train_file"
        )
    if words and os.path.isfile(words[0]):
        raise InputError(f"{words[0]} is a file, and the model comes first; give {USAGE}")
    given = dict(zip(WORDS, words, strict=False))
    for name, word in given.items():
        if name in flags:
            raise InputError(f"{word} and --{name} say the same thing; drop one of them")
    return [part for name, word in given.items() for part in (f"--{name}", word)]


def check_files(
    model: str | None, train: Sequence[str] | None, validation: Sequence[str] | None, has_config: bool = False
) -> None:
    """Raise an `InputError` if a file is missing, or if the model is neither a model's directory nor a hub id.

    `has_config` says that the configuration of the model comes from elsewhere.
    """
    name = str(model)
    if not os.path.isdir(name):
        try:
            validate_repo_id(name)
        except HFValidationError:
            raise InputError(f"{name} is neither a directory nor the id of a model on the hub; give {USAGE}") from None
    elif not (has_config or os.path.exists(os.path.join(name, "config.json"))):
        raise InputError(f"{name} holds no model (no config.json), and the model comes first; give {USAGE}")
    for flag, files in (("--train_file", train), ("--validation_file", validation)):
        find_text_files(files or [], flag)


def apply_defaults(namespace: argparse.Namespace, given: Collection[str]) -> dict[str, Value]:
    """Set the defaults of the short form in a namespace.

    Args:
        namespace: all flags of a training script.
        given: the names of those that the user gives.

    Returns:
        The defaults that were set.
    """
    defaults: dict[str, Value | None] = {**DEFAULTS, **_schedule(namespace, given)}
    if "max_steps" in given:  # which counts instead
        defaults["num_train_epochs"] = None
    chosen = {name: value for name, value in defaults.items() if name not in given and value is not None}
    for name, value in chosen.items():
        setattr(namespace, name, value)
    return chosen


def _schedule(namespace: argparse.Namespace, given: Collection[str]) -> dict[str, Value | None]:
    """The defaults of evaluating and saving, which follow what the user gives of the two.

    `--eval_strategy epoch` saves each epoch, too, and `--save_steps 50` evaluates every 50 steps, so that the best
    model can be loaded at the end.
    """
    flags = vars(namespace)

    def chosen(name: str, follows: str, unless: tuple[str, ...] = ()) -> Value:
        if name in given:
            return flags[name]
        return flags[follows] if follows in given and str(flags[follows]) not in unless else DEFAULTS[name]

    evaluates = bool(flags["validation_file"] or flags["dataset_name"] or flags["prepared_dir"]) or not (
        flags["streaming"] or flags["validation_split_percentage"] == 0
    )
    schedule = {
        "eval_strategy": chosen("eval_strategy", "save_strategy", ("no", "best")) if evaluates else "no",
        "save_strategy": chosen("save_strategy", "eval_strategy", ("no",)),
        "eval_steps": chosen("eval_steps", "save_steps"),
        "save_steps": chosen("save_steps", "eval_steps"),
    }
    evaluation, saving = str(schedule["eval_strategy"]), str(schedule["save_strategy"])
    together = evaluation == saving and (evaluation != "steps" or schedule["eval_steps"] == schedule["save_steps"])
    best = evaluation != "no" and (together or saving == "best")
    unused = {"eval_steps": evaluation != "steps", "save_steps": saving != "steps", "load_best_model_at_end": not best}
    return schedule | {name: None for name, is_unused in unused.items() if is_unused}


def describe(defaults: Mapping[str, Value]) -> str:
    """Defaults for people: `learning_rate 5e-5, long_lines split`."""

    def shown(value: Value) -> str:
        return "on" if value is True else value if isinstance(value, str) else f"{value:g}".replace("e-0", "e-")

    return ", ".join(f"{name} {shown(value)}" for name, value in defaults.items())


def choose_output_dir(own: argparse.Namespace) -> str | None:
    """Make a new output directory, in a dry run only its name; `None` if the user names one or the run needs none.

    Raises:
        InputError: if it cannot be made.
    """
    if own.output_dir is not None or own.preview_masking or own.prepare_only:
        return None
    [text, *_] = own.train_file or own.validation_file or [own.dataset_name or own.prepared_dir or "text"]
    names_repository = own.push_to_hub and not own.hub_model_id
    return new_output_dir(own.model_name_or_path, text, make=not own.dry_run, names_repository=names_repository)


def new_output_dir(
    model: str,
    text: str,
    now: Callable[[], datetime] = datetime.now,
    make: bool = True,
    names_repository: bool = False,
) -> str:
    """Make a directory named after the model, the text and the time, `output/bert-reviews-20261126-0914`.

    Without `make`, this is only the name that it would get.

    Names have letters and digits of every script, dots and hyphens; if a repository of the hub is named after the
    directory, ASCII only, as the hub asks for.

    Raises:
        InputError: if it cannot be made.
    """
    safe = [_safe(part, length, names_repository) for part, length in ((model, 40), (short_name(text), 30))]
    name = f"{'-'.join(safe)}-{now():%Y%m%d-%H%M}"
    for number in count(1):
        directory = Path("output", name if number == 1 else f"{name}-{number}")
        if not make and not directory.exists():
            return str(directory)
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            if not os.path.isdir("output"):
                raise InputError("--output_dir: output is a file here; give another directory") from None
            continue
        except OSError as error:
            raise InputError(
                f"--output_dir: {directory} cannot be made ({error.strerror}); give another directory"
            ) from None
        return str(directory)
    raise AssertionError("count never ends")


def _safe(name: str, length: int, ascii_only: bool) -> str:
    """The last part of a path, in safe characters: so many at most, and three times as many bytes."""

    def is_safe(character: str) -> bool:
        # A vowel sign, as in Hindi, is a mark (M) and no letter.
        is_letter = character.isalnum() or unicodedata.category(character).startswith("M")
        return (is_letter or character == ".") and (character.isascii() or not ascii_only)

    characters = unicodedata.normalize("NFC", Path(name).name)
    safe = re.sub("-+", "-", "".join(character if is_safe(character) else "-" for character in characters))
    short = re.sub(r"\.+", ".", safe)[:length].encode()[: 3 * length].decode(errors="ignore")  # 255 bytes to a name
    return short.strip(".-") or "x"
