"""`InputError`, the error for a mistake of the user, and what makes its sentence."""

from __future__ import annotations

import contextlib
import difflib
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping


class InputError(ValueError):
    """A mistake in what the user gave: one sentence that names the flag or parameter, what was found, what to do.

    >>> wordmask.WholeWordMaskCollator(tokenizer, strategy="words")
    wordmask.InputError: strategy: words is not known; choose from token, whole_word, ngram, span, or mix them, ...
    """


def one_line(error: BaseException) -> str:
    """The message of an error on one line; its type if there is no message."""
    return " ".join(str(error).split()) or type(error).__name__


def from_worker(error: InputError) -> InputError:
    """The mistake that a worker of a `DataLoader` has found, without the traceback that torch puts around it."""
    if not str(error).startswith("Caught InputError in"):
        return error
    return InputError(str(error).rpartition("InputError: ")[2].strip())


def with_article(name: str) -> str:
    """A name as a reader says it: `a BertForMaskedLM`, `an ElectraForMaskedLM`, `an FNetForMaskedLM`."""
    return f"{'an' if re.match('[AEIOUXaeioux]|[FHLMNRS][A-Z]', name) else 'a'} {name}"


def kind_of(value: object) -> str:
    """What a value is, for a sentence: `None`, `a str`, `an int`, or `the class BertTokenizer`."""
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else with_article(type(value).__name__)


def suggest(name: str, known: Iterable[str], dashes: str = "", most: int = 1) -> str:
    """`(did you mean --train_file?)`, the most similar known names; with dashes for flags of the command line."""
    nearest = difflib.get_close_matches(name, list(known), n=most)
    return f" (did you mean {' or '.join(dashes + one for one in nearest)}?)" if nearest else ""


def first_of(conditions: Mapping[str, object]) -> str | None:
    """The first name whose condition holds, such as a flag that is given; `None` if none does."""
    return next((name for name, holds in conditions.items() if holds), None)


@contextlib.contextmanager
def reported(sentence: str | Callable[[Exception, str], str], advice: str = "") -> Iterator[None]:
    """Turn any exception into an `InputError`: the sentence, the error in brackets, and the advice.

    Libraries raise all kinds of exceptions for wrong settings and damaged files. Their messages can be paragraphs,
    and LTP's end with a backtrace, so we keep at most 240 characters.

    Args:
        sentence: the start of the sentence; or a function of the error and its message that gives the whole one.
        advice: the end of the sentence.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        message = str(error).split("Stack backtrace", 1)[0].strip()
        cause = f"{type(error).__name__}: {message}" if message else type(error).__name__
        cause = textwrap.shorten(cause, 240, placeholder=" …")
        raise InputError(
            f"{sentence} ({cause}){advice}" if isinstance(sentence, str) else sentence(error, cause)
        ) from error


@contextlib.contextmanager
def naming_parameters(**renamed: str) -> Iterator[None]:
    """For the Python API: let an `InputError` name parameters, `seed`, and not flags, `--seed`.

    Args:
        renamed: the parameters that have another name than their flag.
    """
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"(?<!\S)--(\w+)", lambda flag: renamed.get(flag[1], flag[1]), str(error))) from None
